"""What the benchmark `minimagen` compares: shapes, ways to train, and the material that all of them learn from."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .classic_imagen import TOKENS, explicit_attention
from .measure import short_name
from ..data.text_features import encode_texts
from ..layers.attention import fused_attention
from ..layers.unet_blocks import set_attention
from ..models.imagen_unet import ImagenUNet
from ..models.sizes import IMAGEN
from ..runtime import generator, pick_dtype

BATCHES = 4  # of different captions, which all variants read in the same order
EXACT = torch.float32


@dataclass(frozen=True)
class Shape:
    """A network and what it is trained on: pictures of `size` pixels, enlarged from `low_size` if that is given."""

    name: str
    size: int
    batch: int
    network: dict[str, Any]
    low_size: int | None = None


LAPTOP = Shape("laptop, 32 px, batch 32", 32, 32, IMAGEN["base"])
BASE = Shape("base, 64 px, batch 32", 64, 32, IMAGEN["original"])
SUPER = Shape("super-resolution, 64 to 256 px, batch 8", 256, 8, IMAGEN["original_super"], low_size=64)
CPU_SHAPES = (LAPTOP,)
CUDA_SHAPES = (BASE, SUPER)


@dataclass(frozen=True)
class Variant:
    """One way to make the same training step.

    Attributes:
        classic: the public package's loop, else the library's step.
        dtype: of autocast.
        attention: a function for all attentions, see `set_attention`; None leaves the network's own.
        encode_in_loop: the text encoder reads the captions in each step, one after another.
        tokens: to which texts are padded; None is the longest of the batch.
        channels_last: memory format of the network. checkpointing: see `ImagenUNet`. compiled: by `torch.compile`.
        draws: its sampling is measured too, not its training alone.
    """

    name: str
    classic: bool = False
    dtype: torch.dtype = EXACT
    attention: Callable[..., Tensor] | None = None
    encode_in_loop: bool = False
    tokens: int | None = None
    channels_last: bool = False
    checkpointing: bool = False
    compiled: bool = False
    draws: bool = True


def variants(device: torch.device, *, levers: bool) -> list[Variant]:
    """Return what is measured: the classic loop and ours, at equal precision and at lower, and single levers off.

    The classic loop has our network with the attention of the package, all scores in memory; a row beside it shows
    what fused attention alone would change there.
    """
    on_gpu = device.type == "cuda"
    fast = pick_dtype(device)
    classic = Variant("classic", classic=True, attention=explicit_attention)
    ours = Variant("ours", dtype=fast, channels_last=on_gpu)
    found = [classic, replace(classic, name="classic, fused attention", attention=fused_attention, draws=False),
             ours]
    if fast != EXACT:
        found.append(replace(classic, name=f"classic, {short_name(fast)}", dtype=fast))
        found.append(replace(ours, name="ours, float32", dtype=EXACT))
    if on_gpu:  # a CPU takes minutes to compile what it would need hours to win back
        found.append(replace(ours, name="ours, compiled", compiled=True))
    if levers:
        lever = replace(ours, draws=False)
        found += [replace(lever, name="ours, texts encoded in the loop", encode_in_loop=True),
                  replace(lever, name=f"ours, {TOKENS} tokens", tokens=TOKENS),
                  replace(lever, name="ours, explicit attention", attention=explicit_attention),
                  replace(lever, name="ours, fused attention", attention=fused_attention),
                  replace(lever, name=f"ours, channels {'first' if on_gpu else 'last'}", channels_last=not on_gpu),
                  replace(lever, name="ours, checkpointed", checkpointing=True)]
    return found


class Material:
    """What all variants of one shape learn from: a first network, pictures, captions, and their features."""

    def __init__(self, shape: Shape, device: torch.device, text_encoder: Any, captions: Sequence[str]):
        self.shape = shape
        self.device = device
        self.text_encoder = text_encoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = ImagenUNet(**shape.network)
        self.captions = [captions[i % len(captions)] for i in range(BATCHES * shape.batch)]
        self.features = encode_texts(text_encoder, self.captions)
        self.pictures = self.noise(shape.batch, "pictures").clamp(-1, 1)

    def noise(self, count: int, name: str) -> Tensor:
        """Return normal numbers of the shape of pictures, on the CPU: (count, 3, S, S)."""
        return torch.randn((count, 3, self.shape.size, self.shape.size), generator=generator(0, "bench", name))

    def rows(self, step: int) -> list[int]:
        """Return where the captions of a step stand."""
        first = step % BATCHES * self.shape.batch
        return list(range(first, first + self.shape.batch))

    def copy_of_network(self, variant: Variant) -> ImagenUNet:
        """Return a network of a variant's own, as it runs it; all begin with equal weights."""
        network = copy.deepcopy(self.network)
        if variant.attention is not None:
            set_attention(network, variant.attention)
        network.checkpointing = variant.checkpointing
        memory_format = torch.channels_last if variant.channels_last else torch.contiguous_format
        network.to(self.device, memory_format=memory_format)
        if variant.compiled:
            network.compile()  # in place: Fabric and the cascade take the network itself
        return network
