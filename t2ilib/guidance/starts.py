"""Where a run starts: random codes, a prior's samples, pictures, noise, an earlier result; the best of several."""

import torch
from torch import Tensor

from .latents import prior_samples, random_codes, resize, select_starts
from .noise import NOISES, noise_picture
from .objective import render
from .setup import RunSetup
from ..errors import BadParameter
from ..media import fit_picture, load_picture, png

SELECTION_CUTOUTS = 4  # augmented views, beside the whole picture, by which the guides choose among candidates


def make_starts(run: RunSetup, latents: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return where each picture starts, the best of its candidates (B, D, h, w), and which candidate that was (B,).

    Raises:
        BadParameter: the configuration and what was given contradict each other.
    """
    config, size = run.config, run.stages[0].size
    if (latents is not None) != (config.init == "latents"):
        raise BadParameter(f"init={config.init!r} and latents={'a tensor' if latents is not None else None} contradict "
                           "each other: init='latents' goes with latents=..., and only that")
    if config.init == "prior":
        if run.prior is None:
            raise BadParameter("init='prior' needs prior=..., an object with sample(prompts, num=, generators=, size=)")
        starts = prior_samples(run.prior, run.texts, size, run.generators("start"), config.candidates)
    elif config.init == "random":
        starts = random_codes(run.vqgan.codebook, size, run.generators("start"), config.candidates)
    elif config.init in NOISES:
        noise = [noise_picture(config.init, run.start_size, g) for g in run.generators("start")
                 for _ in range(config.candidates)]
        starts = encode_pictures(run.vqgan, torch.stack(noise)).unflatten(0, (-1, config.candidates))
    elif config.init == "image":
        picture = fit_picture(load_picture(config.init_image), run.start_size)
        starts = encode_pictures(run.vqgan, picture[None])[None].expand(len(run.seeds), -1, -1, -1, -1)
    elif config.init == "previous":
        starts = _previous(run, size)[None].expand(len(run.seeds), -1, -1, -1, -1)
    else:
        starts = _given(latents, len(run.seeds), (run.vqgan.codebook.shape[1], *size))
    starts = starts.to(run.device, torch.promote_types(run.vqgan.codebook.dtype, torch.float32))
    return choose_starts(run, _redraw(run, starts) if config.redraw else starts)


def _redraw(run: RunSetup, starts: Tensor) -> Tensor:
    """Let the prior draw the first start of each picture anew, once for each candidate: (B, N, D, h, w)."""
    config = run.config
    if not hasattr(run.prior, "redraw"):
        raise BadParameter("redraw needs prior=..., an object with redraw(z, prompts, num=, generators=, strength=)")
    z = run.prior.redraw(starts[:, 0], run.texts, num=config.candidates, generators=run.generators("redraw"),
                         strength=config.redraw)
    return z.to(starts).unflatten(0, (len(starts), config.candidates))


def choose_starts(run: RunSetup, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the candidate that the guides prefer: (B, N, D, h, w) -> (B, D, h, w) and its index (B,).

    All candidates of a picture are compared through the same views: the whole picture, and augmented ones.
    """
    if starts.shape[1] == 1:
        return starts[:, 0], torch.zeros(len(starts), dtype=torch.long)
    views = [run.draw_quiet([g], SELECTION_CUTOUTS) for g in run.generators("selection")]

    def score(z: Tensor, picture: int) -> Tensor:
        images, _ = render(run.vqgan, z, run.dtype)
        owner = torch.full((len(z),), picture, device=run.device)
        loss = run.guides.losses(images, run.whole(len(z)), owner)
        shared = {region: p.expand(len(z)) for region, p in views[picture].items()}
        loss = loss + run.guides.losses(images, shared, owner)
        return -loss

    return select_starts(starts, score, shares=run.guides.shares)


@torch.no_grad()
def encode_pictures(vqgan, pictures: Tensor) -> Tensor:
    """Return the quantised latents of pictures: (B, 3, H, W) in [0, 1] -> (B, D, h, w)."""
    if not hasattr(vqgan, "encode_codes"):
        raise BadParameter(f"{type(vqgan).__name__} has no encoder, so a run cannot start from a picture; use "
                           "init='random'")
    parts = [vqgan.embed_codes(vqgan.encode_codes(p.to(vqgan.codebook.device) * 2 - 1)) for p in pictures.split(8)]
    return torch.cat(parts)


def _previous(run: RunSetup, size: tuple[int, int]) -> Tensor:
    """Return the latents (1, D, h, w) of the codes that a PNG made by this library carries."""
    path = run.config.init_image
    record = png.read_record(path)
    codes, made = record.get("codes"), record.get("config", {}).get("model")
    if codes is None:
        raise BadParameter(f"{path} carries no codes of a VQGAN; use init='image' to start from its pixels")
    if made != run.config.model:
        raise BadParameter(f"{path} carries codes of {made!r}, this run is of {run.config.model!r}; name that model, "
                           "or use init='image' to start from its pixels")
    codes = torch.tensor(codes, device=run.vqgan.codebook.device)
    return resize(run.vqgan.embed_codes(codes[None]), size)


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
