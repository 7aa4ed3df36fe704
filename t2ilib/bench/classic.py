"""The VQGAN+CLIP loop as the public tools run it, in plain torch: what our own is measured against.

Everything stands here as those tools do it, slow parts included: float32 networks with channels first, all distances
and a product with one-hot rows, one crop after the other. Crowson et al. 2022 (arXiv 2204.08583).
"""

import contextlib
import copy
import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .lanczos import resample
from ..guidance.ops import clamp_with_grad
from ..layers.quantize import straight_through
from ..runtime import generator


def one_hot_quantise(z: Tensor, codebook: Tensor) -> Tensor:
    """Replace latents by the nearest codes, found among all distances and read by a product with one-hot rows.

    Shapes:
        z (B, D, h, w), codebook (K, D) -> (B, D, h, w), with the gradient of the identity
    """
    flat = z.movedim(1, -1)  # (B, h, w, D)
    distance = flat.square().sum(-1, keepdim=True) + codebook.square().sum(1) - 2 * flat @ codebook.T  # (B, h, w, K)
    nearest = F.one_hot(distance.argmin(-1), len(codebook)).to(codebook.dtype)  # (B, h, w, K)
    return straight_through(nearest @ codebook, flat).movedim(-1, 1)


def classic_decoder(vqgan) -> Callable[[Tensor], Tensor]:
    """Return `decode` by taming's own module, with the weights of `vqgan` (whose norms must have 32 groups)."""
    from taming.modules.diffusionmodules.model import Decoder

    names = ("ch", "ch_mult", "num_res_blocks", "attn_resolutions", "resolution", "z_channels", "in_channels", "out_ch")
    with contextlib.redirect_stdout(None):  # it prints its size
        decoder = Decoder(**{name: vqgan.config[name] for name in names})
    decoder.load_state_dict(vqgan.decoder.state_dict())
    decoder = decoder.to(vqgan.codebook.device).eval().requires_grad_(False)
    post_quant_conv = copy.deepcopy(vqgan.post_quant_conv)
    return lambda z: decoder(post_quant_conv(z))


def classic_clip(clip, *, half: bool | None = None) -> nn.Module:
    """Return a copy of an open_clip ViT as OpenAI's package runs it: positions first, and float16 weights on CUDA.

    Args:
        half: float16 weights, with norms in float32; None decides by the device.
    """
    clip = copy.deepcopy(clip)
    tower = clip.model.visual
    tower.transformer.batch_first = False
    for block in tower.transformer.resblocks:
        block.attn.batch_first = False
    if half is None:
        half = clip.device.type == "cuda"
    if half:
        for module in tower.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear, nn.MultiheadAttention)):
                module.half()
            elif isinstance(module, nn.LayerNorm):
                module.forward = functools.partial(_wide_norm, module)
        tower.proj.data = tower.proj.data.half()
    return clip


def _wide_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(x.dtype)


class ClassicLoop:
    """One picture for one prompt, from random codes: crops, Lanczos and bicubic, noise, squared angle, Adam, clamp.

    Args:
        decode: (1, D, h, w) -> (1, 3, H, W) in [-1, 1]. codebook: (K, D).
        encode: cutouts (n, 3, S, S) in [0, 1] -> features (n, E). target: (1, E).
        size: (h, w) in codes. num_cutouts: n. cut_size: S.

    Attributes:
        z: the latents, which the steps move.
    """

    def __init__(self, decode: Callable[[Tensor], Tensor], codebook: Tensor, encode: Callable[[Tensor], Tensor],
                 target: Tensor, *, size: tuple[int, int], num_cutouts: int = 32, cut_size: int = 224,
                 learning_rate: float = 0.1, noise: float = 0.1, seed: int = 0):
        self.decode = decode
        self.encode = encode
        self.codebook = codebook.detach()
        self.target = target.detach()
        self.num_cutouts = num_cutouts
        self.cut_size = cut_size
        self.noise = noise
        self.stream = generator(seed, "bench", "classic")
        self.noise_stream = generator(seed, "bench", "classic noise", device=codebook.device)
        codes = torch.randint(len(codebook), (1, *size), generator=self.stream).to(codebook.device)
        self.z = self.codebook[codes].movedim(-1, 1).contiguous().requires_grad_()  # (1, D, h, w)
        self.low = self.codebook.amin(dim=0)[None, :, None, None]
        self.high = self.codebook.amax(dim=0)[None, :, None, None]
        self.optimizer = torch.optim.Adam([self.z], lr=learning_rate)

    def picture(self) -> Tensor:
        """Return the picture of z as it is now: (1, 3, H, W) in [0, 1]."""
        return clamp_with_grad((self.decode(one_hot_quantise(self.z, self.codebook)) + 1) / 2)

    def cutouts(self, image: Tensor) -> Tensor:
        """Crop squares of random size and place, one at a time: (1, 3, H, W) -> (n, 3, S, S)."""
        height, width = image.shape[-2:]
        largest = min(height, width)
        smallest = min(largest, self.cut_size)
        views = []
        for _ in range(self.num_cutouts):
            u, x, y = torch.rand(3, generator=self.stream).tolist()
            size = int(u * (largest - smallest) + smallest)
            left = int(x * (width - size + 1))
            top = int(y * (height - size + 1))
            crop = image[:, :, top:top + size, left:left + size]
            views.append(resample(crop, (self.cut_size, self.cut_size)))
        batch = clamp_with_grad(torch.cat(views))
        strength = self.noise * torch.rand((len(batch), 1, 1, 1), generator=self.noise_stream, device=batch.device)
        return batch + strength * torch.randn(batch.shape, generator=self.noise_stream, device=batch.device)

    def step(self) -> Tensor:
        """Make one step and return the loss before it."""
        features = self.encode(self.cutouts(self.picture())).float()
        features = F.normalize(features, dim=-1)  # (n, E)
        chord = (features - F.normalize(self.target, dim=-1)).norm(dim=-1)  # (n,)
        loss = 2 * torch.arcsin(chord / 2).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.z.copy_(self.z.maximum(self.low).minimum(self.high))
        return loss.detach()
