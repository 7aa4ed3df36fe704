"""The panel. It gets a function that draws and one that measures, works in a thread of its own (a button handler that
drew would block the stop button), and turns errors into words.
"""

import html
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from .comparison import compared_calls, left_out_html
from .controls import ALL, Controls, flex
from .editing import Editing
from .gallery import Gallery
from .history import Drawn, Finished, history_html, note, save_drawn, short_path
from .progress import Clock, Steps
from ..errors import T2IError, check_name
from ..media import to_pil
from ..methods import Method

STYLE = Path(__file__).with_name("panel.css")
MOST_ROWS = 20  # of the history
LONGEST_WAIT = 30.0  # seconds for a drawing of what was typed, when another is asked for
UNEXPECTED = "This should not happen: {}: {}. To see where: raise panel.error in a new cell."


class Playground:
    """A panel: prompt, method, options, draw and stop, progress with a live preview, pictures, history.

    Args:
        draw: `(prompt, *, method, num_images, seed, [callback], **options) -> (pictures, record)`.
        methods: name -> `Method`. Its options with a slider get one each; other options can be typed. One with
            previews is shown while it draws and can be stopped; a live one draws while one types, a moment after the
            last key, and keeps and measures that only when it is asked to draw; one that edits draws into a picture
            under a mask. Where there are several, all that can draw here may be asked for side by side.
        values: method -> option -> where its slider rests, if not at the option's default. A slider that rests sends
            nothing.
        measure: `(pictures, prompt, record) -> list of {name: number or text}`, one per picture, shown below it.
        run: the `Run` that keeps what is saved; None saves nothing.
        prompt, method, num_images, seed: what stands in the panel at the start; the method may be "all".

    Attributes:
        controls, editing, gallery: the parts of the panel. history: what was drawn in this session, newest last.
        error: the last exception, or None.
    """

    def __init__(self, draw: Callable[..., tuple[list[Image.Image], dict]], methods: Mapping[str, Method], *,
                 values: Mapping[str, Mapping[str, Any]] | None = None,
                 measure: Callable[[list[Image.Image], str, dict], list[dict]] | None = None, run: Any = None,
                 prompt: str = "a red heart", method: str | None = None, num_images: int = 4, seed: int = 0):
        import ipywidgets

        method = method or next(iter(methods))
        check_name("method", method, [*methods, ALL])
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
        self._draws_typed = False
        self._clock: Clock
        self.controls = Controls(methods, self._values, start=self.start, stop=self.stop, typed=self._draw_typed,
                                 prompt=prompt, method=method, num_images=num_images, seed=seed)
        editors = [name for name, method in methods.items() if method.edits]
        self.editing = Editing(editors, folder=run.dir / "edits" if run else None, keep=run.artefact if run else None)
        self.gallery = Gallery(save=self._save_one if run else None, edit=self._edit_one if editors else None)
        self.controls.method.observe(lambda _: self.editing.show_method(self.controls.chosen), names="value")
        self.editing.show_method(self.controls.chosen)
        self._build()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)

    def _build(self) -> None:
        w = self._widgets
        row = w.Layout(flex_flow="row wrap", align_items="center", grid_gap="6px 10px", overflow="visible")
        self.bar = w.IntProgress(0, 0, 1, layout=flex("0 0 180px", display="none"))
        self.status = w.HTML(note("Type a prompt and press <b>Draw</b>, or Enter."))
        self.message = w.HTML()
        self.log = w.VBox()
        style = w.HTML(f"<style>{STYLE.read_text(encoding='utf-8')}</style>")
        progress = w.HBox([self.bar, self.status], layout=row)
        self.widget = w.VBox([style, *self.controls.rows, self.editing.widget, progress, self.message,
                              self.gallery.widget, self.log])
        self.widget.add_class("t2i-panel")

    # --- what is asked for --------------------------------------------------------------------------------------------

    def call(self) -> dict[str, Any]:
        """Return what the panel asks for now, as keyword arguments of `draw`; its method may be "all".

        Raises:
            BadParameter: the prompt is empty, the typed options cannot be read, or the method cannot edit.
        """
        call = self.controls.call()
        method = self.controls.chosen
        if method is not None:
            call = {**self.editing.options(method), **call}  # what is typed counts
        return call

    def start(self) -> None:
        """Begin to draw what the panel asks for; nothing happens while it draws what it was asked for before."""
        self.controls.forget_typing()
        if self._draws_typed:
            self.wait(LONGEST_WAIT)
        if self.controls.draw_button.disabled:
            return None
        try:
            call = self.call()
            if self.controls.compares:
                calls, left_out = compared_calls(call, self._methods, self._values, self.editing.options)
                return self._begin(partial(self._work_compared, calls, left_out), stoppable=True)
        except T2IError as error:
            return self._fail(error)
        self._begin(partial(self._work_one, call), stoppable=self._methods[call["method"]].previews)

    def _draw_typed(self) -> None:
        """Draw what is typed so far; what cannot be read yet is left alone."""
        if self.controls.draw_button.disabled:  # it draws something else: try again a moment later
            self.controls.wait_for_pause()
            return
        try:
            call = self.call()
        except T2IError:
            return
        self._draws_typed = True
        self._begin(partial(self._work_typed, call), stoppable=False)

    def stop(self) -> None:
        """End the drawing after the step it is in, and keep what is there."""
        self._stop.set()
        self.controls.stop_button.disabled = True
        self.status.value = note("Stopping after this step")

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the drawing has ended."""
        if self._thread:
            self._thread.join(timeout)

    @property
    def stopping(self) -> bool:
        """Return whether the drawing was asked to end."""
        return self._stop.is_set()

    # --- drawing ------------------------------------------------------------------------------------------------------

    def _begin(self, work: Callable[[], Finished | None], *, stoppable: bool) -> None:
        """Start the thread that draws."""
        self.message.value = ""
        self.error = None
        self._stop.clear()
        self.controls.draw_button.disabled = True
        self.controls.stop_button.disabled = not stoppable
        self.bar.value = 0
        self.bar.layout.display = None
        self.gallery.clear(pictures=False)  # old pictures stay until new ones come, old words do not
        self._say("Preparing" if self.history else "Loading the networks; later drawings start sooner")
        self._thread = threading.Thread(target=self._work, args=(work,), daemon=True)
        self._thread.start()

    def _say(self, words: str) -> None:
        """Say what is being done where no steps can be counted."""
        self.bar.add_class("t2i-busy")
        self._clock = Clock(self, words)

    def _work(self, work: Callable[[], Finished | None]) -> None:
        """Do the work, show the warnings of this library, and remember what was drawn; whatever goes wrong is said."""
        finished = None
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("default")
                finished = work()
            texts = [html.escape(str(warning.message)) for warning in caught if "t2ilib" in warning.filename]
            lines = [f"<div class='t2i-note t2i-warning'>{text}</div>" for text in dict.fromkeys(texts)]
            self.message.value = "".join(lines) + (finished.remark if finished else "")
            if finished and finished.drawings and self._run:
                count = len(self.history) + len(finished.drawings)
                self._run.metric(drawings=count, seconds_per_call=finished.drawings[-1].seconds)
        except Exception as error:  # whatever happens in this thread must reach the person, not a log
            self._clock.stop()
            self._fail(error)
        finally:
            self._clock.stop()
            self.bar.remove_class("t2i-busy")
            self._draws_typed = False
            self.controls.draw_button.disabled = False
            self.controls.stop_button.disabled = True
            self.bar.layout.display = "none"
        if finished and finished.drawings:
            self._remember(finished)  # last, since a person who sees the row may go on

    def _draw_one(self, call: Mapping[str, Any], show: Callable[[Any, float | None], None]) -> Drawn | None:
        """Return what a call draws; None where it was stopped before there was a picture."""
        began = time.perf_counter()
        steps = Steps(self, show)
        hooks = {"callback": steps} if self._methods[call["method"]].previews else {}
        pictures, record = self._draw(**call, **hooks)
        self._clock.stop()
        if self.stopping and not steps.has_picture:
            return None
        return Drawn(dict(call), pictures, record, time.perf_counter() - began, stopped=self.stopping)

    def _work_typed(self, call: dict[str, Any]) -> None:
        """Draw what is typed; it is neither kept nor measured."""
        drawn = self._draw_one(call, self._show_one)
        if drawn is not None:
            self._fill(drawn.pictures)
            self.status.value = note(f"drawn while you type, in {drawn.seconds:.2f} s; press <b>Draw</b> to keep it")

    def _work_one(self, call: dict[str, Any]) -> Finished | None:
        """Draw, show and measure what one method was asked for."""
        drawn = self._draw_one(call, self._show_one)
        if drawn is None:
            self.status.value = note("stopped before there was a picture; draw again, or let it go on longer")
            return None
        self._fill(drawn.pictures)  # before measuring: people look first
        self.gallery.describe(drawn)
        self._take_scores([drawn])
        self.gallery.describe(drawn)
        count = len(drawn.pictures)
        stopped = f", stopped at step {drawn.record.get('steps_done', '?')}" if drawn.stopped else ""
        self.status.value = note(f"{count} picture{'s' * (count > 1)} in {drawn.seconds:.1f} s{stopped}")
        return Finished([drawn], call)

    def _work_compared(self, calls: Sequence[dict[str, Any]], left_out: Mapping[str, str]) -> Finished:
        """Draw by one method after another into one row, show and measure that."""
        self.gallery.lay_out([self._methods[call["method"]].title for call in calls])
        self.gallery.clear(pictures=True)
        drawings = {}
        for cell, call in enumerate(calls):
            place = f"{call['method']}, {cell + 1} of {len(calls)}"
            if self.stopping:
                self.gallery.say(cell, note("not begun"))
                continue
            self._clock.stop()
            self._say(place)
            try:
                drawn = self._draw_one(call, partial(self._show_compared, cell, place))
            except Exception as error:  # the others draw nevertheless
                self.error = error
                self.gallery.say(cell, f"<div class='t2i-note t2i-error'>{html.escape(in_words(error))}</div>")
                continue
            if drawn is None:
                self.gallery.say(cell, note("stopped before there was a picture"))
                continue
            drawings[cell] = drawn
            self.gallery.fill(drawn.pictures, cell)
            self.gallery.describe(drawn, cell, seconds=True)
        kept = list(drawings.values())
        self._take_scores(kept)
        for cell, drawn in drawings.items():
            self.gallery.describe(drawn, cell, seconds=True)
        seconds = sum(drawn.seconds for drawn in kept)
        self.status.value = note(f"{len(kept)} of {len(calls)} methods in {seconds:.1f} s")
        call = {**calls[0], "method": ALL}
        return Finished(kept, call, left_out_html(left_out))

    def _take_scores(self, drawings: Sequence[Drawn]) -> None:
        if not (self._measure and drawings):
            return
        self._clock.stop()
        self._say("Measuring" if self.history else "Loading the judge, and measuring")
        for drawn in drawings:
            drawn.scores = self._measure(drawn.pictures, drawn.call["prompt"], drawn.record)
        self._clock.stop()

    # --- what comes out -----------------------------------------------------------------------------------------------

    def _fill(self, pictures: Sequence[Image.Image]) -> None:
        self.gallery.lay_out([""] * len(pictures))
        self.gallery.fill(pictures)

    def _show_one(self, preview: Any, seconds_left: float | None) -> None:
        """Show the step a drawing is in, and its pictures so far."""
        self._show_step(preview, seconds_left, "")
        self._fill(to_pil(preview.images))

    def _show_compared(self, cell: int, place: str, preview: Any, seconds_left: float | None) -> None:
        """Show the step that one method of several is in, and its picture so far."""
        self._show_step(preview, seconds_left, f"{place}: ")
        self.gallery.fill(to_pil(preview.images)[:1], cell)

    def _show_step(self, preview: Any, seconds_left: float | None, lead: str) -> None:
        self._clock.stop()
        self.bar.remove_class("t2i-busy")
        self.bar.max = preview.steps
        self.bar.value = preview.step + 1
        if not self.stopping:
            left = "" if seconds_left is None else f", {seconds_left:.0f} s left"
            self.status.value = note(f"{html.escape(lead)}step {preview.step + 1} of {preview.steps}{left}")

    def _remember(self, finished: Finished) -> None:
        """Put drawings into the history, as one row that restores their call."""
        w = self._widgets
        self.history += finished.drawings
        again = w.Button(description="use again", icon="undo", layout=flex("0 0 104px"))
        again.on_click(lambda _: self.restore(finished.call))
        facts = w.HTML(history_html(finished.drawings), layout=flex("1 1 0"))
        row = w.HBox([facts, again], layout={"align_items": "center"})
        title = w.HTML(note("<b>drawn in this session</b>"))
        self.log.children = [title, row, *self.log.children[1:MOST_ROWS]]

    def _fail(self, error: BaseException) -> None:
        self.error = error
        self.status.value = note("")
        self.message.value = f"<div class='t2i-note t2i-error'>{html.escape(in_words(error))}</div>"

    def restore(self, call: Mapping[str, Any]) -> None:
        """Put what an earlier drawing was asked for back into the panel."""
        self.controls.restore(self.editing.restore(call))

    def _edit_one(self, drawn: Drawn, index: int) -> None:
        self.editing.begin(drawn.pictures[index])

    def _save_one(self, drawn: Drawn, index: int) -> None:
        path = html.escape(self.save(drawn, index))
        self.message.value = note(f"Saved as {path}, with its record beside it.")

    def save(self, drawn: Drawn, index: int = 0) -> str:
        """Write one picture and its record into the run's folder; return where, from the repository's root."""
        files = save_drawn(drawn, index, self._run.dir / "pictures")
        for file in files:
            self._run.artefact(file)
        return short_path(files[0])


def in_words(error: BaseException) -> str:
    """Return an error as a person reads it."""
    return str(error) if isinstance(error, T2IError) else UNEXPECTED.format(type(error).__name__, error)
