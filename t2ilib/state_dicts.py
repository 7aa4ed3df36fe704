"""The tensors of a network inside what other frameworks save: nested, with averages beside them, under prefixes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointMismatch
from .runtime import warn_fallback

PREFIXES = ("module.", "_orig_mod.", "model.", "generator.")  # of wrappers: DataParallel, compile, Lightning, GANs
WEIGHTS = ("state_dict", "model_state_dict", "model", "params", "net", "network", "generator", "weights")
AVERAGES = ("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "params_ema", "g_ema", "shadow")
FLATTENED = "model_ema."
DEPTH = 2  # levels below the top that are searched


def find_state(content: Any, *, ema: bool = False, source: str) -> dict[str, Tensor]:
    """Return the tensors of the network that a loaded checkpoint holds, without the prefixes of wrappers.

    Args:
        content: what the file holds: names -> tensors, or these up to two levels down, under a usual name.
        ema: take the running average of the weights where there is one, instead of the last ones.
        source: of the file, for messages.

    Raises:
        CheckpointMismatch: there are no tensors, or `ema` was asked for and there is no average.
    """
    found = _search(content, AVERAGES if ema else WEIGHTS, DEPTH)
    if found is None and ema:
        found = _flattened_average(_search(content, WEIGHTS, DEPTH) or _tensors(content))
    if found is None and ema:
        raise CheckpointMismatch(f"{source} holds no running average (none of {', '.join(AVERAGES)}); leave out ema")
    if found is None:
        found = _tensors(content)
    if not found:
        raise CheckpointMismatch(f"{source} holds no state dict of tensors; save `model.state_dict()` instead")
    return without_prefixes(found, source=source)


def _search(content: Any, names: tuple[str, ...], depth: int) -> dict[str, Tensor] | None:
    """Return the tensors under the first of the names that has some, at the top or below."""
    if not isinstance(content, Mapping):
        return None
    for name in names:
        tensors = _tensors(content.get(name))
        if tensors:
            return tensors
    if depth > 0:
        for value in content.values():
            found = _search(value, names, depth - 1)
            if found is not None:
                return found
    return None


def _tensors(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _flattened_average(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return the averages that latent diffusion keeps beside the weights: `model_ema.` and the name without its dots.

    What has no average there (buffers) is taken as it is. None where there are no averages.
    """
    if not any(name.startswith(FLATTENED) for name in tensors):
        return None
    averages = {}
    for name, tensor in tensors.items():
        if name.startswith(FLATTENED):
            continue
        in_model = FLATTENED + name.removeprefix("model.").replace(".", "")  # a diffusion's average is of its `model`
        flattened = FLATTENED + name.replace(".", "")
        averages[name] = tensors.get(flattened, tensors.get(in_model, tensor))
    return averages


def without_prefixes(state: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Return tensors without the prefixes that all their names share, with a note if there were some."""
    removed = ""
    names = list(state)
    searching = True
    while searching:
        searching = False
        for prefix in PREFIXES:
            if names and all(name.startswith(prefix) and name != prefix for name in names):
                names = [name.removeprefix(prefix) for name in names]
                removed += prefix
                searching = True
    if removed:
        warn_fallback(f"{source}: every name begins with {removed!r}, which is taken away")
    return dict(zip(names, state.values(), strict=True))


def check_numbers(state: Mapping[str, Tensor], *, source: str) -> None:
    """Raise CheckpointMismatch if a weight is not a finite number: such a network draws nothing."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointMismatch(f"{source}: {name} holds values that are no finite numbers; its training has "
                                     "failed, take an earlier state")
