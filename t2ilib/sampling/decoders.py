"""Grids of codes drawn by a network: one code after another, or all at once and then again where it was unsure.

Every random number of a picture comes from its own stream, and all of them are drawn before the network is asked. So a
picture depends neither on its neighbours in the batch nor on how its logits are computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .evidence import CodeEvidence
from .guided import CausalNetwork, GuidedLogits, MaskedNetwork
from .logits import LogitSampling, draw_codes, log_probability
from ..diffusion.noise import check_generators
from ..diffusion.text_guidance import Condition
from ..errors import BadParameter
from ..models.text_transformer import mask_ratio

CHOICE_TEMPERATURE = 4.5  # of the noise on confidences, as Chang et al. 2022 publish it for ImageNet
PASSES = 10


@dataclass(frozen=True)
class CodesSoFar:
    """What a callback gets after each code or pass.

    Attributes:
        step, steps: which one it was, from 0, and of how many. codes: (B, N); in masked decoding also those that may
            still change. decided: (B, N) bool, True at codes that stay.
    """

    step: int
    steps: int
    codes: Tensor
    decided: Tensor


Callback = Callable[[CodesSoFar], bool | None]


@torch.no_grad()
def sample_autoregressive(network: CausalNetwork, condition: Condition, unconditional: Condition | None = None, *,
                          generators: Sequence[torch.Generator], sampling: LogitSampling = LogitSampling(),
                          known: Tensor | None = None, keep: Tensor | None = None,
                          evidence: CodeEvidence | None = None, cached: bool = True,
                          callback: Callback | None = None) -> Tensor:
    """Draw the codes of pictures in their order, each from those before it.

    Args:
        condition: what the network reads of B texts. unconditional: the same without text, for guidance.
        generators: a stream for each picture, on the CPU; its first N numbers are used.
        known: (B, n) the first codes of each picture, which are kept, such as its upper half; or (B, N) with
        keep: (N,) bool, where they are kept. A code that is drawn sees none of those that are kept behind it.
        evidence: drawings of the B pictures that their codes should be near.
        cached: keep keys and values, so that each code costs one column of work; False reads all codes before it anew.
        callback: see `CodesSoFar`; ends the drawing by returning true, and codes not drawn yet are 0.

    Shapes:
        result: (B, N), int64

    Raises:
        BadParameter: conditions, streams or known codes that do not fit.
    """
    guided = GuidedLogits(condition, unconditional)
    device = _device_of(condition)
    places = network.places
    check_generators(generators, len(generators))
    uniform = torch.stack([torch.rand(places, generator=generator) for generator in generators]).to(device)  # (B, N)
    codes = torch.zeros(uniform.shape, dtype=torch.long, device=device)
    kept = torch.zeros(places, dtype=torch.bool, device=device)
    if known is not None:
        kept = _kept_places(known, keep, codes)
        codes[:, kept] = known.to(device)[:, kept[:known.shape[1]]]
    decoding = network.start(**guided.condition) if cached else None
    read = 0  # codes that the decoding has read
    for i in (~kept).nonzero()[:, 0].tolist():
        if cached:
            logits = network.next_logits(guided.twice(codes[:, read:i]), decoding)  # (2B, K)
            read = i
        else:
            logits = network(guided.twice(codes[:, :i + 1]), **guided.condition)[:, -1]  # (2B, K)
        logits = guided.mix(logits, sampling.scale_at(i / max(1, places - 1)))  # (B, K)
        if evidence is not None:
            logits = logits + evidence.log_likelihood(i)
        codes[:, i] = draw_codes(sampling.filtered(logits), uniform[:, i])
        if callback is not None:
            decided = kept | (torch.arange(places, device=device) <= i)
            if callback(CodesSoFar(i, places, codes.clone(), decided.expand_as(codes))):
                break
    return codes


@torch.no_grad()
def sample_masked(network: MaskedNetwork, condition: Condition, unconditional: Condition | None = None, *,
                  generators: Sequence[torch.Generator], passes: int = PASSES,
                  sampling: LogitSampling = LogitSampling(), choice_temperature: float = CHOICE_TEMPERATURE,
                  known: Tensor | None = None, keep: Tensor | None = None, evidence: CodeEvidence | None = None,
                  callback: Callback | None = None) -> Tensor:
    """Draw grids of codes in a few passes (Chang et al. 2022, section 3.2).

    Each pass draws every masked code, keeps those of which the network was most sure, with noise that fades, and masks
    the others again; how many stay masked follows a cosine.

    Args:
        condition, unconditional, generators: as in `sample_autoregressive`; 2 N numbers are used in each pass.
        passes: how often the network is asked.
        choice_temperature: of the Gumbel noise on confidences in the first pass; it falls to 0 in the last.
        known: (B, N) codes, and keep: (B, N) bool, where they are kept, in any places.
        evidence: as in `sample_autoregressive`.
        callback: see `CodesSoFar`; ends the drawing by returning true.

    Shapes:
        result: (B, N), int64

    Raises:
        BadParameter: conditions, streams or known codes that do not fit, or less than one pass.
    """
    if passes < 1:
        raise BadParameter(f"masked decoding needs at least one pass, got {passes}")
    guided = GuidedLogits(condition, unconditional)
    device = _device_of(condition)
    check_generators(generators, len(generators))
    shape = (passes, 2, network.places)
    uniform = torch.stack([torch.rand(shape, generator=generator) for generator in generators], dim=2)
    uniform = uniform.to(device)  # (passes, 2, B, N)
    codes = torch.full(uniform.shape[2:], network.mask_token, device=device)  # (B, N)
    masked = torch.ones_like(codes, dtype=torch.bool)
    if known is not None:
        if keep is None or keep.shape != known.shape:
            raise BadParameter("known codes need keep=..., of the same shape, True where they are kept")
        check_known(known, codes)
        masked = ~keep.to(device)
        codes = torch.where(masked, codes, known.to(device))
    to_draw = masked.sum(1)  # (B,)
    drawn = codes
    log_likelihood = 0.0 if evidence is None else evidence.all_log_likelihoods()  # (B, N, K)
    for i in range(passes):
        logits = network(guided.twice(codes), **guided.condition)  # (2B, N, K)
        logits = guided.mix(logits, sampling.scale_at(i / max(1, passes - 1)))  # (B, N, K)
        logits = logits + log_likelihood
        proposed = draw_codes(sampling.filtered(logits), uniform[i, 0])
        drawn = torch.where(masked, proposed, codes)
        progress = (i + 1) / passes
        noise = _gumbel(uniform[i, 1]) * choice_temperature * (1 - progress)
        confidence = log_probability(logits, proposed) + noise  # (B, N)
        confidence = confidence.masked_fill(~masked, torch.inf)
        stay_masked = (mask_ratio(progress) * to_draw).floor()  # (B,)
        rank = confidence.argsort(dim=1).argsort(dim=1)  # 0 is the least sure
        masked = rank < stay_masked[:, None]
        codes = drawn.masked_fill(masked, network.mask_token)
        if callback is not None and callback(CodesSoFar(i, passes, drawn.clone(), ~masked)):
            break
    return drawn


def _device_of(condition: Condition) -> torch.device:
    """Return where a condition lies; the CPU for a network that reads none."""
    for tensor in condition.values():
        return tensor.device
    return torch.device("cpu")


def check_known(known: Tensor, codes: Tensor) -> None:
    """Raise BadParameter unless known codes have the shape of those that they replace."""
    if known.shape != codes.shape:
        raise BadParameter(f"known codes must be {tuple(codes.shape)}, one row for each picture, got "
                           f"{tuple(known.shape)}")


def _kept_places(known: Tensor, keep: Tensor | None, codes: Tensor) -> Tensor:
    """Return where the codes (B, N) of pictures that are drawn one after another are known ones: (N,) bool."""
    check_known(known, codes[:, :known.shape[-1]])
    places = torch.arange(codes.shape[1], device=codes.device)
    if keep is None:
        return places < known.shape[1]
    if keep.shape != places.shape or known.shape != codes.shape:
        raise BadParameter(f"keep must be ({len(places)},), True where the known codes {tuple(codes.shape)} are kept, "
                           f"got {tuple(keep.shape)} and {tuple(known.shape)}")
    return keep.to(codes.device)


def _gumbel(uniform: Tensor) -> Tensor:
    """Return standard Gumbel noise from uniform numbers in [0, 1)."""
    tiny = torch.finfo(uniform.dtype).tiny
    return -torch.log(-torch.log(uniform.clamp(min=tiny)))
