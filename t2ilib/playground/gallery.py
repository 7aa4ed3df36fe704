"""The grid of pictures: cells of a title, a picture, and below it words and buttons."""

import html
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from .controls import flex
from .history import SHOWN_SIDE, Drawn, note, png_at_least, scores_html

GRID_WIDTHS = {1: 340, 2: 580, 3: 750}  # pixels, by number of pictures
WIDEST_GRID = 860
EMPTY = Image.new("RGBA", (1, 1))


class Gallery:
    """The pictures of the last drawing.

    Args:
        save: `(drawn, index)`, called by the button of that name; None shows no such button.
        edit: `(drawn, index)`, likewise.

    Attributes:
        widget: the grid. Its cells stay while their number stays, so that a preview does not flicker.
    """

    def __init__(self, *, save: Callable[[Drawn, int], None] | None, edit: Callable[[Drawn, int], None] | None):
        import ipywidgets

        self._widgets = ipywidgets
        self._save = save
        self._edit = edit
        self._titles: list[str] = []
        self.widget = ipywidgets.GridBox()

    @property
    def cells(self) -> Sequence[Any]:
        """Return the cells, each a box of title, picture and what stands below."""
        return self.widget.children

    def lay_out(self, titles: Sequence[str]) -> None:
        """Make a cell for each title, "" for none; nothing changes where these cells are there."""
        if self._titles == list(titles):
            return
        self._titles = list(titles)
        self.widget.children = [self._cell(title) for title in titles]
        width = GRID_WIDTHS.get(len(titles), WIDEST_GRID)
        self.widget.layout = self._widgets.Layout(
            grid_template_columns="repeat(auto-fit, minmax(min(165px, 45%), 1fr))", grid_gap="12px",
            max_width=f"{width}px")

    def _cell(self, title: str) -> Any:
        w = self._widgets
        heading = w.HTML(note(f"<b>{html.escape(title)}</b>"), layout=w.Layout(display=None if title else "none"))
        below = w.HBox([w.HTML(layout=flex("1 1 0")), w.Box()])
        cell = w.VBox([heading, w.Image(format="png", layout=w.Layout(width="100%")), below])
        cell.add_class("t2i-picture")
        return cell

    def fill(self, pictures: Sequence[Image.Image], first: int = 0) -> None:
        """Show pictures in the cells from `first` on."""
        for cell, picture in zip(self.cells[first:], pictures, strict=False):
            cell.children[1].value = png_at_least(picture, SHOWN_SIDE)

    def describe(self, drawn: Drawn, first: int = 0, *, seconds: bool = False) -> None:
        """Write below the pictures of a drawing what is known of them, and put the buttons there."""
        for i in range(len(drawn.pictures)):
            text, buttons = self.cells[first + i].children[2].children
            scores = drawn.scores[i] if i < len(drawn.scores) else {}
            text.value = scores_html(scores, drawn.call["seed"] + i, drawn.seconds if seconds else None)
            buttons.children = self._buttons(drawn, i)

    def say(self, cell: int, words: str) -> None:
        """Write words, which are HTML, below a picture, and take its buttons away."""
        text, buttons = self.cells[cell].children[2].children
        text.value = words
        buttons.children = []

    def clear(self, *, pictures: bool) -> None:
        """Take words and buttons away, and the pictures too where that is asked."""
        for number, cell in enumerate(self.cells):
            self.say(number, "")
            if pictures:
                cell.children[1].value = png_at_least(EMPTY, SHOWN_SIDE)

    def _buttons(self, drawn: Drawn, index: int) -> list[Any]:
        kinds = (("save", "download", "save the picture and its record", self._save),
                 ("edit", "pencil", "draw into this picture", self._edit))
        buttons = []
        for name, icon, meaning, action in kinds:
            if action is not None:
                buttons.append(self._button(name, icon, meaning, action, drawn, index))
        return buttons

    def _button(self, name: str, icon: str, meaning: str, action: Callable[[Drawn, int], None], drawn: Drawn,
                index: int) -> Any:
        button = self._widgets.Button(icon=icon, tooltip=meaning, layout=flex("0 0 34px", margin="0 0 0 4px"))
        button.add_class(f"t2i-{name}")
        button.on_click(lambda _: action(drawn, index))
        return button
