"""VQGAN+CLIP: move the latents of a picture until CLIP finds the prompt in it (Crowson et al. 2022, 2204.08583)."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import runtime
from ..errors import BadParameter, RunFailed
from .config import OPTIMIZERS, GuidanceConfig
from .cutouts import CutoutParameters, draw_cutouts, whole_picture
from .latents import Basis, FreeLatents, Prior, SubspaceLatents, prior_samples, random_codes, select_starts
from .objective import Guides, Step, build_terms, frozen, render
from .ops import LatentEMA
from .prompts import main_text

Cutouts = CutoutParameters | Callable[[int], CutoutParameters] | None


@dataclass
class Preview:
    """What a callback gets after each step: the picture before that step, without a gradient.

    Shapes:
        images (B, 3, H, W) in [0, 1], losses (B,)
    """

    step: int
    steps: int
    images: Tensor
    losses: Tensor


@dataclass
class Result:
    """Outcome of a run.

    Shapes:
        images (B, 3, H, W) in [0, 1], z (B, D, h, w), codes (B, h, w), z_start (B, D, h, w), losses (steps, B)

    Attributes:
        history: one dict per step with the batch mean of the loss and of each of its terms.
        record: configuration, size, seeds, chosen candidates, similarities, time and versions, as plain JSON types.
    """

    images: Tensor
    z: Tensor
    codes: Tensor
    z_start: Tensor
    losses: Tensor
    history: list[dict[str, float]]
    record: dict[str, Any]


class _Run:
    """What the parts of one run share."""

    def __init__(self, config: GuidanceConfig, vqgan, clips, prior: Prior | None):
        self.config, self.prior = config, prior
        self.vqgan, clips, weights = _networks(config, vqgan, clips)
        self.device = self.vqgan.codebook.device
        self.dtype = runtime.pick_dtype(self.device, config.precision)
        self.prompts = [group for group in config.prompts() for _ in range(config.num_images)]
        self.texts = [main_text(group) for group in self.prompts]
        self.seeds = config.seeds()
        self.size = _latent_size(config, self.vqgan)
        self.image_size = tuple(side * self.vqgan.factor for side in self.size)
        self.networks = [self.vqgan, *clips]
        with frozen(*self.networks):
            self.guides = Guides(clips, weights, self.prompts, self.dtype)
        self.streams = self.generators("cutouts")

    def generators(self, name: str) -> list[torch.Generator]:
        """Return one random stream for each picture, independent of the rest of the batch."""
        return [runtime.generator(seed, "guidance", name) for seed in self.seeds]

    def draw(self) -> CutoutParameters:
        """Draw the cutouts of the next step."""
        c = self.config
        return draw_cutouts(self.streams, c.num_cutouts, self.image_size, cut_size=self.guides.cut_size,
                            cut_pow=c.cut_pow, min_cut=c.min_cut, max_cut=c.max_cut, noise=c.noise,
                            augmentations=c.augmentations)


def vqgan_clip(config: GuidanceConfig, *, vqgan=None, clips=None, prior: Prior | None = None,
               latents: Tensor | None = None, basis: Basis | None = None, cutouts: Cutouts = None,
               callback: Callable[[Preview], bool | None] | None = None, progress: bool = False) -> Result:
    """Make pictures for the prompts of a configuration.

    Args:
        config: everything that decides the picture.
        vqgan: `.encode`, `.decode`, `.codebook`, `.factor`; None loads `config.model`.
        clips: one guide or a list (`.encode_image`, `.encode_text`, `.image_size`); None loads `config.clip`.
        prior: for `init="prior"`, see `Prior`.
        latents: for `init="latents"`, (D, h, w), (B, D, h, w) or, with candidates, (B, N, D, h, w).
        basis: for `subspace_steps`.
        cutouts: fixed cutouts instead of drawn ones: parameters, or a function of the step that returns them.
        callback: called after every step; a true return value ends the run early.
        progress: show a progress bar.

    Raises:
        BadParameter: the configuration and the arguments contradict each other.
        RunFailed: the loss stopped being a number.
    """
    began = time.perf_counter()
    run = _Run(config, vqgan, clips, prior)
    with frozen(*run.networks):
        z_start, chosen = _start(run, latents)
        z, losses, history, done = _optimise(run, z_start, basis, cutouts, callback, progress)
        with torch.no_grad():
            images, codes = render(run.vqgan, z, run.dtype)
        similarity = run.guides.similarity(images)
    record = {
        "config": config.to_dict(), "height": run.image_size[0], "width": run.image_size[1], "seeds": run.seeds,
        "prompts": run.texts, "steps_done": done, "candidate_chosen": chosen.tolist(),
        "guide_similarity": similarity.tolist(), "seconds": round(time.perf_counter() - began, 3),
        "device": runtime.device_name(run.device), "dtype": str(run.dtype).removeprefix("torch."),
        "versions": runtime.versions(),
    }
    return Result(images, z, codes, z_start, losses, history, record)


def _optimise(run: _Run, z_start: Tensor, basis: Basis | None, cutouts: Cutouts, callback, progress: bool):
    """Run the loop; return the final z, losses (steps, B), history, and the number of steps made."""
    config = run.config
    terms = build_terms(config, run.guides, z_start, run.prior, run.texts, run.generators("prior tether"))
    if config.subspace_steps and basis is None:
        raise BadParameter("subspace_steps needs basis=...; build one with Basis.fit(latents, k)")
    latents = SubspaceLatents(z_start, basis) if config.subspace_steps else FreeLatents(z_start, run.vqgan.codebook)
    optimizer = OPTIMIZERS[config.optimizer](latents.parameters(), lr=config.learning_rate)
    ema, rows = LatentEMA(config.ema), []
    steps = range(config.steps)
    for index in runtime.progress(steps, desc="guidance") if progress else steps:
        if index and index == config.subspace_steps:  # leave the subspace: from here on every latent may move
            latents = FreeLatents(latents(), run.vqgan.codebook)
            optimizer = OPTIMIZERS[config.optimizer](latents.parameters(), lr=config.learning_rate)
        z = latents()
        images, _ = render(run.vqgan, z, run.dtype)
        step = Step(index, z, images, _cutouts_of(cutouts, index, run))
        values = {name: term(step) for name, term in terms.items()}  # each (B,)
        loss = torch.stack(list(values.values())).sum(dim=0)
        optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()  # the sum, so that one picture's step does not depend on the number of the others
        optimizer.step()
        latents.clamp_()
        ema.update(latents())
        rows.append(torch.stack([loss.detach(), *(v.detach() for v in values.values())]))
        if callback and callback(Preview(index, config.steps, images.detach(), loss.detach())):
            break
    z = (ema.value() if rows else latents()).detach()
    losses, history = _history(rows, list(terms), len(run.seeds))
    return z, losses, history, len(rows)


def _history(rows: list[Tensor], names: list[str], pictures: int) -> tuple[Tensor, list[dict[str, float]]]:
    """Move the losses off the device once, after the loop: reading them in each step would wait for the GPU."""
    if not rows:
        return torch.zeros(0, pictures), []
    table = torch.stack(rows).cpu()  # (steps, 1 + terms, B)
    bad = (~table[:, 0].isfinite()).any(dim=1).nonzero()
    if len(bad):
        raise RunFailed(f"the loss is not a number from step {int(bad[0])} on; try a smaller learning_rate, or "
                        "precision='float32'")
    means = table.mean(dim=2).tolist()
    history = [{"step": i, **dict(zip(["loss", *names], row, strict=True))} for i, row in enumerate(means)]
    return table[:, 0], history


def _cutouts_of(cutouts: Cutouts, index: int, run: _Run) -> CutoutParameters:
    if cutouts is None:
        return run.draw()
    return cutouts(index) if callable(cutouts) else cutouts


def _start(run: _Run, latents: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return where each picture starts, the best of its candidates, and which candidate that was."""
    config, count = run.config, len(run.seeds)
    if (latents is not None) != (config.init == "latents"):
        raise BadParameter(f"init={config.init!r} and latents={'a tensor' if latents is not None else None} contradict "
                           "each other: init='latents' goes with latents=..., and only that")
    if config.init == "prior":
        if run.prior is None:
            raise BadParameter("init='prior' needs prior=..., an object with sample(prompts, num=, generators=, size=)")
        starts = prior_samples(run.prior, run.texts, run.size, run.generators("start"), config.candidates)
    elif config.init == "random":
        starts = random_codes(run.vqgan.codebook, run.size, run.generators("start"), config.candidates)
    else:
        starts = _given(latents, count, (run.vqgan.codebook.shape[1], *run.size))
    starts = starts.to(run.device, torch.promote_types(run.vqgan.codebook.dtype, torch.float32))
    # all candidates of a picture are compared through the same views: the whole picture, and augmented ones
    streams, views = run.generators("selection"), []
    if config.select_cutouts and starts.shape[1] > 1:
        views = [draw_cutouts([g], config.select_cutouts, run.image_size, cut_size=run.guides.cut_size,
                              cut_pow=config.cut_pow, min_cut=config.min_cut, max_cut=config.max_cut,
                              augmentations=config.augmentations) for g in streams]

    def score(z: Tensor, picture: int) -> Tensor:
        images, _ = render(run.vqgan, z, run.dtype)
        owner = torch.full((len(z),), picture, device=run.device)
        loss = run.guides.losses(images, whole_picture(len(z), run.image_size), owner)
        if views:
            loss = loss + run.guides.losses(images, views[picture].expand(len(z)), owner)
        return -loss

    return select_starts(starts, score, shares=run.guides.shares)


