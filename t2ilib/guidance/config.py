"""The named configuration of one VQGAN+CLIP run: everything that decides the picture, in one object."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .augment import Augmentations, resolve_augmentations
from .cutout_methods import CUTOUT_METHODS
from .noise import NOISES
from .prompts import Prompt, parse_prompts, prompts_of_kind, region_prompts
from .schedule import LR_SCHEDULES, optimizer_class
from ..encoders.clip import LONG_TEXTS
from ..errors import BadParameter
from ..media import check_box
from ..options import check_fields, check_option_names, option, options_of

INITS = ("random", "prior", "latents", "image", "previous", *NOISES)
INIT_WEIGHT_MODES = ("to_init", "to_zero_decay")
PRECISIONS = ("float32", "auto", "bfloat16", "float16")
LARGEST_SIDE = 16_384  # pixels; beyond that a number was meant as something else
MOST_STEPS = 100_000
# names that other tools use -> the name here
ALIASES = {"iterations": "steps", "max_iterations": "steps", "epochs": "steps", "lr": "learning_rate",
           "step_size": "learning_rate", "cutn": "num_cutouts", "cutout_method": "cutouts", "noise_fac": "noise",
           "optimiser": "optimizer", "prompts": "prompt", "negative_prompt": "prompt", "batch": "num_images",
           "batch_size": "num_images", "size": "width", "best_of": "candidates", "clip_model": "clip",
           "vqgan": "model", "start_image": "init_image", "init_noise": "init"}


@dataclass(frozen=True)
class GuidanceConfig:
    """Options of `vqgan_clip`, each checked when the object is built; `options_of(GuidanceConfig)` lists them.

    Lists become tuples and names of sets become the sets, so that equal runs have equal configurations. `to_dict()`
    gives plain JSON types, from which `GuidanceConfig(**d)` rebuilds the object.

    Raises:
        UnknownName: a name or an option is not known; close ones are suggested.
        BadParameter: a value is out of range or contradicts another.
        MissingAsset: a file that an option names does not exist.
    """

    prompt: str | Prompt | Mapping | Sequence = option(
        dataclasses.MISSING, "prompts", "one text for all pictures, or a list with one for each group of `num_images`; "
        "`text:weight:stop`, `|` between several, `^` between the scenes of a story", type="Any")
    image_prompts: Sequence = option(
        (), "prompts", "pictures that guide as prompts do, `path:weight:stop` each", type="Any")
    noise_prompts: Sequence = option(
        (), "prompts", "random directions in CLIP's space that guide, `seed:weight` each", type="Any")
    vector_prompts: Sequence = option(
        (), "prompts", "points in CLIP's space that guide: lists of numbers, or paths of `.npy` files, `path:weight`",
        type="Any")
    regions: Mapping | Sequence = option(
        (), "prompts", "prompts for a part of the picture: `{'a star': (x0, y0, x1, y1)}`, in shares of its sides; the "
        "shipped networks answer with its colour at most, not with a second thing", type="Any")
    cross_fade: float = option(
        0.0, "prompts", "share of a scene of a story that blends with the next", low=0, high=1)
    long_prompts: str = option(
        "truncate", "prompts", "a text longer than the guide reads: cut it off (it warns), or average overlapping "
        "`windows`", choices=LONG_TEXTS)
    model: str = option("emoji-vqgan-128", "networks", "name or path of the VQGAN")
    clip: str | Sequence[str] = option(
        "emoji-clip", "networks", "name of the guide, or a list of names", type="str | list[str]")
    clip_weights: float | Sequence[float] = option(
        1.0, "networks", "share of each guide", type="float | list[float]", low=0)
    width: int | None = option(
        None, "size", "pixels, rounded down to the VQGAN's multiple (it warns); None is the VQGAN's own size, or has "
        "the aspect of `init_image`", type="int | None", low=1, high=LARGEST_SIDE)
    height: int | None = option(None, "size", "as `width`", type="int | None", low=1, high=LARGEST_SIDE)
    progressive: Sequence[float] = option(
        (), "size", "sizes to begin with, in shares of the final one: (0.5,) makes the first half of the steps at half "
        "size", type="float | list[float]", low=0.05, high=1)
    tile: int | None = option(
        None, "size", "side in pixels of the part that is decoded and shown at each step, for pictures that do not fit "
        "into memory", type="int | None", low=16, high=LARGEST_SIDE)
    seed: int = option(
        0, "start", "picture j of each prompt has the streams `seed + j`, whatever the batch", low=0)
    num_images: int = option(1, "start", "pictures of each prompt, made in one pass", low=1, high=10_000)
    init: str = option(
        "random", "start", "random codes, a sample of the prior, an image, a previous result, noise of three kinds, or "
        "latents given to the function", choices=INITS)
    init_image: str | None = option(
        None, "start", "file for init `image`, or a PNG made here for `previous`", type="str | None")
    mask: str | Sequence[float] | None = option(
        None, "start", "where `init_image` may change, all else is kept: a picture, white there, or a box (x0, y0, x1, "
        "y1) in shares", type="str | list[float] | None")
    redraw: float = option(
        0.0, "start", "how far the prior draws the start anew for the prompt: 0 not at all, 1 with nothing of it left",
        low=0, high=1)
    candidates: int = option(
        1, "start", "starts for each picture, of which the guides keep the best", low=1, high=4096, slider=(1, 64))
    color_weight: float = option(
        3.0, "start", "how much the colour that a prompt asks for counts when the guides choose among candidates, in "
        "standard deviations of their scores; 0 is not at all", low=0, high=100, slider=(0.0, 6.0))
    steps: int = option(
        100, "search", "steps of the optimiser, exactly; 0 shows the start", low=0, high=MOST_STEPS, slider=(0, 200))
    optimizer: str = option("adam", "search", "any optimiser of `torch.optim` for dense gradients, in lower case")
    learning_rate: float = option(
        0.1, "search", "its largest learning rate; large values paint texture", low=0, low_open=True, high=1000,
        slider=(0.01, 0.3))
    lr_schedule: str = option(
        "constant", "search", "`constant`, `cosine` or `linear` to nothing, or `drop` to a tenth at three quarters",
        choices=LR_SCHEDULES)
    subspace_steps: int = option(
        0, "search", "first steps, in which only coefficients in the `basis` move", low=0, high=MOST_STEPS)
    ema: float = option(
        0.0, "search", "decay of the average of z that becomes the picture; 0 takes the last z", low=0, high=1)
    cutouts: str = option(
        "plain", "cutouts", "named method, whose settings the following may replace", choices=tuple(CUTOUT_METHODS))
    num_cutouts: int = option(
        16, "cutouts", "views of each picture at each step", low=1, high=4096, slider=(1, 48))
    cut_pow: float | None = option(
        None, "cutouts", "above 1 favours small windows, below 1 large ones", type="float | None", low=0,
        low_open=True, high=100)
    min_cut: float | None = option(
        None, "cutouts", "smallest window, in shares of the shorter side", type="float | None", low=0, low_open=True,
        high=100)
    max_cut: float | None = option(
        None, "cutouts", "largest window, in shares of the shorter side; may exceed 1", type="float | None", low=0,
        low_open=True, high=100)
    noise: float | None = option(
        None, "cutouts", "largest standard deviation of the noise on a cutout", type="float | None", low=0, high=100)
    augmentations: str | Sequence[str] | Mapping | Augmentations | None = option(
        None, "cutouts", "a named set, names such as `affine perspective`, or a mapping of changes", type="Any")
    tv_weight: float = option(0.0, "regularisers", "of the total variation of the picture", low=0)
    init_weight: float = option(
        0.0, "regularisers", "of a pull on z; towards a start that was painted in the prompt's colour, 20 times that",
        low=0)
    init_weight_mode: str = option(
        "to_init", "regularisers", "`to_init`: w/2 mean (z - z_start)^2; `to_zero_decay`: w/2 mean z^2 / (2 step + 1)",
        choices=INIT_WEIGHT_MODES)
    prior_weight: float = option(
        0.0, "regularisers", "of score distillation: the prior pulls z towards what it expects for the prompt", low=0,
        slider=(0.0, 8.0))
    precision: str = option(
        "float32", "machine", "of the networks; z, losses and optimiser stay in float32", choices=PRECISIONS)
    device: str = option("auto", "machine", "where to run when the networks are loaded by name")
    cutout_passes: int = option(
        1, "machine", "parts in which the cutouts of a step are shown to the guides, to save memory; the gradient is "
        "that of one part", low=1, high=4096)
    checkpoint: bool = option(
        False, "machine", "compute the decoder's activations twice instead of keeping them")
    compile: bool = option(False, "machine", "`torch.compile` the networks; pays off after minutes")

    def __post_init__(self):
        check_fields(self)
        if isinstance(self.prompt, tuple) and not self.prompt:
            raise BadParameter("prompt is an empty list; give one text, or a list of texts")
        # one value stands for a list of one
        if isinstance(self.clip, str):
            self._set("clip", (self.clip,))
        if isinstance(self.clip_weights, float):
            self._set("clip_weights", (self.clip_weights,) * len(self.clip))
        if isinstance(self.progressive, float):
            self._set("progressive", (self.progressive,))
        if self.augmentations is not None:
            self._set("augmentations", resolve_augmentations(self.augmentations))
        self._set("image_prompts", prompts_of_kind("image", self.image_prompts))
        self._set("noise_prompts", prompts_of_kind("noise", self.noise_prompts))
        self._set("vector_prompts", prompts_of_kind("vector", self.vector_prompts))
        self._set("regions", region_prompts(self.regions))
        optimizer_class(self.optimizer)  # refuses an unknown name
        self._check_guides()
        self._check_search()
        self._check_start()
        self._check_regions()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen for everybody else

    def _check_guides(self) -> None:
        if not self.clip or len(self.clip_weights) != len(self.clip):
            raise BadParameter(f"clip names {len(self.clip)} guides and clip_weights has {len(self.clip_weights)}; "
                               "give one weight per guide, and at least one guide")
        if not any(self.clip_weights):
            raise BadParameter(f"one of clip_weights must be above 0, got {self.clip_weights}")
        if self.min_cut is not None and self.min_cut > (self.max_cut or math.inf):
            raise BadParameter(f"min_cut must be at most max_cut ({self.max_cut}), got {self.min_cut}; "
                               "both are shares of the picture's shorter side")

    def _check_search(self) -> None:
        if self.ema == 1:
            raise BadParameter("ema must be below 1, which would never move; 0.95 averages about 20 steps")
        if self.subspace_steps > self.steps:
            raise BadParameter(f"subspace_steps ({self.subspace_steps}) are the first of all steps and cannot exceed "
                               f"steps ({self.steps})")
        if self.subspace_steps and (self.progressive or self.tile):
            raise BadParameter("subspace_steps need one size and the whole picture; leave out progressive and tile")

    def _check_start(self) -> None:
        starts_from_file = self.init in ("image", "previous")
        if starts_from_file != (self.init_image is not None):
            raise BadParameter(f"init={self.init!r} and init_image={self.init_image!r} contradict each other: "
                               "init_image goes with init='image' or 'previous', and only with these")
        if self.redraw and self.init == "prior":
            raise BadParameter("redraw is for starts that are not the prior's own; leave it out, or change init")
        if self.mask is not None and self.init_image is None:
            raise BadParameter("mask says which part of init_image is kept; give init='image' and init_image")
        if self.mask is not None and not isinstance(self.mask, str):
            check_box(self.mask, "mask")

    def _check_regions(self) -> None:
        has_region = any(prompt.region for group in self.prompts() for prompt in group)
        if has_region and self.tile is not None:
            raise BadParameter("a prompt for a region needs the whole picture at each step; leave out tile or regions")

    @classmethod
    def from_options(cls, prompt: Any, **options: Any) -> "GuidanceConfig":
        """Build a configuration from keyword options, answering a misspelt one with the nearest names."""
        check_option_names(options_of(cls), options, aliases=ALIASES)
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
        of_group = [self.seed + j for j in range(self.num_images)]
        return of_group * len(self.groups())

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain JSON types; `GuidanceConfig(**d)` rebuilds the object."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def _plain(value: Any) -> Any:
    """Return the value of an option as plain JSON types."""
    if isinstance(value, Prompt):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value
