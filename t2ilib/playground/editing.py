"""The fold in which a picture is chosen to draw into: its mask, and both as the options that methods have for edits."""

import contextlib
import hashlib
import html
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .controls import flex
from .history import note, png_of
from .mask_canvas import mask_picture, new_canvas
from ..errors import BadParameter, T2IError
from ..files import replacing
from ..media import open_rgba
from ..methods import Method

LARGEST_SIDE = 512  # pixels; a larger picture of one's own is scaled down
EDIT_OPTIONS = ("init_image", "mask", "strength")
HINT = ("Take a picture of your own, or press the pencil below one that was drawn; then draw with the mouse over what "
        "shall change, and press <b>Draw</b>.")


class Editing:
    """A fold below the options: the picture that is edited, and a canvas for its mask.

    Args:
        editors: names of the methods that can draw into a picture; where there is none, the fold is hidden.
        folder: where picture and mask are written when they are used; None is a temporary folder.
        keep: called with each file that is written.

    Attributes:
        widget: the fold. picture: what is edited, or None. canvas: the widget with the strokes, or None without the
            package anywidget; then the whole picture is drawn anew.
    """

    def __init__(self, editors: Sequence[str], *, folder: Path | None, keep: Callable[[Path], None] | None = None):
        import ipywidgets as w

        self.picture: Image.Image | None = None
        self._editors = editors
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory | None = None
        self._keep = keep
        self._strokes_of: dict[str, list] = {}  # path of a mask -> what was drawn
        self._method: Method | None = None
        self.upload = w.FileUpload(accept="image/*", multiple=False, description="a picture of your own",
                                   layout=flex("0 0 220px"))
        self.leave_button = w.Button(description="edit no picture", icon="times", layout=flex("0 0 140px"))
        self.strength = w.FloatSlider(1.0, min=0.05, max=1.0, step=0.05, continuous_update=False,
                                      description="strength", layout=w.Layout(width="98%", max_width="420px"))
        self.words = w.HTML()
        self.canvas: Any = None
        try:
            self.canvas = new_canvas()
        except T2IError as error:
            self._no_canvas = str(error)
        self.upload.observe(lambda _: self._take_upload(), names="value")
        self.leave_button.on_click(lambda _: self.leave())
        row = w.HBox([self.upload, self.leave_button], layout=w.Layout(flex_flow="row wrap", grid_gap="6px 10px"))
        parts = [row, self.words]
        if self.canvas is not None:
            self.canvas.observe(lambda _: self._show(), names="strokes")
            parts.append(self.canvas)
        parts.append(self.strength)
        self.widget = w.Accordion([w.VBox(parts)], titles=("edit a picture",), selected_index=None)
        self.widget.layout.display = None if editors else "none"
        self._show()

    # --- what is edited -----------------------------------------------------------------------------------------------

    def begin(self, picture: Image.Image, strokes: list | None = None) -> None:
        """Edit a picture, with strokes that were drawn on it before, and open the fold."""
        self.picture = picture
        if self.canvas is not None:
            self.canvas.strokes = list(strokes or [])
            self.canvas.width, self.canvas.height = picture.size
            self.canvas.picture = png_of(picture)
        self.widget.selected_index = 0
        self._show()

    def leave(self) -> None:
        """Edit no picture: the next drawing begins from nothing."""
        self.picture = None
        if self.canvas is not None:
            self.canvas.strokes = []
            self.canvas.picture = b""
        self._show()

    def _take_upload(self) -> None:
        if not self.upload.value:
            return
        try:
            picture = flat_picture(bytes(self.upload.value[0]["content"]))
        except T2IError as error:
            self.words.value = f"<div class='t2i-note t2i-error'>{html.escape(str(error))}</div>"
            return
        finally:
            self.upload.value = ()
        self.begin(picture)

    def show_method(self, method: Method | None) -> None:
        """Follow the choice of a method, whose option `strength` the slider is; None is all of them."""
        self._method = method
        default = strength_of(method)
        if default is not None:
            self.strength.value = default
            self.strength.tooltip = method.option("strength").meaning if method else ""
        self._show()

    @property
    def _strokes(self) -> list:
        return [] if self.canvas is None else list(self.canvas.strokes)

    def _show(self) -> None:
        """Show what fits to the state: a hint, the canvas, or for the whole picture the slider."""
        editing = self.picture is not None
        self.leave_button.layout.display = None if editing else "none"
        whole = editing and not self._strokes
        self.strength.layout.display = None if whole and strength_of(self._method) is not None else "none"
        words = HINT
        if editing and self._method is not None and not self._method.edits:
            words = html.escape(f"{self._method.name} cannot draw into a picture; choose {' or '.join(self._editors)}.")
        elif editing and self.canvas is None:
            words = f"The picture is drawn anew for the prompt. {html.escape(self._no_canvas)}."
        elif whole:
            words = "Draw over what shall change. Without a stroke the whole picture is drawn anew for the prompt."
        elif editing:
            words = "What is marked is drawn anew for the prompt, the rest is kept."
        self.words.value = note(words)

    # --- as options ---------------------------------------------------------------------------------------------------

    def options(self, method: Method) -> dict[str, Any]:
        """Return the options that make a method draw into the picture; none where no picture is edited.

        Raises:
            BadParameter: the method cannot, or the strokes cannot be read.
        """
        if self.picture is None:
            return {}
        if not method.edits:
            others = " or ".join(self._editors)
            raise BadParameter(f"{method.name} cannot draw into a picture; choose {others}, or press 'edit no picture'")
        options = {"init_image": str(self._write("picture", self.picture))}
        mask = mask_picture(self._strokes, self.picture.size)
        default = strength_of(method)
        if mask is not None:
            path = self._write("mask", mask)
            self._strokes_of[str(path)] = self._strokes
            options["mask"] = str(path)
        elif self._method is method and default is not None and self.strength.value != default:
            options["strength"] = self.strength.value
        return options

    def restore(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """Edit again what an earlier drawing did; return its other options.

        Options that this fold has not made, such as a file that was typed, are left among them.
        """
        rest = dict(call)
        path = Path(str(rest.get("init_image", "")))
        mask = str(rest.get("mask", ""))
        made_here = path.parent in (self._folder, self._temporary and Path(self._temporary.name)) and path.is_file()
        if not made_here or (mask and mask not in self._strokes_of):
            self.leave()
            return rest
        for name in EDIT_OPTIONS:
            rest.pop(name, None)
        self.begin(flat_picture(path.read_bytes()), self._strokes_of.get(mask))
        self.strength.value = call.get("strength", self.strength.value)
        return rest

    def _write(self, kind: str, picture: Image.Image) -> Path:
        """Write a picture under a name made of its content, so that the same drawing has the same options."""
        data = png_of(picture)
        folder = self._folder
        if folder is None:
            self._temporary = self._temporary or tempfile.TemporaryDirectory(prefix="t2i-edits-")
            folder = Path(self._temporary.name)
        path = folder / f"{kind}_{hashlib.sha256(data).hexdigest()[:12]}.png"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(data)
            if self._keep:
                self._keep(path)
        return path


def strength_of(method: Method | None) -> float | None:
    """Return the default of a method's option `strength`; None where it has none."""
    if method is not None and method.edits:
        with contextlib.suppress(T2IError):
            return float(method.option("strength").default)
    return None


def flat_picture(data: bytes) -> Image.Image:
    """Return an encoded picture on white, at most 512 pixels long; raises BadParameter where it cannot be read."""
    try:
        picture = open_rgba(data)
        white = Image.new("RGBA", picture.size, "white")
        flat = Image.alpha_composite(white, picture).convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:  # what PIL raises for broken files, by format
        raise BadParameter(f"this file cannot be read as a picture ({error}); take a PNG, JPEG or WebP file") from error
    flat.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    return flat
