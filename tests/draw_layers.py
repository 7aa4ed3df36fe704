"""Draw the rooms of the library and who imports whom, from the boxes of `test_layers`, into reports/layers.svg.

    python tests/draw_layers.py          writes the picture
"""

import html
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from test_layers import BOXES, FILES, imports, module_of  # noqa: E402

OUT = HERE.parent / "reports" / "layers.svg"
ROOM_WIDTH = 112
ROOM_HEIGHT = 40
GAP = 22
ROW_HEIGHT = 92
MARGIN = 24
COLOURS = ("#f4d6cf", "#f6e3c5", "#e7eccb", "#d3e8d6", "#cfe4ea", "#d5dcf2", "#e5d8ee")


def import_graph() -> dict[str, set[str]]:
    """Return room -> the rooms that it imports."""
    rooms = {room for box in BOXES for room in box}
    graph: dict[str, set[str]] = {room: set() for room in rooms}
    for path in FILES:
        module = module_of(path)
        if not module:
            continue
        for name, _ in imports(path):
            if name[0] == "t2ilib" and len(name) > 1 and name[1] in rooms and name[1] != module[0]:
                graph[module[0]].add(name[1])
    return graph


def reachable(graph: dict[str, set[str]], room: str) -> set[str]:
    """Return all rooms that a room imports, directly or through others."""
    found: set[str] = set()
    todo = list(graph[room])
    while todo:
        other = todo.pop()
        if other not in found:
            found.add(other)
            todo += graph[other]
    return found


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the graph without the lines that others imply, so that what is left can be followed by eye."""
    result = {}
    for room, others in graph.items():
        implied = set()
        for other in others:
            implied |= reachable(graph, other)
        result[room] = others - implied
    return result


def places() -> dict[str, tuple[float, float]]:
    """Return the centre of each room: a row for each box, the highest layer on top, in the order of the alphabet."""
    widest = max(len(box) for box in BOXES)
    width = widest * (ROOM_WIDTH + GAP) - GAP
    centres = {}
    for row, box in enumerate(reversed(BOXES)):
        row_width = len(box) * (ROOM_WIDTH + GAP) - GAP
        left = MARGIN + (width - row_width) / 2
        for column, room in enumerate(sorted(box)):
            x = left + column * (ROOM_WIDTH + GAP) + ROOM_WIDTH / 2
            y = MARGIN + row * ROW_HEIGHT + ROOM_HEIGHT / 2
            centres[room] = (x, y)
    return centres


def draw() -> str:
    """Return the picture as SVG."""
    centres = places()
    lines = reduced(import_graph())
    width = max(x for x, _ in centres.values()) + ROOM_WIDTH / 2 + MARGIN
    height = max(y for _, y in centres.values()) + ROOM_HEIGHT / 2 + MARGIN
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
             f'width="{width:.0f}" height="{height:.0f}" font-family="sans-serif" font-size="13">',
             f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
             '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
             'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#8a8a8a"/></marker></defs>']
    for room in sorted(lines):
        for other in sorted(lines[room]):
            x0, y0 = centres[room]
            x1, y1 = centres[other]
            start = y0 + ROOM_HEIGHT / 2
            end = y1 - ROOM_HEIGHT / 2
            middle = (start + end) / 2
            curve = f"M{x0:.0f},{start:.0f} C{x0:.0f},{middle:.0f} {x1:.0f},{middle:.0f} {x1:.0f},{end:.0f}"
            parts.append(f'<path d="{curve}" fill="none" stroke="#b5b5b5" stroke-width="1.2" marker-end="url(#tip)"/>')
    for row, box in enumerate(reversed(BOXES)):
        for room in sorted(box):
            x, y = centres[room]
            parts.append(f'<rect x="{x - ROOM_WIDTH / 2:.0f}" y="{y - ROOM_HEIGHT / 2:.0f}" width="{ROOM_WIDTH}" '
                         f'height="{ROOM_HEIGHT}" rx="6" fill="{COLOURS[row % len(COLOURS)]}" stroke="#8a8a8a"/>')
            parts.append(f'<text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle">{html.escape(room)}</text>')
    parts.append("</svg>\n")
    return "\n".join(parts)


if __name__ == "__main__":
    OUT.write_text(draw(), encoding="utf-8")
    print(OUT)
