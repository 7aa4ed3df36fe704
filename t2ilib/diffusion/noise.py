"""Random noise that belongs to one picture: a stream for each, so that a picture does not depend on its neighbours."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import BadParameter


def noise_for(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Return standard normal noise (B, *shape) on the CPU, that of each picture from its own stream."""
    check_generators(generators, len(generators))
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators])


def check_generators(generators: Sequence[torch.Generator] | None, count: int) -> Sequence[torch.Generator]:
    """Return the generators; BadParameter unless there is one for each of `count` pictures, its own, on the CPU."""
    if generators is None or len(generators) != count:
        problem = f"got {'none' if generators is None else len(generators)} for {count} pictures"
    elif len(set(map(id, generators))) < count or any(g.device.type != "cpu" for g in generators):
        problem = "one appears twice or is on another device"
    else:
        return generators
    raise BadParameter(f"each picture needs a generator of its own, on the CPU, so that it depends on no other; "
                       f"{problem}. Take [runtime.generator(seed, 'picture', i) for i in range({count})]")


def split_generator(generator: torch.Generator, count: int) -> list[torch.Generator]:
    """Return independent streams drawn from a stream; the first ones do not depend on how many are asked for."""
    streams = []
    for _ in range(count):
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
        streams.append(torch.Generator().manual_seed(seed))
    return streams
