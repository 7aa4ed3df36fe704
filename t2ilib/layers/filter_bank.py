"""Convolutions whose kernel is chosen for each picture, and attention by distance: the parts of a GigaGAN.

Kang et al. 2023, "Scaling up GANs for text-to-image synthesis", arXiv:2303.05511, section 3.2.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import merge_heads, split_heads
from ..errors import BadParameter, check_name

EPS = 1e-8
FORMS = ("auto", "one_by_one", "grouped", "shared")
# Places of the map up to which `auto` takes a grouped convolution on a GPU. On a CPU, where work counts and not
# launches, a grouped one does N times less of it.
GROUPED_PLACES = 16 * 16


def mixed_kernels(bank: Tensor, selection: Tensor, scale: Tensor, *, demodulate: bool = True) -> Tensor:
    """Return the kernel of each picture: a mean of the bank's filters, scaled by its style.

    K = sum_n a_n K_n, times s_i for each input channel, over the root of the sum of squares of each output channel
    (Kang et al. 2023, eq. 3; Karras et al. 2020, eq. 1 and 3).

    Args:
        selection: a, weights that sum to 1. scale: s. demodulate: divide by the length.

    Shapes:
        bank: (N, O, I, k, k), selection: (B, N), scale: (B, I) -> (B, O, I, k, k)
    """
    kernels = torch.einsum("bn,noihw->boihw", selection, bank)
    kernels = kernels * scale[:, None, :, None, None]
    if demodulate:
        squares = kernels.square().sum(dim=(2, 3, 4), keepdim=True)  # (B, O, 1, 1, 1)
        kernels = kernels * (squares + EPS).rsqrt()
    return kernels


def convolve_one_by_one(x: Tensor, bank: Tensor, selection: Tensor, scale: Tensor, *,
                        demodulate: bool = True) -> Tensor:
    """Convolve each picture with its own kernel, one after another: the definition.

    Shapes:
        x: (B, I, H, W), others as in `mixed_kernels` -> (B, O, H, W)
    """
    kernels = mixed_kernels(bank, selection, scale, demodulate=demodulate)
    padding = bank.shape[-1] // 2
    pictures = [F.conv2d(one[None], kernel, padding=padding) for one, kernel in zip(x, kernels, strict=True)]
    return torch.cat(pictures)


def kernel_lengths(bank: Tensor, selection: Tensor, scale: Tensor) -> Tensor:
    """Return the length of each output channel's mixed and scaled kernel, from products of the bank's filters.

    The products are the same for all pictures, so that no picture's kernel is needed.

    Shapes:
        as in `mixed_kernels` -> (B, O)
    """
    products = torch.einsum("noihw,poihw->npoi", bank, bank)  # (N, N, O, I)
    squares = torch.einsum("bn,bp,npoi,bi->bo", selection, selection, products, scale.square())
    return (squares + EPS).sqrt()


def convolve_grouped(x: Tensor, bank: Tensor, selection: Tensor, scale: Tensor, *, demodulate: bool = True) -> Tensor:
    """Return what `convolve_one_by_one` returns, by one convolution with a group for each picture.

    The style scales the input and the lengths divide the output: to touch the kernels themselves would cost more on
    small maps, where a kernel has more numbers than a picture. The kernels of all pictures are in memory at once:
    B O I k^2 numbers.
    """
    batch = len(x)
    _, out_channels, in_channels, side, _ = bank.shape
    kernels = selection.to(x.dtype) @ bank.flatten(1).to(x.dtype)  # (B, O I k k)
    kernels = kernels.view(batch * out_channels, in_channels, side, side)
    scaled = x * scale[:, :, None, None].to(x.dtype)
    joined = scaled.flatten(0, 1)[None]  # (1, B I, H, W)
    y = F.conv2d(joined, kernels, padding=side // 2, groups=batch)
    y = y[0].unflatten(0, (batch, out_channels))
    if demodulate:
        y = y / kernel_lengths(bank, selection, scale)[:, :, None, None].to(y.dtype)
    return y


def convolve_shared(x: Tensor, bank: Tensor, selection: Tensor, scale: Tensor, *, demodulate: bool = True) -> Tensor:
    """Return what `convolve_one_by_one` returns, by one ordinary convolution with all filters of the bank.

    The style scales the input and the selection mixes the outputs, so that no picture has a kernel of its own. N times
    the work.
    """
    count, out_channels = bank.shape[:2]
    scaled = x * scale[:, :, None, None].to(x.dtype)
    y = F.conv2d(scaled, bank.flatten(0, 1).to(x.dtype), padding=bank.shape[-1] // 2)  # (B, N O, H, W)
    y = y.unflatten(1, (count, out_channels))
    y = torch.einsum("bn,bnohw->bohw", selection.to(y.dtype), y)
    if demodulate:
        y = y / kernel_lengths(bank, selection, scale)[:, :, None, None].to(y.dtype)
    return y


CONVOLUTIONS = {"one_by_one": convolve_one_by_one, "grouped": convolve_grouped, "shared": convolve_shared}


def choose_form(places: int, device: str) -> str:
    """Return the form that is cheapest for a map of so many places."""
    return "grouped" if device == "cpu" or places <= GROUPED_PLACES else "shared"


class FilterBankConv(nn.Module):
    """A convolution that mixes its kernel for each picture from a bank of filters, as its style says.

    Args:
        kernel: side, odd. filters: N of the bank; 1 is a modulated convolution as in StyleGAN2. style_dim: of styles.
        demodulate: see `mixed_kernels`. form: which of `CONVOLUTIONS`; "auto" takes the cheapest.

    Shapes:
        x: (B, in_channels, H, W), style: (B, style_dim) -> (B, out_channels, H, W)

    Raises:
        BadParameter, UnknownName: an even kernel, no filters, or no such form.
    """

    def __init__(self, *, in_channels: int, out_channels: int, style_dim: int, kernel: int = 3, filters: int = 4,
                 demodulate: bool = True, form: str = "auto"):
        super().__init__()
        check_name("form of the filter bank", form, FORMS)
        if kernel % 2 == 0 or filters < 1:
            raise BadParameter(f"need an odd kernel and at least one filter, got {kernel} and {filters}")
        self.demodulate = demodulate
        self.form = form
        fan_in = in_channels * kernel**2
        self.bank = nn.Parameter(torch.randn(filters, out_channels, in_channels, kernel, kernel) * fan_in**-0.5)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.scale = nn.Linear(style_dim, in_channels)
        self.selection = nn.Linear(style_dim, filters) if filters > 1 else None
        nn.init.zeros_(self.scale.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        style = style.float()
        with torch.autocast(x.device.type, enabled=False):  # a sum of squares overflows in half precision
            scale = 1 + self.scale(style)  # (B, I)
            if self.selection is None:
                selection = torch.ones_like(scale[:, :1])
            else:
                selection = self.selection(style).softmax(dim=-1)  # (B, N)
        form = self.form
        if form == "auto":
            form = choose_form(x.shape[2] * x.shape[3], x.device.type)
        y = CONVOLUTIONS[form](x, self.bank, selection, scale, demodulate=self.demodulate)
        return y + self.bias[:, None, None].to(y.dtype)


def distance_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend by nearness: the weight of a key falls with its squared distance to the query.

    softmax(-|q - k|^2 / sqrt(d)) v (Kim et al. 2021, arXiv:2006.04710: unlike products of queries and keys it has a
    bounded slope, so that a discriminator stays stable).

    Shapes:
        q: (B, heads, N, d), k, v: (B, heads, M, d) -> (B, heads, N, d)
    """
    distances = (q[:, :, :, None] - k[:, :, None]).square().sum(-1)  # (B, heads, N, M)
    return (-distances * q.shape[-1] ** -0.5).softmax(dim=-1) @ v


