"""The reference of a method's options, as Markdown, made from what its code reads."""

from ..methods import METHODS, Option


def options_page(name: str) -> str:
    """Return the page of a method; raises UnknownName with the nearest names."""
    method = METHODS.find(name)
    lines = [f"# Options of {method.title}", "",
             f"Give them as `-o name=value` to `python -m t2ilib generate --method {name}`, or as keywords to",
             "`t2ilib.methods.generate`. This page is made from the code by",
             f"`python -m t2ilib generate --options --method {name}`."]
    groups: dict[str, list[Option]] = {}
    for option in method.options:
        groups.setdefault(option.group, []).append(option)
    for group, options in groups.items():
        lines += ["", f"## {group.capitalize()}", "", "| option | default | meaning |", "|---|---|---|"]
        lines += [_row(option) for option in options]
    if method.notes is not None:
        lines += ["", method.notes()]
    return "\n".join(lines) + "\n"


def _row(option: Option) -> str:
    default = "" if option.default is None else f"`{option.default!r}`"
    meaning = option.meaning
    unnamed = [choice for choice in option.choices or () if choice not in meaning]
    if unnamed:
        meaning += f" ({', '.join(option.choices)})"
    meaning = meaning.replace("|", "\\|")
    return f"| `{option.name}` | {default} | {meaning} |"
