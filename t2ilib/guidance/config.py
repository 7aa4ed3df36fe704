"""The named configuration of one VQGAN+CLIP run: everything that decides the picture, in one object."""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..encoders.clip import LONG_TEXTS
from ..errors import BadParameter, MissingAsset, UnknownName, unknown_name
from .augment import Augmentations, resolve_augmentations
from .cutout_methods import CUTOUT_METHODS
from .ops import LatentEMA
from .pictures import NOISES
from .prompts import Prompt, check_box, parse_prompt, parse_prompts
from .schedule import LR_SCHEDULES, optimizer_class

INITS = ("random", "prior", "latents", "image", "previous", *NOISES)
INIT_WEIGHT_MODES = ("to_init", "to_zero_decay")
PRECISIONS = ("float32", "auto", "bfloat16", "float16")


def option(default: Any, group: str, text: str, **limits: Any) -> Any:
    """Describe one option: what it is for, and `low`, `high`, `whole`, `choices`, `above` (exclusive low)."""
    return dataclasses.field(default=default, metadata={"group": group, "text": text, **limits})


@dataclass(frozen=True)
class GuidanceConfig:
    """Options of `vqgan_clip`, each checked when the object is built; `options_table()` lists them with their meaning.

    Lists become tuples and names of sets become the sets, so that equal runs have equal configurations. `to_dict()`
    gives plain JSON types, from which `GuidanceConfig(**d)` rebuilds the object.

    Raises:
        UnknownName: a name or an option is not known; close ones are suggested.
        BadParameter: a value is out of range or contradicts another.
        MissingAsset: a file that an option names does not exist.
    """

    prompt: str | Prompt | Mapping | Sequence = option(
        dataclasses.MISSING, "prompts", "one text for all pictures, or a list with one for each group of `num_images`; "
        "`text:weight:stop`, `|` between several, `^` between the scenes of a story")
    image_prompts: Sequence = option((), "prompts", "pictures that guide as prompts do, `path:weight:stop` each")
    noise_prompts: Sequence = option((), "prompts", "random directions in CLIP's space that guide, `seed:weight` each")
    vector_prompts: Sequence = option((), "prompts", "points in CLIP's space that guide: lists of numbers, or paths of "
                                      "`.npy` files, `path:weight`")
    regions: Mapping | Sequence = option((), "prompts", "prompts for a part of the picture: `{'a star': (x0, y0, x1, "
                                         "y1)}`, in shares of its sides")
    cross_fade: float = option(0.0, "prompts", "share of a scene of a story that blends with the next", low=0, high=1)
    long_prompts: str = option("truncate", "prompts", "a text longer than the guide reads: cut it off (it warns), or "
                               "average overlapping `windows`", choices=LONG_TEXTS)
    model: str = option("emoji-vqgan-128", "networks", "name or path of the VQGAN")
    clip: str | Sequence[str] = option("emoji-clip", "networks", "name of the guide, or a list of names")
    clip_weights: float | Sequence[float] = option(1.0, "networks", "share of each guide")
    width: int | None = option(None, "size", "pixels, rounded down to the VQGAN's multiple (it warns); None is the "
                               "VQGAN's own size, or has the aspect of `init_image`", low=1, whole=True)
    height: int | None = option(None, "size", "as `width`", low=1, whole=True)
    progressive: Sequence[float] = option((), "size", "sizes to begin with, in shares of the final one: (0.5,) makes "
                                          "the first half of the steps at half size", each=(0.05, 1.0))
    tile: int | None = option(None, "size", "side in pixels of the part that is decoded and shown at each step, for "
                              "pictures that do not fit into memory", low=16, whole=True)
    seed: int = option(0, "start", "picture j of each prompt has the streams `seed + j`, whatever the batch", low=0,
                       whole=True)
    num_images: int = option(1, "start", "pictures of each prompt, made in one pass", low=1, whole=True)
    init: str = option("random", "start", "random codes, a sample of the prior, an image, a previous result, noise of "
                       "three kinds, or latents given to the function", choices=INITS)
    init_image: str | None = option(None, "start", "file for init `image`, or a PNG made here for `previous`")
    mask: str | Sequence[float] | None = option(None, "start", "where `init_image` may change, all else is kept: a "
                                                "picture, white there, or a box (x0, y0, x1, y1) in shares")
    redraw: float = option(0.0, "start", "how far the prior draws the start anew for the prompt: 0 not at all, 1 with "
                           "nothing of it left", low=0, high=1)
    candidates: int = option(1, "start", "starts for each picture, of which the guides keep the best", low=1,
                             whole=True)
    select_cutouts: int = option(4, "start", "augmented views, beside the whole picture, by which they choose", low=0,
                                 whole=True)
    steps: int = option(100, "search", "steps of the optimiser, exactly", low=0, whole=True)
    optimizer: str = option("adam", "search", "any optimiser of `torch.optim` for dense gradients, in lower case")
    learning_rate: float = option(0.1, "search", "its largest learning rate", above=0)
    lr_schedule: str = option("constant", "search", "`constant`, `cosine` or `linear` to nothing, or `drop` to a tenth "
                              "at three quarters", choices=LR_SCHEDULES)
    warmup_steps: int = option(0, "search", "first steps, over which the learning rate rises", low=0, whole=True)
    subspace_steps: int = option(0, "search", "first steps, in which only coefficients in the `basis` move", low=0,
                                 whole=True)
    ema: float = option(0.0, "search", "decay of the average of z that becomes the picture; 0 takes the last z", low=0)
    cutouts: str = option("plain", "cutouts", "named method, whose settings the following may replace",
                          choices=CUTOUT_METHODS)
    num_cutouts: int = option(16, "cutouts", "views of each picture at each step", low=1, whole=True)
    cut_pow: float | None = option(None, "cutouts", "above 1 favours small windows, below 1 large ones", above=0)
    min_cut: float | None = option(None, "cutouts", "smallest window, in shares of the shorter side", above=0)
    max_cut: float | None = option(None, "cutouts", "largest window, in shares of the shorter side; may exceed 1",
                                   above=0)
    noise: float | None = option(None, "cutouts", "largest standard deviation of the noise on a cutout", low=0)
    augmentations: str | Sequence[str] | Mapping | Augmentations | None = option(
        None, "cutouts", "a named set, names such as `affine perspective`, or a mapping of changes")
    tv_weight: float = option(0.0, "regularisers", "of the total variation of the picture", low=0)
    init_weight: float = option(0.0, "regularisers", "of a pull on z", low=0)
    init_weight_mode: str = option("to_init", "regularisers", "`to_init`: w/2 mean (z - z_start)^2; `to_zero_decay`: "
                                   "w/2 mean z^2 / (2 step + 1)", choices=INIT_WEIGHT_MODES)
    prior_weight: float = option(0.0, "regularisers", "of the prior's own tether, if it has one", low=0)
    precision: str = option("float32", "machine", "of the networks; z, losses and optimiser stay in float32",
                            choices=PRECISIONS)
    device: str = option("auto", "machine", "where to run when the networks are loaded by name")
    cutout_passes: int = option(1, "machine", "parts in which the cutouts of a step are shown to the guides, to save "
                                "memory; the gradient is that of one part", low=1, whole=True)
    checkpoint: bool = option(False, "machine", "compute the decoder's activations twice instead of keeping them")
    channels_last: bool = option(True, "machine", "memory layout that convolutions like")
    compile: bool = option(False, "machine", "`torch.compile` the networks; pays off after minutes")

    def __post_init__(self):
        if isinstance(self.prompt, Sequence) and not isinstance(self.prompt, str):
            self._set(prompt=tuple(self.prompt))
            if not self.prompt:
                raise BadParameter("prompt is an empty list; give one text, or a list of texts")
        self._set(clip=(self.clip,) if isinstance(self.clip, str) else tuple(self.clip))
        weights = self.clip_weights
        weights = [weights] * len(self.clip) if isinstance(weights, (int, float)) else weights
        self._set(clip_weights=tuple(float(w) for w in weights), progressive=_tuple(self.progressive))
        if self.augmentations is not None:
            self._set(augmentations=resolve_augmentations(self.augmentations))
        for field in dataclasses.fields(self):
            _check(field.name, getattr(self, field.name), field.metadata)
        self._set(**{name: _extra_prompts(name, getattr(self, name))
                     for name in ("image_prompts", "noise_prompts", "vector_prompts", "regions")})
        optimizer_class(self.optimizer)
        LatentEMA(self.ema)
        self.prompts()
        self._check_together()

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)  # frozen, so by hand

    def _check_together(self) -> None:
        if not self.clip or len(self.clip_weights) != len(self.clip):
            raise BadParameter(f"clip names {len(self.clip)} guides and clip_weights has {len(self.clip_weights)}; "
                               "give one weight per guide, and at least one guide")
        if min(self.clip_weights) < 0 or not any(self.clip_weights):
            raise BadParameter(f"clip_weights must be at least 0, and one of them above, got {self.clip_weights}")
        if self.min_cut is not None and self.min_cut > (self.max_cut or math.inf):
            raise BadParameter(f"min_cut must be at most max_cut ({self.max_cut}), got {self.min_cut}; "
                               "both are shares of the picture's shorter side")
        if self.subspace_steps > self.steps:
            raise BadParameter(f"subspace_steps ({self.subspace_steps}) are the first of all steps and cannot exceed "
                               f"steps ({self.steps})")
        if self.subspace_steps and (self.progressive or self.tile):
            raise BadParameter("subspace_steps need one size and the whole picture; leave out progressive and tile")
        if (self.init in ("image", "previous")) != (self.init_image is not None):
            raise BadParameter(f"init={self.init!r} and init_image={self.init_image!r} contradict each other: "
                               "init_image goes with init='image' or 'previous', and only with these")
        if self.redraw and self.init == "prior":
            raise BadParameter("redraw is for starts that are not the prior's own; leave it out, or change init")
        if self.mask is not None:
            if self.init_image is None:
                raise BadParameter("mask says which part of init_image is kept; give init='image' and init_image")
            if not isinstance(self.mask, str):
                check_box(self.mask, "mask")
                self._set(mask=_tuple(self.mask))

    @classmethod
    def from_options(cls, prompt: Any, **options: Any) -> "GuidanceConfig":
        """Build a configuration from keyword options, answering a misspelt one with the nearest names."""
        known = [f.name for f in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                if near := difflib.get_close_matches(name.lower(), ALIASES, n=1, cutoff=0.8):
                    raise UnknownName(f"unknown option {name!r}; here it is called {ALIASES[near[0]]!r}")
                raise unknown_name("option", name, known)
        return cls(prompt, **options)

    def groups(self) -> list[Any]:
        """Return the prompt of each picture group, as it was given."""
        return list(self.prompt) if isinstance(self.prompt, tuple) else [self.prompt]

    def prompts(self) -> list[list[Prompt]]:
        """Return all prompts of each picture group."""
        shared = [*self.image_prompts, *self.noise_prompts, *self.vector_prompts, *self.regions]
        return [parse_prompts(group, cross_fade=self.cross_fade) + shared for group in self.groups()]

    def seeds(self) -> list[int]:
        """Return the seed of every picture, those of one prompt next to one another."""
        return [self.seed + j for _ in self.groups() for j in range(self.num_images)]

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain JSON types; `GuidanceConfig(**d)` rebuilds the object."""
        def plain(value: Any) -> Any:
            if isinstance(value, Prompt):
                return value.to_dict()
            if dataclasses.is_dataclass(value):
                return plain(dataclasses.asdict(value))
            if isinstance(value, Mapping):
                return {k: plain(v) for k, v in value.items()}
            return [plain(v) for v in value] if isinstance(value, (tuple, list)) else value

        return {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self)}


def _tuple(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in ([values] if isinstance(values, (int, float)) else values))


def _check(name: str, value: Any, limits: Mapping[str, Any]) -> None:
    """Refuse a value outside what `option` says of it."""
    if value is None or name == "prompt":
        return
    if "choices" in limits:
        if value not in limits["choices"]:
            raise unknown_name(name, str(value), limits["choices"])
    elif "each" in limits:
        low, high = limits["each"]
        if not all(low <= v <= high for v in value):
            raise BadParameter(f"{name} must be shares in [{low}, {high}], got {value}")
    elif "low" in limits or "above" in limits:
        low, high, whole = limits.get("low", limits.get("above")), limits.get("high", math.inf), limits.get("whole")
        right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not right or not low <= value <= high or value == math.inf or ("above" in limits and value == low):
            bounds = f"above {low}" if "above" in limits else f"of at least {low}"
            bounds += "" if high == math.inf else f" and at most {high}"
            raise BadParameter(f"{name} must be a {'whole ' if whole else ''}number {bounds}, got {value!r}")


def _extra_prompts(name: str, given: Any) -> tuple[Prompt, ...]:
    """Return the prompts of one of the options that hold lists of them."""
    kind = name.removesuffix("_prompts")
    if name == "regions":
        pairs = given.items() if isinstance(given, Mapping) else given
        return tuple(p if isinstance(p, Prompt) else parse_prompt(p) if isinstance(p, Mapping)
                     else dataclasses.replace(parse_prompt(p[0]), region=p[1]) for p in pairs)
    given = [given] if isinstance(given, (str, int, Prompt, np.ndarray)) else given
    return tuple(_typed(kind, spec) for spec in given)


def _typed(kind: str, spec: Any) -> Prompt:
    """Return a prompt of a kind that is not text."""
    if isinstance(spec, (Prompt, Mapping)):
        return parse_prompt(spec)
    if kind == "vector" and not isinstance(spec, str):
        return Prompt("vector", kind=kind, vector=tuple(float(v) for v in spec))
    prompt = parse_prompt(str(spec))
    if kind == "noise":
        return dataclasses.replace(prompt, kind=kind)
    if not Path(prompt.text).expanduser().is_file():
        raise MissingAsset(f"no file {prompt.text} for an {kind} prompt; correct the path")
    if kind == "image":
        return dataclasses.replace(prompt, kind=kind)
    numbers = np.load(Path(prompt.text).expanduser(), allow_pickle=False).astype(float).ravel()
    return dataclasses.replace(prompt, kind=kind, vector=tuple(numbers.tolist()))


def options_table() -> list[dict[str, str]]:
    """Return the options as rows with group, name, default and meaning, in the order of the dataclass."""
    rows = []
    for field in dataclasses.fields(GuidanceConfig):
        choices = field.metadata.get("choices")
        named = f" ({', '.join(choices)})" if choices and not all(c in field.metadata["text"] for c in choices) else ""
        default = "" if field.name == "prompt" else repr(field.default)
        rows.append({"group": field.metadata["group"], "option": field.name, "default": default,
                     "meaning": field.metadata["text"] + named})
    return rows


# names that other tools use
ALIASES = {"iterations": "steps", "max_iterations": "steps", "lr": "learning_rate", "step_size": "learning_rate",
           "cutn": "num_cutouts", "cutout_method": "cutouts", "optimiser": "optimizer", "prompts": "prompt",
           "batch": "num_images", "batch_size": "num_images", "size": "width", "noise_fac": "noise",
           "best_of": "candidates", "clip_model": "clip", "vqgan": "model", "negative_prompt": "prompt",
           "start_image": "init_image", "init_noise": "init", "epochs": "steps"}
