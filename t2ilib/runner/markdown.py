"""Tables in Markdown, from numbers as CSV files hold them."""

from collections.abc import Sequence

from ..errors import BadParameter

ABSENT = "–"


def number(text: str, digits: int) -> str:
    """Return a number of a CSV with so many decimals; raises BadParameter if it is none."""
    try:
        value = float(text)
    except ValueError as error:
        raise BadParameter(f"a benchmark's CSV has {text!r} where a number should be; measure it again") from error
    return f"{value:,.{digits}f}"


def markdown(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table; a column in which no line has a value is left out.

    A bar inside a cell would end it, and is escaped.
    """
    kept = [i for i in range(len(titles)) if any(line[i] != ABSENT for line in lines)]
    rows = [[titles[i] for i in kept], ["---"] * len(kept)]
    for line in lines:
        rows.append([line[i] for i in kept])
    printed = []
    for row in rows:
        cells = [cell.replace("|", "\\|") for cell in row]
        printed.append(f"| {' | '.join(cells)} |")
    return "\n".join(printed)
