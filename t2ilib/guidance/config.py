"""The named configuration of one VQGAN+CLIP run: everything that decides the picture, in one object."""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import BadParameter, UnknownName, unknown_name
from .augment import Augmentations, resolve_augmentations
from .ops import LatentEMA
from .prompts import Prompt, parse_prompts

INITS = ("random", "prior", "latents")
INIT_WEIGHT_MODES = ("to_init", "to_zero_decay")
PRECISIONS = ("float32", "auto", "bfloat16", "float16")
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adamax": torch.optim.Adamax,
              "adagrad": torch.optim.Adagrad, "nadam": torch.optim.NAdam, "radam": torch.optim.RAdam,
              "rmsprop": torch.optim.RMSprop, "sgd": torch.optim.SGD}


@dataclass(frozen=True)
class GuidanceConfig:
    """Options of `vqgan_clip`. Every one is checked when the object is built.

    Attributes:
        prompt: one text for all pictures (`|` separates several prompts, `text:weight:stop`, see `parse_prompts`), or a
            list with one such text per picture group: the run makes `num_images` pictures of each.
        width, height: size in pixels, rounded down to the VQGAN's multiple (that is warned about); None is the size
            at which the VQGAN was trained.
        model: name of the VQGAN. clip: name of the guiding CLIP, or a list of names. clip_weights: their shares.
        seed: picture j of each prompt has the stream `seed + j`, whatever the batch.
        num_images: pictures of each prompt, made in one pass.
        steps: number of optimiser steps, exactly.
        num_cutouts: views of each picture at each step. cut_pow, min_cut, max_cut: see `window_sizes`.
        noise: largest standard deviation of the noise on a cutout. augmentations: a name or a mapping,
            see `resolve_augmentations`.
        learning_rate, optimizer: of the optimiser, whose names are those of torch in lower case.
        init: "random" codes, "prior" (a sample of the prior) or "latents" (passed to `vqgan_clip`).
        candidates: starts drawn for each picture, of which the guides keep the best. select_cutouts: augmented
            views, beside the whole picture, by which they choose.
        tv_weight: of the total variation of the picture.
        init_weight, init_weight_mode: pull "to_init" (w/2 mean (z - z_start)^2) or "to_zero_decay"
            (w/2 mean z^2 / (2 step + 1)).
        prior_weight: of the prior's own regulariser, if it has one.
        subspace_steps: first steps, in which only coefficients in the `basis` passed to `vqgan_clip` move.
        ema: decay of the average of z that becomes the picture; 0 takes the last z.
        precision: of the networks; z, losses and the optimiser stay in float32.
        device: where to run when `vqgan_clip` loads the networks itself.

    Raises:
        UnknownName: a name or an option is not known; close ones are suggested.
        BadParameter: a value is out of range or contradicts another.
    """

    prompt: str | Prompt | Sequence[str | Prompt]
    width: int | None = None
    height: int | None = None
    model: str = "emoji-vqgan-128"
    clip: str | Sequence[str] = "emoji-clip"
    clip_weights: float | Sequence[float] = 1.0
    seed: int = 0
    num_images: int = 1
    steps: int = 100
    num_cutouts: int = 16
    cut_pow: float = 1.0
    min_cut: float | None = None
    max_cut: float = 1.0
    noise: float = 0.1
    augmentations: str | Mapping | Augmentations = "plain"
    learning_rate: float = 0.1
    optimizer: str = "adam"
    init: str = "random"
    candidates: int = 1
    select_cutouts: int = 4
    tv_weight: float = 0.0
    init_weight: float = 0.0
    init_weight_mode: str = "to_init"
    prior_weight: float = 0.0
    subspace_steps: int = 0
    ema: float = 0.0
    precision: str = "float32"
    device: str = "auto"

    def __post_init__(self):
        set_ = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  (frozen, so by hand)
        if isinstance(self.prompt, Sequence) and not isinstance(self.prompt, str):
            set_("prompt", tuple(self.prompt))
            if not self.prompt:
                raise BadParameter("prompt is an empty list; give one text, or a list of texts")
        set_("clip", (self.clip,) if isinstance(self.clip, str) else tuple(self.clip))
        weights = self.clip_weights
        weights = [weights] * len(self.clip) if isinstance(weights, (int, float)) else weights
        set_("clip_weights", tuple(float(w) for w in weights))
        set_("augmentations", resolve_augmentations(self.augmentations))
        self.prompts()
        self._check_numbers()
        for name, known in (("optimizer", OPTIMIZERS), ("init", INITS), ("init_weight_mode", INIT_WEIGHT_MODES),
                            ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise unknown_name(name, str(getattr(self, name)), known)
        if not self.clip or len(self.clip_weights) != len(self.clip):
            raise BadParameter(f"clip names {len(self.clip)} guides and clip_weights has {len(self.clip_weights)}; "
                               "give one weight per guide, and at least one guide")
        if min(self.clip_weights) < 0 or not any(self.clip_weights):
            raise BadParameter(f"clip_weights must be at least 0, and one of them above, got {self.clip_weights}")

    def _check_numbers(self) -> None:
        whole = {"seed": 0, "num_images": 1, "steps": 0, "num_cutouts": 1, "candidates": 1, "select_cutouts": 0,
                 "subspace_steps": 0, "width": 1, "height": 1}
        for name, low in whole.items():
            value = getattr(self, name)
            if value is None and name in ("width", "height"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise BadParameter(f"{name} must be a whole number of at least {low}, got {value!r}")
        real = ("noise", "tv_weight", "init_weight", "prior_weight", "learning_rate", "cut_pow", "max_cut", "ema")
        for name in real:
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
                raise BadParameter(f"{name} must be a number of at least 0, got {value!r}")
            if value == 0 and name in ("learning_rate", "cut_pow", "max_cut"):
                raise BadParameter(f"{name} must be above 0, got {value!r}")
        if self.min_cut is not None and not 0 < self.min_cut <= self.max_cut:
            raise BadParameter(f"min_cut must be above 0 and at most max_cut ({self.max_cut}), got {self.min_cut}; "
                               "both are shares of the picture's shorter side")
        if self.subspace_steps > self.steps:
            raise BadParameter(f"subspace_steps ({self.subspace_steps}) are the first of all steps and cannot exceed "
                               f"steps ({self.steps})")
        LatentEMA(self.ema)

    @classmethod
    def from_options(cls, prompt: str | Sequence[str], **options: Any) -> "GuidanceConfig":
        """Build a configuration from keyword options, answering a misspelt one with the nearest names."""
        known = [f.name for f in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                if near := difflib.get_close_matches(name.lower(), ALIASES, n=1, cutoff=0.8):
                    raise UnknownName(f"unknown option {name!r}; here it is called {ALIASES[near[0]]!r}")
                raise unknown_name("option", name, known)
        return cls(prompt, **options)

    def prompts(self) -> list[list[Prompt]]:
        """Return the prompts of each picture group."""
        groups = [self.prompt] if isinstance(self.prompt, (str, Prompt)) else list(self.prompt)
        return [parse_prompts(group) for group in groups]

    def seeds(self) -> list[int]:
        """Return the seed of every picture, those of one prompt next to one another."""
        return [self.seed + j for _ in self.prompts() for j in range(self.num_images)]

    def latent_size(self, factor: int, native: int | None = None) -> tuple[int, int]:
        """Return (h, w) in codes for a VQGAN that shrinks by `factor` and was trained at `native` pixels.

        Raises:
            BadParameter: no size is given and none is native, or less than one code fits.
        """
        sides = []
        for name, value in (("height", self.height), ("width", self.width)):
            value = native if value is None else value
            if value is None:
                raise BadParameter(f"{name} is not given and the VQGAN has no size of its own; set width and height")
            if value < factor:
                raise BadParameter(f"{name} {value} holds no whole code: this VQGAN needs at least {factor} pixels")
            sides.append(value // factor)
        return sides[0], sides[1]

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain JSON types; `GuidanceConfig(**d)` rebuilds the object."""
        def plain(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {k: plain(v) for k, v in value.items()}
            return [plain(v) for v in value] if isinstance(value, tuple) else value

        def text(group: str | Prompt) -> str:
            return group if isinstance(group, str) else _spell(group)

        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        one = isinstance(self.prompt, (str, Prompt))
        options["prompt"] = text(self.prompt) if one else [text(group) for group in self.prompt]
        options["augmentations"] = dataclasses.asdict(self.augmentations)
        return plain(options)


def _spell(prompt: Prompt) -> str:
    """Write a prompt so that `parse_prompt` reads it back."""
    text = prompt.text.replace(":", r"\:").replace("|", r"\|")
    return f"{text}:{prompt.weight}" + ("" if prompt.stop == -math.inf else f":{prompt.stop}")


# names that other tools use
ALIASES = {"iterations": "steps", "max_iterations": "steps", "lr": "learning_rate", "step_size": "learning_rate",
           "cutn": "num_cutouts", "cutouts": "num_cutouts", "optimiser": "optimizer", "prompts": "prompt",
           "batch": "num_images", "batch_size": "num_images", "size": "width", "noise_fac": "noise",
           "best_of": "candidates", "clip_model": "clip", "vqgan": "model"}
