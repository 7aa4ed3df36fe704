"""The panel. It gets a function that draws and one that measures, works in a thread of its own (a button handler that
drew would block the stop button), and turns errors into words.
"""

import html
import math
import re
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from .history import SHOWN_SIDE, Drawn, history_html, note, png_at_least, save_drawn, scores_html, short_path
from ..errors import BadParameter, T2IError, check_name
from ..media import to_pil
from ..methods import Method, Option

STYLE = Path(__file__).with_name("panel.css")
MOST_PICTURES = 12
MOST_ROWS = 20  # of the history
SECONDS_BETWEEN = 0.25  # two previews
SECONDS_OF_PAUSE = 0.3  # without a key before what is typed is drawn, by a method that is fast enough
LONGEST_WAIT = 30.0  # seconds for a drawing of what was typed, when another is asked for
GRID_WIDTHS = {1: 340, 2: 580, 3: 750}  # pixels, by number of pictures
WIDEST_GRID = 860


class Playground:
    """A panel: prompt, method, options, draw and stop, progress with a live preview, pictures, history.

    Args:
        draw: `(prompt, *, method, num_images, seed, [callback], **options) -> (pictures, record)`.
        methods: name -> `Method`. Its options with a slider get one each; other options can be typed. One with
            previews is shown while it draws and can be stopped; a live one draws while one types, a moment after the
            last key, and keeps and measures that only when it is asked to draw.
        values: method -> option -> where its slider rests, if not at the option's default. A slider that rests sends
            nothing.
        measure: `(pictures, prompt, record) -> list of {name: number or text}`, one per picture, shown below it.
        run: the `Run` that keeps what is saved; None saves nothing.
        prompt, method, num_images, seed: what stands in the panel at the start.

    Attributes:
        history: what was drawn in this session, newest last. error: the last exception, or None.
    """

    def __init__(self, draw: Callable[..., tuple[list[Image.Image], dict]], methods: Mapping[str, Method], *,
                 values: Mapping[str, Mapping[str, Any]] | None = None,
                 measure: Callable[[list[Image.Image], str, dict], list[dict]] | None = None, run: Any = None,
                 prompt: str = "a red heart", method: str | None = None, num_images: int = 4, seed: int = 0):
        import ipywidgets

        method = method or next(iter(methods))
        check_name("method", method, methods)
        self.history: list[Drawn] = []
        self.error: BaseException | None = None
        self._draw = draw
        self._methods = methods
        self._values = values or {}
        self._measure = measure
        self._run = run
        self._widgets = ipywidgets
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._typing: threading.Timer | None = None
        self._draws_typed = False
        self._clock: _Clock
        self._build(prompt, method, min(num_images, MOST_PICTURES), seed)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)

    # --- the panel ----------------------------------------------------------------------------------------------------

    def _build(self, prompt: str, method: str, num_images: int, seed: int) -> None:
        w = self._widgets
        row = w.Layout(flex_flow="row wrap", align_items="center", grid_gap="6px 10px", overflow="visible")
        self.bar = w.IntProgress(0, 0, 1, layout=_flex("0 0 180px", display="none"))
        self.status = w.HTML(note("Type a prompt and press <b>Draw</b>, or Enter."))
        self.message = w.HTML()
        self.pictures = w.GridBox()
        self.log = w.VBox()
        style = w.HTML(f"<style>{STYLE.read_text(encoding='utf-8')}</style>")
        self.widget = w.VBox([
            style,
            w.HBox(self._prompt_row(prompt), layout=row),
            w.HBox(self._settings_row(method, num_images, seed), layout=row),
            self._options_fold(),
            w.HBox([self.bar, self.status], layout=row),
            self.message, self.pictures, self.log])
        self.widget.add_class("t2i-panel")
        self._show_options()

    def _prompt_row(self, prompt: str) -> list[Any]:
        w = self._widgets
        self.prompt = w.Text(prompt, placeholder="what should the picture show?", layout=_flex("1 1 300px"))
        self.draw_button = w.Button(description="Draw", button_style="primary", icon="paint-brush",
                                    layout=_flex("0 0 96px"))
        self.stop_button = w.Button(description="Stop", icon="stop", disabled=True, layout=_flex("0 0 84px"),
                                    tooltip="end after this step and keep what is there")
        self.prompt.add_class("t2i-prompt")
        for button in (self.draw_button, self.stop_button):
            button.add_class("t2i-tall")
        self.draw_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        self.prompt.on_msg(self._on_prompt_event)
        self.prompt.observe(lambda _: self._on_key(), names="value")
        return [self.prompt, self.draw_button, self.stop_button]

    def _on_prompt_event(self, _: Any, content: dict[str, Any], buffers: Any) -> None:
        if content.get("event") == "submit":
            self.start()

    def _on_key(self) -> None:
        """Draw a moment after the last key, if the chosen method is fast enough."""
        self._forget_typing()
        if self._methods[self.method.value].live:
            self._typing = threading.Timer(SECONDS_OF_PAUSE, self._draw_typed)
            self._typing.daemon = True
            self._typing.start()

    def _forget_typing(self) -> None:
        if self._typing is not None:
            self._typing.cancel()
            self._typing = None

    def _draw_typed(self) -> None:
        """Draw what is typed so far; what cannot be read yet is left alone."""
        if self.draw_button.disabled:  # it draws something else: try again a moment later
            self._on_key()
            return
        try:
            call = self.call()
        except T2IError:
            return
        self._begin(call, typed=True)

    def _settings_row(self, method: str, num_images: int, seed: int) -> list[Any]:
        w = self._widgets
        wide = {"description_width": "max-content"}
        self.method = w.Dropdown(options=list(self._methods), value=method, description="method", style=wide,
                                 layout=_flex("0 1 240px"))
        self.num_images = w.BoundedIntText(num_images, min=1, max=MOST_PICTURES, description="pictures", style=wide,
                                           layout=_flex("0 0 118px"))
        self.seed = w.BoundedIntText(seed, min=0, max=2**31 - 1, description="seed", style=wide,
                                     layout=_flex("0 0 150px"))
        dice = w.Button(description="random seed", icon="random", layout=_flex("0 0 130px"))
        dice.on_click(lambda _: setattr(self.seed, "value", secrets.randbelow(100_000)))
        self.method.observe(lambda _: self._show_options(), names="value")
        return [self.method, self.num_images, self.seed, dice]

    def _options_fold(self) -> Any:
        w = self._widgets
        self.options = w.GridBox(layout=w.Layout(grid_template_columns="repeat(auto-fit, minmax(300px, 1fr))"))
        self.more = w.Text(placeholder="name=value, name=value", description="others", layout=w.Layout(width="98%"))
        hint = w.HTML(note("<small>Rest the pointer on a name to read what it does.</small>"))
        fold = w.VBox([self.options, self.more, hint])
        return w.Accordion([fold], titles=("options",), selected_index=None)

    def _show_options(self, moved: Mapping[str, Any] | None = None) -> None:
        """Put one slider for each option of the chosen method that has one into the panel; `moved` are not at rest."""
        w = self._widgets
        self.sliders = {}
        for option in self._methods[self.method.value].options:
            if option.slider is None:
                continue
            rest = self._rest(option)
            low, high = option.slider
            kind = w.IntSlider if isinstance(rest, int) else w.FloatSlider
            self.sliders[option.name] = kind(
                (moved or {}).get(option.name, rest), min=min(low, rest), max=max(high, rest), step=slider_step(option),
                description=option.name.replace("_", " "), tooltip=option.meaning, continuous_update=False,
                layout=w.Layout(width="98%"))
        longest = max(map(len, [*self.sliders, self.more.description]))
        for field in (*self.sliders.values(), self.more):
            field.style.description_width = f"{longest}ch"  # no name is cut short, and all end at one line
        self.options.children = list(self.sliders.values())

    def _rest(self, option: Option) -> Any:
        """Return the value at which an option's slider rests."""
        return self._values.get(self.method.value, {}).get(option.name, option.default)

    def call(self) -> dict[str, Any]:
        """Return what the panel asks for now, as keyword arguments of `draw`.

        Raises:
            BadParameter: the prompt is empty, or the typed options cannot be read.
        """
        prompt = self.prompt.value.strip()
        if not prompt:
            raise BadParameter("the prompt is empty; say what the picture should show")
        method = self._methods[self.method.value]
        moved = {}
        for name, slider in self.sliders.items():
            if slider.value != self._rest(method.option(name)):
                moved[name] = slider.value
        typed = method.read(split_options(self.more.value))
        return {"prompt": prompt, "method": method.name, "num_images": self.num_images.value, "seed": self.seed.value,
                **moved, **typed}

    # --- drawing ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to draw what the panel asks for; nothing happens while it draws what it was asked for before."""
        self._forget_typing()
        if self._draws_typed:
            self.wait(LONGEST_WAIT)
        if self.draw_button.disabled:
            return None
        try:
            call = self.call()
        except T2IError as error:
            return self._fail(error)
        self._begin(call)

    def _begin(self, call: dict[str, Any], *, typed: bool = False) -> None:
        """Start the thread that draws; `typed` is neither kept nor measured."""
        self.message.value = ""
        self.error = None
        self._stop.clear()
        self._draws_typed = typed
        self.draw_button.disabled = True
        previews = self._methods[call["method"]].previews
        self.stop_button.disabled = not previews
        self.bar.value = 0
        self.bar.layout.display = None
        for cell in self.pictures.children:  # old pictures stay until new ones come, old words do not
            text, buttons = cell.children[1].children
            text.value = ""
            buttons.children = []
        self.bar.add_class("t2i-busy")
        self._clock = _Clock(self, "Preparing" if self.history else "Loading the networks; later drawings start sooner")
        self._thread = threading.Thread(target=self._work, args=(call, previews, typed), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the drawing after the step it is in, and keep what is there."""
        self._stop.set()
        self.stop_button.disabled = True
        self.status.value = note("Stopping after this step")

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the drawing has ended."""
        if self._thread:
            self._thread.join(timeout)

    def _work(self, call: dict[str, Any], previews: bool, typed: bool = False) -> None:
        began = time.perf_counter()
        progress = _Progress(self)
        hooks = {"callback": progress} if previews else {}
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("default")
                pictures, record = self._draw(**call, **hooks)
                seconds = time.perf_counter() - began
                if self._stop.is_set() and not progress.has_picture:
                    self._clock.stop()
                    self.status.value = note("stopped before there was a picture; draw again, or let it go on longer")
                    return
                drawn = Drawn(call, pictures, record, seconds, stopped=self._stop.is_set())
                if typed:
                    self._clock.stop()
                    self._fill(pictures)
                    self.status.value = note(f"drawn while you type, in {seconds:.2f} s; press <b>Draw</b> to keep it")
                    return
                self._show(drawn)  # before measuring: people look first
                if self._measure:
                    self._clock.stop()
                    self.bar.add_class("t2i-busy")
                    self._clock = _Clock(self, "Measuring" if self.history else "Loading the judge, and measuring")
                    drawn.scores = self._measure(pictures, call["prompt"], record)
            self._clock.stop()
            self._finish(drawn, [str(warning.message) for warning in caught if "t2ilib" in warning.filename])
        except Exception as error:  # whatever happens in this thread must reach the person, not a log
            self._clock.stop()
            self._fail(error)
        finally:
            self.bar.remove_class("t2i-busy")
            self._draws_typed = False
            self.draw_button.disabled = False
            self.stop_button.disabled = True
            self.bar.layout.display = "none"

    def show_progress(self, preview: Any, seconds_left: float | None) -> None:
        """Show the step a drawing is in, and its picture so far."""
        self._clock.stop()
        self.bar.remove_class("t2i-busy")
        self.bar.max = preview.steps
        self.bar.value = preview.step + 1
        if not self._stop.is_set():
            left = "" if seconds_left is None else f", {seconds_left:.0f} s left"
            self.status.value = note(f"step {preview.step + 1} of {preview.steps}{left}")
        self._fill(to_pil(preview.images))

    @property
    def stopping(self) -> bool:
        """Return whether the drawing was asked to end."""
        return self._stop.is_set()

    # --- what comes out -----------------------------------------------------------------------------------------------

    def _fill(self, pictures: list[Image.Image]) -> None:
        """Show pictures in the grid; new cells only if their number changed, so that a preview does not flicker."""
        w = self._widgets
        if len(self.pictures.children) != len(pictures):
            self.pictures.children = [self._cell() for _ in pictures]
            width = GRID_WIDTHS.get(len(pictures), WIDEST_GRID)
            self.pictures.layout = w.Layout(grid_template_columns="repeat(auto-fit, minmax(min(165px, 45%), 1fr))",
                                            grid_gap="12px", max_width=f"{width}px")
        for cell, picture in zip(self.pictures.children, pictures, strict=True):
            cell.children[0].value = png_at_least(picture, SHOWN_SIDE)

    def _cell(self) -> Any:
        """Return an empty cell: a picture, and below it words and a place for buttons."""
        w = self._widgets
        below = w.HBox([w.HTML(layout=_flex("1 1 0")), w.Box()])
        cell = w.VBox([w.Image(format="png", layout=w.Layout(width="100%")), below])
        cell.add_class("t2i-picture")
        return cell

    def _show(self, drawn: Drawn) -> None:
        self._fill(drawn.pictures)
        for i, cell in enumerate(self.pictures.children):
            text, buttons = cell.children[1].children
            scores = drawn.scores[i] if i < len(drawn.scores) else {}
            text.value = scores_html(scores, drawn.call["seed"] + i)
            buttons.children = [self._save_button(drawn, i)] if self._run else []

    def _save_button(self, drawn: Drawn, index: int) -> Any:
        button = self._widgets.Button(icon="download", tooltip="save the picture and its record",
                                      layout=_flex("0 0 34px"))
        button.add_class("t2i-save")

        def save(_: Any) -> None:
            path = html.escape(self.save(drawn, index))
            self.message.value = note(f"Saved as {path}, with its record beside it.")

        button.on_click(save)
        return button

    def _finish(self, drawn: Drawn, messages: list[str]) -> None:
        w = self._widgets
        self.history.append(drawn)
        self._show(drawn)
        count = len(drawn.pictures)
        stopped = f", stopped at step {drawn.record.get('steps_done', '?')}" if drawn.stopped else ""
        self.status.value = note(f"{count} picture{'s' * (count > 1)} in {drawn.seconds:.1f} s{stopped}")
        lines = [f"<div class='t2i-note t2i-warning'>{html.escape(text)}</div>" for text in dict.fromkeys(messages)]
        self.message.value = "".join(lines)
        again = w.Button(description="use again", icon="undo", layout=_flex("0 0 104px"))
        again.on_click(lambda _: self.restore(drawn))
        row = w.HBox([w.HTML(history_html(drawn), layout=_flex("1 1 0")), again], layout={"align_items": "center"})
        title = w.HTML(note("<b>drawn in this session</b>"))
        self.log.children = [title, row, *self.log.children[1:MOST_ROWS]]
        if self._run:
            self._run.metric(drawings=len(self.history), seconds_per_call=drawn.seconds)

    def _fail(self, error: BaseException) -> None:
        self.error = error
        self.status.value = note("")
        text = str(error)
        if not isinstance(error, T2IError):
            text = (f"This should not happen: {type(error).__name__}: {error}. To see where: raise panel.error in a "
                    "new cell.")
        self.message.value = f"<div class='t2i-note t2i-error'>{html.escape(text)}</div>"

    def restore(self, drawn: Drawn) -> None:
        """Put the settings of an earlier drawing back into the panel."""
        options = dict(drawn.call)
        self.prompt.value = options.pop("prompt")
        self.method.value = options.pop("method")
        self.num_images.value = options.pop("num_images")
        self.seed.value = options.pop("seed")
        moved = {name: options.pop(name) for name in list(self.sliders) if name in options}
        self._show_options(moved)
        self.more.value = ", ".join(f"{name}={value}" for name, value in options.items())

    def save(self, drawn: Drawn, index: int = 0) -> str:
        """Write one picture and its record into the run's folder; return where, from the repository's root."""
        files = save_drawn(drawn, index, self._run.dir / "pictures")
        for file in files:
            self._run.artefact(file)
        return short_path(files[0])


class _Clock:
    """Says every second what is being done and for how long, where no steps can be counted, until `stop`."""

    def __init__(self, panel: Playground, words: str):
        self.panel = panel
        self.words = words
        self.began = time.perf_counter()
        self._stopped = threading.Event()
        self._show()
        self._thread = threading.Thread(target=self._tick, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Say no more; what is written into the panel after this stays."""
        self._stopped.set()
        self._thread.join()

    def _tick(self) -> None:
        while not self._stopped.wait(1):
            self._show()

    def _show(self) -> None:
        if not self.panel.stopping:
            seconds = time.perf_counter() - self.began
            elapsed = f" ({seconds:.0f} s)" if seconds >= 1 else ""
            self.panel.status.value = note(self.words + elapsed)


class _Progress:
    """The callback of a drawing: shows a preview now and then, and asks to end once the panel wants that."""

    def __init__(self, panel: Playground):
        self.panel = panel
        self.first: float | None = None  # when the first step ended
        self.shown = -math.inf  # when a preview was shown last
        self.has_picture = True  # whether the last preview is worth keeping

    def __call__(self, preview: Any) -> bool:
        self.has_picture = getattr(preview, "is_picture", True)
        now = time.perf_counter()
        if self.first is None:
            self.first = now
        done = preview.step + 1
        if now - self.shown >= SECONDS_BETWEEN or done == preview.steps:
            self.shown = now
            left = None
            if preview.step:
                left = (now - self.first) / preview.step * (preview.steps - done)
            self.panel.show_progress(preview, left)
        return self.panel.stopping


def split_options(text: str) -> dict[str, str]:
    """Return the names and the texts of "name=value, name=value"; raises BadParameter for anything else."""
    text = text.strip(" ,;")
    if not text:
        return {}
    options = {}
    for part in re.split(r"[,;\s]+(?=\w+\s*=)", text):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (equals and name.isidentifier() and value):
            raise BadParameter(f"other options must look like name=value, name=value; got {part!r}")
        options[name] = value
    return options


def slider_step(option: Option) -> float:
    """Return by how much one step of an option's slider moves it: 1 for whole numbers, else a power of ten."""
    if isinstance(option.default, int):
        return 1
    low, high = option.slider
    return 10.0 ** math.floor(math.log10((high - low) / 20))


def _flex(flex: str, **layout: str) -> dict[str, str]:
    return {"flex": flex, "width": "auto", "margin": "0", **layout}
