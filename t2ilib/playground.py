"""The playground: a panel of widgets that draws pictures for a prompt, shows them as they come, and remembers them.

The panel knows no method. It gets a function that draws and one that measures, works in a thread of its own (a button
handler that drew would block the stop button), and turns errors into words.
"""

import ast
import base64
import html
import inspect
import io
import json
import re
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from .errors import BadParameter, T2IError, check_name
from .media import to_pil
from .paths import repo_root

STYLE = """<style>
.t2i-panel { max-width: 900px; padding: 4px 2px; gap: 8px; } .t2i-panel .widget-html:empty { display: none; }
.t2i-panel .widget-button { border-radius: 4px; }
.t2i-panel .t2i-prompt input { font-size: 15px; height: 34px; padding-left: 10px; }
.t2i-panel .t2i-tall { height: 34px; line-height: 32px; }
.t2i-panel .t2i-picture img { border-radius: 6px; background: rgba(128, 128, 128, .12); }
.t2i-note { line-height: 1.4; font-size: 12.5px; } .t2i-note small { opacity: .65; }
.t2i-error { border-left: 3px solid #c2452d; background: rgba(194, 69, 45, .1); padding: 6px 10px; }
.t2i-warning { border-left: 3px solid #b07d00; background: rgba(176, 125, 0, .1); padding: 6px 10px; margin-top: 4px; }
.t2i-row { display: flex; flex-wrap: wrap; align-items: center; gap: 4px; } .t2i-row .t2i-note { margin-left: 6px; }
.t2i-row img { height: 48px; width: 48px; border-radius: 4px; }
</style>"""
MOST_PICTURES, MOST_ROWS, PIXELS, REFRESH = 12, 20, 256, 0.25


@dataclass
class Drawn:
    """One entry of the history: what was asked, and what came out."""

    asked: dict[str, Any]
    pictures: list[Image.Image]
    record: dict[str, Any]
    seconds: float
    scores: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False


