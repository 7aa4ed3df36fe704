"""The named ways of cutting as a Markdown table, made from what the code reads."""

import dataclasses

from .augment import AUGMENTATIONS, CODES, Augmentations
from .cutout_methods import CUTOUT_METHODS, CutoutMethod


def cutouts_reference() -> str:
    """Return the section of the page of options that lists the ways of cutting and the augmentations."""
    lines = ["## Named ways of cutting", "", "| `cutouts` | windows | noise | augmentations |", "|---|---|---|---|"]
    for name, method in CUTOUT_METHODS.items():
        lines.append(f"| `{name}` | {_of_parts(method, _windows)} | {_of_parts(method, _noise)} | "
                     f"{_of_parts(method, _augmentations)} |")
    codes = ", ".join(f"`{code}` {name}" for code, name in CODES.items())
    sets = ", ".join(f"`{name}`" for name in AUGMENTATIONS)
    lines += ["", f"Augmentations by name or code: {codes}; and the sets {sets}."]
    return "\n".join(lines)


def _of_parts(method: CutoutMethod, describe) -> str:
    """Return the description of a way of cutting; of a mixture, that of each part, with its share where it differs."""
    if not method.parts:
        return describe(method)
    texts = []
    for share, part in method.parts:
        lead = "" if describe is _noise else f"{share:.0%} "
        texts.append(lead + describe(part))
    return "; ".join(texts)


def _windows(method: CutoutMethod) -> str:
    if method.whole:
        return "the whole picture, pooled" if method.pool else "the whole picture"
    if method.min_cut == method.max_cut:
        return "the short side"
    low = "CLIP's input" if method.min_cut is None else f"{method.min_cut:g}"
    return f"{low} to {method.max_cut:g} of the short side"


def _noise(method: CutoutMethod) -> str:
    return f"{method.noise:g}"


def _augmentations(method: CutoutMethod) -> str:
    plain = Augmentations()
    changes = []
    for field in dataclasses.fields(Augmentations):
        value = getattr(method.augmentations, field.name)
        if value == getattr(plain, field.name):
            continue
        changes.append(f"{field.name} {value:g}" if isinstance(value, float) else f"{field.name} {value}")
    return ", ".join(changes) or "none"
