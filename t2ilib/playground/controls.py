"""What the panel is asked for: prompt, method, number, seed, sliders and other options, as arguments of `draw`."""

import math
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any

from .history import note
from ..errors import BadParameter
from ..methods import Method, Option

ALL = "all"  # instead of a method: each that can draw, side by side
ALL_TITLE = "all, side by side"
MOST_PICTURES = 12
SECONDS_OF_PAUSE = 0.3  # without a key before what is typed is drawn, by a method that is fast enough


class Controls:
    """The rows at the top of the panel.

    Args:
        methods: name -> `Method`. values: method -> option -> where its slider rests, if not at the default.
        start, stop, typed: called for the button or Enter, for the other button, and a moment after the last key where
            the method is live.
        prompt, method, num_images, seed: what stands there at the start.

    Attributes:
        rows: the widgets, from the top. sliders: option -> slider of the chosen method.
    """

    def __init__(self, methods: Mapping[str, Method], values: Mapping[str, Mapping[str, Any]], *,
                 start: Callable[[], None], stop: Callable[[], None], typed: Callable[[], None], prompt: str,
                 method: str, num_images: int, seed: int):
        import ipywidgets

        self._widgets = ipywidgets
        self._methods = methods
        self._values = values
        self._start = start
        self._typed = typed
        self._timer: threading.Timer | None = None
        self.sliders: dict[str, Any] = {}
        row = ipywidgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="6px 10px", overflow="visible")
        self.rows = [
            ipywidgets.HBox(self._prompt_row(prompt, stop), layout=row),
            ipywidgets.HBox(self._settings_row(method, min(num_images, MOST_PICTURES), seed), layout=row),
            self._options_fold()]
        self.show_options()

    def _prompt_row(self, prompt: str, stop: Callable[[], None]) -> list[Any]:
        w = self._widgets
        self.prompt = w.Text(prompt, placeholder="what should the picture show?", layout=flex("1 1 210px"))
        self.draw_button = w.Button(description="Draw", button_style="primary", icon="paint-brush",
                                    layout=flex("0 0 88px"))
        self.stop_button = w.Button(description="Stop", icon="stop", disabled=True, layout=flex("0 0 78px"),
                                    tooltip="end after this step and keep what is there")
        self.prompt.add_class("t2i-prompt")
        for button in (self.draw_button, self.stop_button):
            button.add_class("t2i-tall")
        self.draw_button.on_click(lambda _: self._start())
        self.stop_button.on_click(lambda _: stop())
        self.prompt.on_msg(self._on_prompt_event)
        self.prompt.observe(lambda _: self.wait_for_pause(), names="value")
        return [self.prompt, self.draw_button, self.stop_button]

    def _settings_row(self, method: str, num_images: int, seed: int) -> list[Any]:
        w = self._widgets
        wide = {"description_width": "max-content"}
        names = [(name, name) for name in self._methods]
        if len(names) > 1:
            names.append((ALL_TITLE, ALL))
        self.method = w.Dropdown(options=names, value=method, description="method", style=wide,
                                 layout=flex("0 1 240px"))
        self.num_images = w.BoundedIntText(num_images, min=1, max=MOST_PICTURES, description="pictures", style=wide,
                                           layout=flex("0 0 118px"))
        self.seed = w.BoundedIntText(seed, min=0, max=2**31 - 1, description="seed", style=wide,
                                     layout=flex("0 0 150px"))
        dice = w.Button(description="random seed", icon="random", layout=flex("0 0 130px"))
        dice.on_click(lambda _: setattr(self.seed, "value", secrets.randbelow(100_000)))
        self.method.observe(lambda _: self.show_options(), names="value")
        return [self.method, self.num_images, self.seed, dice]

    def _options_fold(self) -> Any:
        w = self._widgets
        columns = "repeat(auto-fit, minmax(min(300px, 100%), 1fr))"
        self.options = w.GridBox(layout=w.Layout(grid_template_columns=columns))
        self.others = w.Text(placeholder="name=value, name=value", description="others", layout=w.Layout(width="98%"))
        hint = w.HTML(note("<small>Rest the pointer on a name to read what it does.</small>"))
        self._fold = w.Accordion([w.VBox([self.options, self.others, hint])], titles=("options",), selected_index=None)
        return self._fold

    # --- what is chosen -----------------------------------------------------------------------------------------------

    @property
    def compares(self) -> bool:
        """Return whether all methods are asked for, side by side."""
        return self.method.value == ALL

    @property
    def chosen(self) -> Method | None:
        """Return the chosen method; None where all are."""
        return None if self.compares else self._methods[self.method.value]

    def call(self) -> dict[str, Any]:
        """Return what the panel asks for now, as keyword arguments of `draw`.

        Side by side each method draws one picture, with its options at rest.

        Raises:
            BadParameter: the prompt is empty, or the typed options cannot be read.
        """
        prompt = self.prompt.value.strip()
        if not prompt:
            raise BadParameter("the prompt is empty; say what the picture should show")
        method = self.chosen
        if method is None:
            return {"prompt": prompt, "method": ALL, "num_images": 1, "seed": self.seed.value}
        moved = {}
        for name, slider in self.sliders.items():
            if slider.value != self._rest(method.option(name)):
                moved[name] = slider.value
        typed = method.read(split_options(self.others.value))
        return {"prompt": prompt, "method": method.name, "num_images": self.num_images.value, "seed": self.seed.value,
                **moved, **typed}

    def restore(self, call: Mapping[str, Any]) -> None:
        """Put what an earlier drawing was asked for back into the rows."""
        options = dict(call)
        self.prompt.value = options.pop("prompt")
        self.method.value = options.pop("method")
        num_images = options.pop("num_images")
        if not self.compares:
            self.num_images.value = num_images
        self.seed.value = options.pop("seed")
        moved = {name: options.pop(name) for name in list(self.sliders) if name in options}
        self.show_options(moved)
        self.others.value = ", ".join(f"{name}={value}" for name, value in options.items())

    def show_options(self, moved: Mapping[str, Any] | None = None) -> None:
        """Put one slider for each option of the chosen method that has one into the panel; `moved` are not at rest."""
        w = self._widgets
        method = self.chosen
        self._fold.layout.display = "none" if method is None else None
        self.num_images.disabled = method is None
        self.sliders = {}
        for option in () if method is None else method.options:
            if option.slider is None:
                continue
            rest = self._rest(option)
            low, high = option.slider
            kind = w.IntSlider if isinstance(rest, int) else w.FloatSlider
            self.sliders[option.name] = kind(
                (moved or {}).get(option.name, rest), min=min(low, rest), max=max(high, rest), step=slider_step(option),
                description=option.name.replace("_", " "), tooltip=option.meaning, continuous_update=False,
                layout=w.Layout(width="98%"))
        longest = max(map(len, [*self.sliders, self.others.description]))
        for field in (*self.sliders.values(), self.others):
            field.style.description_width = f"{longest}ch"  # no name is cut short, and all end at one line
        self.options.children = list(self.sliders.values())

    def _rest(self, option: Option) -> Any:
        """Return the value at which an option's slider rests."""
        return self._values.get(self.method.value, {}).get(option.name, option.default)

    # --- keys ---------------------------------------------------------------------------------------------------------

    def _on_prompt_event(self, _: Any, content: dict[str, Any], buffers: Any) -> None:
        if content.get("event") == "submit":
            self._start()

    def wait_for_pause(self) -> None:
        """Call `typed` a moment after the last key, if the chosen method is fast enough."""
        self.forget_typing()
        method = self.chosen
        if method is not None and method.live:
            self._timer = threading.Timer(SECONDS_OF_PAUSE, self._typed)
            self._timer.daemon = True
            self._timer.start()

    def forget_typing(self) -> None:
        """Do not call `typed` for the keys so far."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


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


def flex(basis: str, **layout: str) -> dict[str, str]:
    """Return a layout that grows, shrinks and begins as `basis` says, without the width that widgets bring."""
    return {"flex": basis, "width": "auto", "margin": "0", **layout}