class Playground:
    """A panel: prompt, method, options, draw and stop, progress with a live preview, pictures, history.

    Args:
        draw: `(prompt, *, method, num_images, seed, **options) -> (pictures, record)`.
        methods: name -> function. One whose signature names `callback` gets a live preview and can be stopped.
        controls: method -> option -> `dict(value=, min=, max=, step=, help=)`, one slider each; other options can be
            typed. A slider that rests at its value sends nothing: the method's own default holds.
        measure: `(pictures, prompt, record) -> list of {name: number or text}`, one per picture, shown below it.
        run: the `Run` that keeps what is saved; None saves nothing.
        prompt, method, num_images, seed: what stands in the panel at the start.

    Attributes:
        history: what was drawn in this session, newest last. error: the last exception, or None.
    """

    def __init__(self, draw: Callable[..., tuple[list[Image.Image], dict]], methods: Mapping[str, Callable], *,
                 controls: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
                 measure: Callable[[list[Image.Image], str, dict], list[dict]] | None = None, run: Any = None,
                 prompt: str = "a red heart", method: str | None = None, num_images: int = 4, seed: int = 0):
        import ipywidgets

        method = method or next(iter(methods))
        check_name("method", method, methods)
        self.history: list[Drawn] = []
        self.error: BaseException | None = None
        self._draw, self._methods, self._measure, self._run = draw, methods, measure, run
        self._controls, self._w = controls or {}, ipywidgets
        self._stop, self._thread = threading.Event(), None
        self._build(prompt, method, min(num_images, MOST_PICTURES), seed)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)

    # --- the panel ----------------------------------------------------------------------------------------------------

    def _build(self, prompt: str, method: str, num_images: int, seed: int) -> None:
        w, row = self._w, self._w.Layout(flex_flow="row wrap", align_items="center", grid_gap="6px 10px",
                                         overflow="visible")
        self.bar = w.IntProgress(0, 0, 1, layout=_flex("0 0 180px", display="none"))
        self.status = w.HTML(_note("Type a prompt and press <b>Draw</b>, or Enter."))
        self.message, self.pictures, self.log = w.HTML(), w.GridBox(), w.VBox()
        self.widget = w.VBox([
            w.HTML(STYLE), w.HBox(self._prompt_row(prompt), layout=row),
            w.HBox(self._settings_row(method, num_images, seed), layout=row), self._options_fold(),
            w.HBox([self.bar, self.status], layout=row), self.message, self.pictures, self.log])
        self.widget.add_class("t2i-panel")
        self._show_options()

    def _prompt_row(self, prompt: str) -> list[Any]:
        w = self._w
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
        self.prompt.on_msg(lambda _, content, buffers: content.get("event") == "submit" and self.start())
        return [self.prompt, self.draw_button, self.stop_button]

    def _settings_row(self, method: str, num_images: int, seed: int) -> list[Any]:
        w, wide = self._w, {"description_width": "max-content"}
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
        w = self._w
        self.options = w.GridBox(layout=w.Layout(grid_template_columns="repeat(auto-fit, minmax(300px, 1fr))"))
        self.more = w.Text(placeholder="name=value, name=value", description="others", layout=w.Layout(width="98%"),
                           style={"description_width": "110px"})
        hint = w.HTML(_note("<small>Rest the pointer on a name to read what it does.</small>"))
        return w.Accordion([w.VBox([self.options, self.more, hint])], titles=("options",), selected_index=None)

    def _show_options(self, values: Mapping[str, Any] | None = None) -> None:
        """Put one slider for each option of the chosen method into the panel."""
        w, self.sliders = self._w, {}
        for name, spec in self._controls.get(self.method.value, {}).items():
            kind = w.IntSlider if isinstance(spec["value"], int) else w.FloatSlider
            given = {**spec, "value": (values or {}).get(name, spec["value"]), "tooltip": spec.get("help", "")}
            given.pop("help", None)
            self.sliders[name] = kind(**given, description=name.replace("_", " "), continuous_update=False,
                                      style={"description_width": "110px"}, layout=w.Layout(width="98%"))
        self.options.children = list(self.sliders.values())

    def asked(self) -> dict[str, Any]:
        """Return what the panel asks for now, as keyword arguments of `draw`.

        Raises:
            BadParameter: the prompt is empty, or the typed options cannot be read.
        """
        if not self.prompt.value.strip():
            raise BadParameter("the prompt is empty; say what the picture should show")
        specs = self._controls.get(self.method.value, {})
        moved = {name: s.value for name, s in self.sliders.items() if s.value != specs[name]["value"]}
        return {"prompt": self.prompt.value.strip(), "method": self.method.value, "num_images": self.num_images.value,
                "seed": self.seed.value, **moved, **read_options(self.more.value)}

    # --- drawing ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to draw what the panel asks for; nothing happens while it draws."""
        if self.draw_button.disabled:
            return
        self.message.value, self.error = "", None
        try:
            asked = self.asked()
        except T2IError as error:
            return self._fail(error)
        self._stop.clear()
        self.draw_button.disabled = True
        live = "callback" in inspect.signature(self._methods[asked["method"]]).parameters
        self.stop_button.disabled, self.bar.value, self.bar.layout.display = not live, 0, None
        for cell in self.pictures.children:  # old pictures stay until new ones come, old words do not
            cell.children[1].children[0].value, cell.children[1].children[1].children = "", []
        self.status.value = _note("Starting" if self.history else "Loading the networks; later drawings start sooner")
        self._thread = threading.Thread(target=self._work, args=(asked, live), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the drawing after the step it is in, and keep what is there."""
        self._stop.set()
        self.stop_button.disabled, self.status.value = True, _note("Stopping after this step")

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the drawing has ended."""
        if self._thread:
            self._thread.join(timeout)

    def _work(self, asked: dict[str, Any], live: bool) -> None:
        began = time.perf_counter()
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("default")
                pictures, record = self._draw(**asked, **({"callback": self._progress()} if live else {}))
                drawn = Drawn(asked, pictures, record, time.perf_counter() - began, stopped=self._stop.is_set())
                self._show(drawn)  # before measuring: people look first
                if self._measure:
                    self.status.value = _note("Measuring")
                    drawn.scores = self._measure(pictures, asked["prompt"], record)
            self._finish(drawn, [str(w.message) for w in caught if "t2ilib" in w.filename])
        except Exception as error:  # whatever happens in this thread must reach the person, not a log
            self._fail(error)
        finally:
            self.draw_button.disabled, self.stop_button.disabled, self.bar.layout.display = False, True, "none"

    def _progress(self) -> Callable[[Any], bool]:
        times = []  # of the first step, and of the last one shown

        def callback(preview: Any) -> bool:
            now, done = time.perf_counter(), preview.step + 1
            if not times or now - times[-1] >= REFRESH or done == preview.steps:
                times[:] = [times[0] if times else now, now]
                pace = (now - times[0]) / preview.step if preview.step else 0
                left = f", {pace * (preview.steps - done):.0f} s left" if preview.step else ""
                self.bar.max, self.bar.value = preview.steps, done
                if not self._stop.is_set():
                    self.status.value = _note(f"step {done} of {preview.steps}{left}")
                self._fill(to_pil(preview.images))
            return self._stop.is_set()

        return callback

    # --- what comes out -----------------------------------------------------------------------------------------------

    def _fill(self, pictures: list[Image.Image]) -> None:
        """Show pictures in the grid; new cells only if their number changed, so that a preview does not flicker."""
        w = self._w
        if len(self.pictures.children) != len(pictures):
            cells = []
            for _ in pictures:
                below = w.HBox([w.HTML(layout=_flex("1 1 0")), w.Box()])
                cells.append(w.VBox([w.Image(format="png", layout=w.Layout(width="100%")), below]))
                cells[-1].add_class("t2i-picture")
            self.pictures.children = cells
            wide = {1: 340, 2: 580, 3: 750}.get(len(pictures), 860)
            self.pictures.layout = w.Layout(grid_template_columns="repeat(auto-fit, minmax(min(165px, 45%), 1fr))",
                                            grid_gap="12px", max_width=f"{wide}px")
        for cell, picture in zip(self.pictures.children, pictures, strict=True):
            cell.children[0].value = _png(picture, PIXELS)

    def _show(self, drawn: Drawn) -> None:
        self._fill(drawn.pictures)
        for i, cell in enumerate(self.pictures.children):
            values = drawn.scores[i] if i < len(drawn.scores) else {}
            lines = [f"{html.escape(k)} <b>{f'{v:.2f}' if isinstance(v, float) else html.escape(str(v))}</b>"
                     for k, v in values.items()]
            text, place = cell.children[1].children
            text.value = _note(f"<small>seed {drawn.asked['seed'] + i}</small><br>" + "<br>".join(lines))
            button = self._w.Button(icon="download", tooltip="save the picture and its record",
                                    layout=_flex("0 0 34px"))
            button.add_class("t2i-save")
            button.on_click(lambda _, i=i: setattr(self.message, "value", _note(
                f"Saved as {html.escape(self.save(drawn, i))}, with its record beside it.")))
            place.children = [button] if self._run else []

    def _finish(self, drawn: Drawn, notes: list[str]) -> None:
        self.history.append(drawn)
        self._show(drawn)
        n, w = len(drawn.pictures), self._w
        steps = f", stopped at step {drawn.record.get('steps_done', '?')}" if drawn.stopped else ""
        self.status.value = _note(f"{n} picture{'s' * (n > 1)} in {drawn.seconds:.1f} s{steps}")
        self.message.value = "".join(f"<div class='t2i-note t2i-warning'>{html.escape(note)}</div>" for note in
                                     dict.fromkeys(notes))
        again = w.Button(description="use again", icon="undo", layout=_flex("0 0 104px"))
        again.on_click(lambda _: self.restore(drawn))
        row = w.HBox([w.HTML(_history_row(drawn), layout=_flex("1 1 0")), again], layout={"align_items": "center"})
        head = w.HTML(_note("<b>drawn in this session</b>"))
        self.log.children = [head, row, *self.log.children[1:MOST_ROWS]]
        if self._run:
            self._run.metric(drawings=len(self.history), seconds_per_call=drawn.seconds)

    def _fail(self, error: BaseException) -> None:
        self.error, self.status.value = error, _note("")
        text = str(error) if isinstance(error, T2IError) else (
            f"This should not happen: {type(error).__name__}: {error}. To see where: raise panel.error in a new cell.")
        self.message.value = f"<div class='t2i-note t2i-error'>{html.escape(text)}</div>"

    def restore(self, drawn: Drawn) -> None:
        """Put the settings of an earlier drawing back into the panel."""
        asked = dict(drawn.asked)
        self.prompt.value, self.method.value = asked.pop("prompt"), asked.pop("method")
        self.num_images.value, self.seed.value = asked.pop("num_images"), asked.pop("seed")
        self._show_options({name: asked.pop(name) for name in list(self.sliders) if name in asked})
        self.more.value = ", ".join(f"{name}={value!r}" for name, value in asked.items())

    def save(self, drawn: Drawn, index: int = 0) -> str:
        """Write one picture and its record into the run's folder; return where, from the repository's root."""
        name = re.sub(r"[^a-z0-9]+", "-", drawn.asked["prompt"].lower()).strip("-")[:40] or "picture"
        folder, seed, k = self._run.dir / "pictures", drawn.asked["seed"] + index, 1
        folder.mkdir(parents=True, exist_ok=True)
        while (path := folder / f"{name}_s{seed}{f'_{k}' * (k > 1)}.png").exists():
            k += 1
        drawn.pictures[index].save(path)
        record = {**drawn.record, "asked": drawn.asked, "picture": index, "seconds": round(drawn.seconds, 2),
                  "stopped": drawn.stopped, "scores": drawn.scores[index] if drawn.scores else {}}
        path.with_suffix(".json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for made in (path, path.with_suffix(".json")):
            self._run.artefact(made)
        return path.relative_to(repo_root()).as_posix() if path.is_relative_to(repo_root()) else str(path)


def read_options(text: str) -> dict[str, Any]:
    """Read "name=value, name=value": numbers, true, false, none, lists as such, the rest as text; else BadParameter."""
    found, words = {}, {"true": True, "false": False, "none": None}
    for part in re.split(r"[,;\s]+(?=\w+\s*=)", text.strip(" ,;")) if text.strip(" ,;") else []:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (equals and name.isidentifier() and value):
            raise BadParameter(f"other options must look like name=value, name=value; got {part!r}")
        try:
            found[name] = words[value.lower()] if value.lower() in words else ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def _flex(flex: str, **more: str) -> dict[str, str]:
    return {"flex": flex, "width": "auto", "margin": "0", **more}


def _note(text: str) -> str:
    return f"<div class='t2i-note'>{text}</div>"


def _png(picture: Image.Image, side: int) -> bytes:
    """Return a PNG of at least `side` pixels: browsers scale small pictures up badly."""
    factor, buffer = max(1.0, side / max(picture.size)), io.BytesIO()
    size = tuple(round(length * factor) for length in picture.size)
    (picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)).save(buffer, "PNG")
    return buffer.getvalue()


def _history_row(drawn: Drawn) -> str:
    shots = "".join(f"<img src='data:image/png;base64,{base64.b64encode(_png(p, 96)).decode()}'>" for p in
                    drawn.pictures[:6])
    shared = {name for row in drawn.scores for name, value in row.items() if isinstance(value, float)}
    means = [f"{name} {sum(row[name] for row in drawn.scores) / len(drawn.scores):.2f}" for name in sorted(shared)]
    facts = " · ".join([drawn.asked["method"], f"seed {drawn.asked['seed']}", f"{drawn.seconds:.1f} s",
                        *(["stopped early"] if drawn.stopped else []), *means])
    words = f"{html.escape(drawn.asked['prompt'])}<br><small>{html.escape(facts)}</small>"
    return f"<div class='t2i-row'>{shots}{_note(words)}</div>"