def distance_attention_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return what `distance_attention` returns, without the (N, M, d) differences, by PyTorch's fused attention.

    -|q - k|^2 = 2 q k - |k|^2 - |q|^2, and |q|^2 is the same for all keys, so that the softmax does not see it. |k|^2
    becomes two more numbers of each key: what it is in the dtype of the keys, and the rest, or half precision would
    lose it. Fused kernels have no second derivative: where gradients are penalised, call this under
    `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`, as `training.losses.squared_gradients` does.
    """
    dim = v.shape[-1]
    squares = k.to(torch.promote_types(k.dtype, torch.float32)).square().sum(-1, keepdim=True)  # (B, heads, M, 1)
    rounded = squares.to(k.dtype)
    rest = (squares - rounded).to(k.dtype)
    one = torch.ones_like(q[..., :1])
    q = torch.cat([2 * q, one, one], dim=-1)
    k = torch.cat([k, -rounded, -rest], dim=-1)
    v = F.pad(v, (0, 2))  # fused kernels want one length
    return F.scaled_dot_product_attention(q, k, v, scale=dim ** -0.5)[..., :dim]


class DistanceSelfAttention(nn.Module):
    """Self-attention by distance with tied queries and keys, added to its input (Kang et al. 2023, section 3.2).

    A learned key and value stand for "none of the places". The branch begins as nothing.

    Args:
        dim: channels. heads: of the attention; dim is a multiple of it.

    Shapes:
        x: (B, dim, H, W) -> (B, dim, H, W)
    """

    def __init__(self, *, dim: int, heads: int = 4):
        super().__init__()
        if dim % heads:
            raise BadParameter(f"dim must be a multiple of heads, got {dim} and {heads}")
        self.heads = heads
        self.norm = nn.RMSNorm(dim)
        self.to_qk = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.null_key = nn.Parameter(torch.randn(dim) * 0.02)
        self.null_value = nn.Parameter(torch.zeros(dim))
        self.out = nn.Linear(dim, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        places = x.flatten(2).transpose(1, 2).to(self.norm.weight)  # (B, HW, C)
        places = self.norm(places)
        q = self.to_qk(places)
        v = self.to_v(places)
        null_key = self.null_key.expand(len(x), 1, -1).to(q)
        null_value = self.null_value.expand(len(x), 1, -1).to(v)
        k = torch.cat([null_key, q], dim=1)  # (B, 1 + HW, C)
        v = torch.cat([null_value, v], dim=1)
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        h = self.out(merge_heads(distance_attention_by_products(q, k, v)))  # (B, HW, C)
        return x + h.transpose(1, 2).unflatten(2, x.shape[-2:])
