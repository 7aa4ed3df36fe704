"""The contract of a method, and the registry that imports one when it is first used. Nothing here imports torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BadParameter, check_name, unknown_name
from ..options import Option, check_option_names

if TYPE_CHECKING:
    from PIL.Image import Image

Run = Callable[..., "tuple[list[Image], dict[str, Any]]"]


@dataclass(frozen=True)
class Estimate:
    """About what a call takes on this machine; right within a factor of about three."""

    seconds: float
    gib: float


@dataclass(frozen=True)
class Method:
    """A way from a prompt to pictures: what it can do, and all that anybody reads about it.

    Attributes:
        name, title: as it is called in code and on a page.
        run: `(prompt, *, num_images, seed, [callback], [state], **options) -> (pictures, record)`. `prompt` is one
            text or a list of texts (`read_prompts` makes a list of both); there are `num_images` pictures of each,
            those of one text next to one another, and picture j of a text has the seed `seed + j`. The record holds
            plain JSON types: what was asked, what was used, what came out. `run` gets the options that the caller
            gave, checked, and no others: it has defaults of its own.
        options: all that `run` understands beside prompt, number and seed.
        previews: `run` takes `callback` and calls it after every step with a preview (`.step`, `.steps`, `.images` in
            [0, 1], `.finish()`, and `.is_picture`, false while it is not worth keeping); it ends early, keeping what it
            has, if that returns true.
        resumable: `run` takes `state`, a file that keeps its state, and goes on from there.
        live: it is fast enough to draw while one types.
        edits: it draws into the picture of the option `init_image`, where `mask` is white; a file is enough for each.
        estimate: `(number of pictures, given options) -> Estimate`, or None where it cannot tell; None makes none.
        aliases: names that other tools use for options -> the name here.
        notes: more Markdown for the page of options, made when the page is.
        absent: returns what is missing before the method can draw with its defaults, in one sentence, or "" where
            nothing is; None is nothing.
    """

    name: str
    title: str
    run: Run
    options: tuple[Option, ...] = ()
    previews: bool = False
    resumable: bool = False
    edits: bool = False
    live: bool = False
    estimate: Callable[[int, Mapping[str, Any]], Estimate | None] | None = None
    aliases: Mapping[str, str] | None = None
    notes: Callable[[], str] | None = None
    absent: Callable[[], str] | None = None

    def missing(self) -> str:
        """Return what is missing before it can draw with its defaults, "" where nothing is."""
        return "" if self.absent is None else self.absent()

    def option(self, name: str) -> Option:
        """Return the option called `name`.

        Raises:
            UnknownName: there is none; the message gives the nearest, or what it is called here.
        """
        check_option_names(self.options, [name], kind=f"option of {self.name}", aliases=self.aliases)
        return next(option for option in self.options if option.name == name)

    def defaults(self) -> dict[str, Any]:
        """Return the default of every option by name."""
        return {option.name: option.default for option in self.options}

    def check(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return given options as the types they have; raises UnknownName or BadParameter."""
        return {name: self.option(name).check(value) for name, value in options.items()}

    def read(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Return the values that texts from a command line or a text field write; raises as `check` does."""
        return {name: self.option(name).read(text) for name, text in texts.items()}


class Registry(Mapping[str, Method]):
    """Method by name; a method's module is imported when it is first asked for.

    A family is a kind of methods of which each is told by a place, as "diffusers:PATH": its methods are found by name,
    and not listed among the others.

    Args:
        modules: name -> module whose METHOD it is, or the method itself.
        families: name -> module whose `method_of(place, name)` makes the method of a place.
    """

    def __init__(self, modules: Mapping[str, str | Method], families: Mapping[str, str] | None = None):
        self._modules = dict(modules)
        self._families = dict(families or {})
        self._of_families: dict[str, Method] = {}

    def __getitem__(self, name: str) -> Method:
        if self._is_of_family(name):
            return self._of_family(name)
        module = self._modules[name]
        method: Method = importlib.import_module(module).METHOD if isinstance(module, str) else module
        self._modules[name] = method
        return method

    def _is_of_family(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        family, _, place = name.partition(":")
        return family in self._families and bool(place.strip())

    def _of_family(self, name: str) -> Method:
        """Return the method of a name such as "diffusers:PATH"."""
        if name not in self._of_families:
            family, _, place = name.partition(":")
            module = importlib.import_module(self._families[family])
            self._of_families[name] = module.method_of(place.strip(), name)
        return self._of_families[name]

    def known_names(self) -> list[str]:
        """Return what may be asked for: all names, and how that of a family's method is written."""
        return [*self._modules, *(f"{family}:PATH" for family in self._families)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._modules or self._is_of_family(name))

    def find(self, name: str) -> Method:
        """Return the method called `name`; raises UnknownName with the nearest names."""
        if name not in self:
            raise unknown_name("method", str(name), self.known_names())
        return self[name]

    def add(self, name: str, module: str | Method) -> None:
        """Add a method of one's own: the name of an importable module whose METHOD it is, or the method itself."""
        if name in self._modules:
            raise BadParameter(f"there is a method {name!r} already; choose another name")
        self._modules[name] = module

    def remove(self, name: str) -> None:
        """Forget a method."""
        check_name("method", name, self._modules)
        del self._modules[name]


METHODS = Registry({
    "vqgan_clip": "t2ilib.methods.vqgan_clip",
    "generator": "t2ilib.methods.generator",
    "minimagen": "t2ilib.methods.minimagen",
    "text_transformer": "t2ilib.methods.text_transformer",
    "vqvae_pixelsnail": "t2ilib.methods.vqvae_pixelsnail",
    "gigagan": "t2ilib.methods.gigagan",
}, families={"diffusers": "t2ilib.methods.diffusers_pipelines"})


def read_prompts(prompt: str | Sequence[str]) -> list[str]:
    """Return a prompt, or a list of prompts, as a list of texts; raises BadParameter where there is nothing to draw."""
    prompts: list[str] = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]  # type: ignore[list-item]
    if not prompts or not all(isinstance(text, str) and text.strip() for text in prompts):
        raise BadParameter(f"the prompt must be a text that says what the picture should show, got {prompt!r}")
    return prompts


def read_number(name: str, value: Any, *, low: int, high: int) -> int:
    """Return a whole number within its bounds; raises BadParameter."""
    return Option(name, low, "", low=low, high=high).check(value)