def _given(latents: Tensor, count: int, shape: tuple[int, int, int]) -> Tensor:
    """Bring given latents to (B, N, D, h, w)."""
    z = latents[None] if latents.ndim == 3 else latents
    z = z[:, None] if z.ndim == 4 else z
    if z.ndim != 5 or tuple(z.shape[2:]) != shape or len(z) not in (1, count):
        raise BadParameter(f"latents have shape {tuple(latents.shape)}, expected {shape} for one start, or "
                           f"({count}, ...) for {count} pictures; check width and height")
    if not z.isfinite().all():
        raise BadParameter("latents hold values that are not a number; check where they come from")
    return z.expand(count, *z.shape[1:])


def _latent_size(config: GuidanceConfig, vqgan) -> tuple[int, int]:
    native = getattr(vqgan, "resolution", None) or getattr(vqgan, "config", {}).get("resolution")
    size = config.latent_size(vqgan.factor, native)
    for name, given, codes in (("height", config.height, size[0]), ("width", config.width, size[1])):
        if given is not None and given != codes * vqgan.factor:
            warnings.warn(f"{name} {given} is not a multiple of {vqgan.factor}: the picture has {codes * vqgan.factor}",
                          stacklevel=4)
    return size


def _networks(config: GuidanceConfig, vqgan, clips) -> tuple[Any, list, Sequence[float]]:
    """Load what was not given; return the VQGAN, the guides and their weights."""
    if vqgan is None:
        from ..models.vqgan import load_vqgan

        vqgan = load_vqgan(config.model).to(runtime.pick_device(config.device))
    if clips is None:
        from ..encoders import load_clip

        clips = [load_clip(name, device=vqgan.codebook.device) for name in config.clip]
    clips = list(clips) if isinstance(clips, (list, tuple)) else [clips]
    weights = config.clip_weights
    if len(clips) != len(weights):
        if len(set(weights)) > 1:
            raise BadParameter(f"got {len(clips)} guides and clip_weights {weights}; give one weight per guide")
        weights = [weights[0]] * len(clips)
    return vqgan, clips, weights
