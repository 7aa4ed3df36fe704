"""Where a run starts: random codes, a prior's samples, pictures, noise, an earlier result; the best of several."""

import torch
from torch import Tensor

from .latents import prior_samples, random_codes, resize, select_starts
from .noise import NOISES, noise_picture, picture_streams
from .protocols import CodingNetwork
from .setup import RunSetup
from ..data.recoloring import color_match, split_color
from ..errors import BadParameter
from ..media import fit_picture, load_picture, png, to_signed

SELECTION_CUTOUTS = 4  # augmented views, beside the whole picture, by which the guides choose among candidates


def make_starts(run: RunSetup, latents: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return where each picture starts, the best of its candidates (B, D, h, w), and which candidate that was (B,).

    Raises:
        BadParameter: the configuration and the arguments contradict each other.
    """
    if (latents is not None) != (run.config.init == "latents"):
        argument = None if latents is None else "a tensor"
        raise BadParameter(f"init={run.config.init!r} and latents={argument} contradict each other: init='latents' "
                           "goes with latents=..., and only that")
    starts = _candidates(run, latents)  # (B, N, D, h, w)
    starts = starts.to(run.device, torch.promote_types(run.vqgan.codebook.dtype, torch.float32))
    if run.config.redraw:
        starts = _redraw(run, starts)
    return _best_of(run, starts)


def _candidates(run: RunSetup, latents: Tensor | None) -> Tensor:
    """Return the starts that the configuration asks for: (B, N, D, h, w)."""
    config = run.config
    codebook = run.vqgan.codebook
    pictures = len(run.seeds)
    size = run.painter.stages[0].size
    start_size = run.painter.start_size
    if config.init == "random":
        return random_codes(codebook, size, picture_streams(run.seeds, "start"), config.candidates)
    if config.init == "prior":
        if run.prior is None:
            raise BadParameter("init='prior' needs prior=..., an object with sample(prompts, num=, generators=, size=)")
        return prior_samples(run.prior, run.texts, size, picture_streams(run.seeds, "start"), config.candidates)
    if config.init in NOISES:
        noise = []
        for stream in picture_streams(run.seeds, "start"):
            noise += [noise_picture(config.init, start_size, stream) for _ in range(config.candidates)]
        z = encode_pictures(run.vqgan, torch.stack(noise))  # (B N, D, h, w)
        return z.unflatten(0, (pictures, config.candidates))
    if config.init == "image":
        picture = fit_picture(load_picture(config.init_image), start_size)
        z = encode_pictures(run.vqgan, picture[None])  # (1, D, h, w)
        return z.expand(pictures, 1, -1, -1, -1)
    if config.init == "previous":
        z = _codes_of_png(run, size)  # (1, D, h, w)
        return z.expand(pictures, 1, -1, -1, -1)
    return _latents_of_batch(latents, pictures, (codebook.shape[1], *size))


def _redraw(run: RunSetup, starts: Tensor) -> Tensor:
    """Let the prior draw the first start of each picture anew, once for each candidate: (B, N, D, h, w)."""
    config = run.config
    if not hasattr(run.prior, "redraw"):
        raise BadParameter("redraw needs prior=..., an object with redraw(z, prompts, num=, generators=, strength=)")
    z = run.prior.redraw(starts[:, 0], run.texts, num=config.candidates,
                         generators=picture_streams(run.seeds, "redraw"), strength=config.redraw)
    return z.to(starts).unflatten(0, (len(starts), config.candidates))


def _best_of(run: RunSetup, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the candidate that the guides prefer: (B, N, D, h, w) -> (B, D, h, w) and its index (B,).

    All candidates of a picture are compared through the same views: the whole picture, and augmented ones. Those that
    have the colour that the prompt asks for are preferred.
    """
    if starts.shape[1] == 1:
        return starts[:, 0], torch.zeros(len(starts), dtype=torch.long)
    start_size = run.painter.start_size
    views = []  # of each picture
    for stream in picture_streams(run.seeds, "selection"):
        views.append(run.views.draw_for_selection([stream], SELECTION_CUTOUTS, start_size))

    def score(z: Tensor, picture: int) -> Tensor:
        images = run.painter.decode(z)
        owner = torch.full((len(z),), picture, device=run.device)  # whose prompts they are compared to
        whole_views = run.views.whole(len(z), start_size)
        shared_views = {}
        for region, cutouts in views[picture].items():
            shared_views[region] = cutouts.expand(len(z))
        whole_loss = run.guides.losses(images, whole_views, owner)  # (M, G)
        cutout_loss = run.guides.losses(images, shared_views, owner)
        return -(whole_loss + cutout_loss)

    def color_bonus(z: Tensor, picture: int) -> Tensor:
        text = run.texts[picture]
        if not run.config.color_weight or split_color(text)[0] is None:
            return torch.zeros(len(z), device=z.device)  # nothing is decoded for it
        return run.config.color_weight * color_match(run.painter.decode(z), [text] * len(z)).to(z.device)

    return select_starts(starts, score, shares=run.guides.shares, bonus=color_bonus)


@torch.no_grad()
def encode_pictures(vqgan: CodingNetwork, pictures: Tensor) -> Tensor:
    """Return the quantised latents of pictures: (B, 3, H, W) in [0, 1] -> (B, D, h, w)."""
    if not hasattr(vqgan, "encode_codes"):
        raise BadParameter(f"{type(vqgan).__name__} has no encoder, so a run cannot start from a picture; use "
                           "init='random'")
    parts = []
    for part in pictures.split(8):
        codes = vqgan.encode_codes(to_signed(part.to(vqgan.codebook.device)))
        parts.append(vqgan.embed_codes(codes))
    return torch.cat(parts)


def _codes_of_png(run: RunSetup, size: tuple[int, int]) -> Tensor:
    """Return the latents (1, D, h, w) of the codes that a PNG made by this library carries."""
    path = run.config.init_image
    record = png.read_record(path)
    codes = record.get("codes")
    model = record.get("config", {}).get("model")
    if codes is None:
        raise BadParameter(f"{path} carries no codes of a VQGAN; use init='image' to start from its pixels")
    if model != run.config.model:
        raise BadParameter(f"{path} carries codes of {model!r}, this run is of {run.config.model!r}; name that model, "
                           "or use init='image' to start from its pixels")
    codes = torch.tensor(codes, device=run.vqgan.codebook.device)  # (h, w)
    return resize(run.vqgan.embed_codes(codes[None]), size)


def _latents_of_batch(latents: Tensor, count: int, shape: tuple[int, int, int]) -> Tensor:
    """Bring (D, h, w), (B, D, h, w) or (B, N, D, h, w) to (B, N, D, h, w)."""
    z = latents
    if z.ndim == 3:
        z = z[None]  # (1, D, h, w)
    if z.ndim == 4:
        z = z[:, None]  # (B, 1, D, h, w)
    if z.ndim != 5 or tuple(z.shape[2:]) != shape or len(z) not in (1, count):
        raise BadParameter(f"latents have shape {tuple(latents.shape)}, expected {shape} for one start, or "
                           f"({count}, ...) for {count} pictures; check width and height")
    if not z.isfinite().all():
        raise BadParameter("latents hold values that are not a number; check where they come from")
    return z.expand(count, *z.shape[1:])
