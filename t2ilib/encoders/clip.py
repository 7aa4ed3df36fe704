"""CLIP models behind one interface: pictures in [0, 1] and texts in, unit vectors out."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .emoji_clip import EmojiClipNetwork, EmojiTokenizer
from .open_clip_form import follow, open_clip_form
from .text import check_texts
from .windows import text_windows
from ..errors import BadParameter, check_name
from ..runtime import warn_fallback

LONG_TEXTS = ("truncate", "windows")


class Clip(nn.Module):
    """A CLIP model with its own preprocessing.

    Shapes:
        encode_image: (B, 3, H, W), floats in [0, 1], any size -> (B, D), unit norm
        encode_text: list of B strings -> (B, D), unit norm

    Attributes:
        network: maps normalised pictures and token ids to features: `EmojiClipNetwork`, or an open_clip model.
        visual: its image tower. tokenizer: texts -> token ids (B, T) for it. model: the open_clip model itself.
        dim: D. image_size: side of the pictures that the model reads, in pixels. context_length: tokens of a text.
        name: what was loaded. sha256: of the weight file. measure_only: no gradient ever leaves `encode_image`.

    References:
        Radford et al. 2021, arXiv:2103.00020.
    """

    def __init__(self, network: nn.Module, tokenizer: Any, *, name: str, dim: int, image_size: int, mean: list[float],
                 std: list[float], resize_mode: str = "shortest", interpolation: str = "bicubic", sha256: str = "",
                 measure_only: bool = False):
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.name = name
        self.dim = dim
        self.image_size = image_size
        self.sha256 = sha256
        self.resize_mode = resize_mode
        self.interpolation = interpolation
        self.measure_only = measure_only
        self._open_clip: list[nn.Module] = []  # in a list it is no submodule: its weights are those of `network`
        self.register_buffer("image_mean", torch.tensor(list(mean)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(list(std)).view(1, 3, 1, 1), persistent=False)

    @property
    def visual(self) -> nn.Module:
        """The image tower: normalised pictures -> features."""
        return self.network.visual

    @property
    def model(self) -> nn.Module:
        """The open_clip model itself.

        That of an embedded CLIP is built when it is first asked for, and has the same weights; ask again after moving
        the CLIP to another device.
        """
        if not isinstance(self.network, EmojiClipNetwork):
            return self.network
        if not self._open_clip:
            self._open_clip.append(open_clip_form(self.network))
        return follow(self._open_clip[0], self.network)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.image_mean.device

    @property
    def logit_scale(self) -> Tensor:
        """The factor (1 / temperature) between cosines and logits; the learnt parameter is its logarithm."""
        return self.network.logit_scale.exp()

    def resize(self, x: Tensor) -> Tensor:
        """Bring pictures (B, 3, H, W) to the model's size, as its training did; differentiable, range kept.

        "shortest" scales the shorter side and crops the middle, "longest" scales the longer side and pads with black,
        "squash" ignores the aspect ratio. A picture of the right size passes unchanged.
        """
        size = size_pair(self.image_size)
        if x.shape[-2:] == size:
            return x
        # MPS has no antialiased bicubic
        bilinear = self.interpolation == "bilinear" or x.device.type == "mps"
        mode = "bilinear" if bilinear else "bicubic"
        x = F.interpolate(x, self._scaled_size(x), mode=mode, antialias=True, align_corners=False)
        x = x.clamp(0, 1)  # bicubic overshoots
        rows = size[0] - x.shape[-2]  # of black to add; cut off where negative
        columns = size[1] - x.shape[-1]
        if rows < 0 or columns < 0:
            top = round(-rows / 2)
            left = round(-columns / 2)
            return x[..., top:top + size[0], left:left + size[1]]
        return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))

    def _scaled_size(self, x: Tensor) -> tuple[int, int]:
        """Return height and width of pictures when they are scaled, before they are cropped or padded."""
        height, width = x.shape[-2:]
        target_height, target_width = size_pair(self.image_size)
        same_aspect = height * target_width == width * target_height
        if same_aspect or self.resize_mode not in ("shortest", "longest"):
            return target_height, target_width
        scales = (target_height / height, target_width / width)
        if self.resize_mode == "shortest":
            scale = max(scales)
            return max(1, int(height * scale + 1e-9)), max(1, int(width * scale + 1e-9))  # as torchvision rounds
        scale = min(scales)
        return max(1, round(height * scale + 1e-9)), max(1, round(width * scale + 1e-9))  # as timm rounds

    def normalise(self, x: Tensor) -> Tensor:
        """Map [0, 1] pictures of the model's size to what its image tower reads."""
        return (x - self.image_mean.to(x.dtype)) / self.image_std.to(x.dtype)

    def encode_image(self, x: Tensor) -> Tensor:
        """Return unit vectors (B, D) in float32 for pictures (B, 3, H, W) in [0, 1] of any size.

        Gradients reach the pictures, unless the model only measures.

        Raises:
            BadParameter: another shape, or whole numbers.
        """
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise BadParameter(f"pictures: got {tuple(x.shape)} {x.dtype}, expected (B, 3, H, W) floats in [0, 1]")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.measure_only):
            x = self.normalise(self.resize(x.to(self.device)))
            features = self.network.encode_image(x.to(_input_dtype(self.visual)))
            return F.normalize(features.float(), dim=-1)

    @property
    def context_length(self) -> int:
        """Most tokens of a text that the model reads, special ones included: 77 in most CLIPs."""
        return getattr(self.tokenizer, "context_length", None) or 77

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text has, special ones included; those beyond `context_length` are not read."""
        check_texts([text])
        return _count_tokens(self.tokenizer, text)

    def encode_text(self, texts: list[str], *, batch_size: int = 256, long: str = "truncate") -> Tensor:
        """Return unit vectors (B, D) in float32.

        Args:
            long: what becomes of a text beyond `context_length` tokens: "truncate" ignores its end, with a warning;
                "windows" reads it in overlapping windows (`text_windows`) and returns the normalised mean of their
                vectors. Texts that fit are not affected.

        Raises:
            BadParameter: not a list of strings.
            UnknownName: another way than these two.
        """
        check_texts(texts)
        check_name("way with long texts", long, LONG_TEXTS)
        if not texts:
            return torch.zeros(0, self.dim, device=self.device)
        features = self._encode(texts, batch_size)
        rows = self._too_long(texts)
        if rows and long == "truncate":
            first = texts[rows[0]]
            warn_fallback(f"{self.name} reads at most {self.context_length} tokens: the end of {len(rows)} of "
                          f"{len(texts)} texts is ignored, first of {first[:60]!r}... with "
                          f"{self.count_tokens(first)} tokens; shorten it, or read it whole with long='windows', "
                          "which averages overlapping windows")
            return features
        for row in rows:
            windows = text_windows(texts[row], self.context_length, self.count_tokens)
            mean = self._encode(windows, batch_size).mean(dim=0)  # (D,)
            features[row] = F.normalize(mean, dim=-1)
        return features

    @torch.no_grad()
    def similarity(self, images: Tensor, texts: list[str], *, batch_size: int = 64) -> Tensor:
        """Return the cosine (B,) between each picture of (B, 3, H, W) in [0, 1] and the text beside it.

        Raises:
            BadParameter: not as many texts as pictures, or what `encode_image` and `encode_text` refuse.
        """
        if len(images) != len(texts):
            raise BadParameter(f"got {len(images)} pictures and {len(texts)} texts; give each picture its own text")
        features = torch.cat([self.encode_image(part) for part in images.split(batch_size)])  # (B, D)
        return (features * self.encode_text(texts)).sum(1)

    def _encode(self, texts: list[str], batch_size: int) -> Tensor:
        """Return the unit vectors of texts whose ends are cut without a word."""
        quiet = {"warn": False} if isinstance(self.tokenizer, EmojiTokenizer) else {}
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # similar lengths together: less padding
        parts = []
        for start in range(0, len(order), batch_size):
            part = [texts[i] for i in order[start:start + batch_size]]
            tokens = self.tokenizer(part, **quiet).to(self.device)
            features = self.network.encode_text(tokens).float()
            parts.append(F.normalize(features, dim=-1))
        place_of = torch.tensor(order).argsort().to(self.device)  # where each text stands in the order
        return torch.cat(parts)[place_of]

    def _too_long(self, texts: list[str]) -> list[int]:
        """Return the indices of texts beyond the context; few bytes are few tokens, and need no counting."""
        limit = self.context_length
        rows = []
        for row, text in enumerate(texts):
            may_be_long = len(text.encode()) + 2 > limit
            if may_be_long and self.count_tokens(text) > limit:
                rows.append(row)
        return rows


def input_side(clip: Any) -> int:
    """Return the side of square pictures for a CLIP; one whose input is not square scales them itself."""
    return clip.image_size if isinstance(clip.image_size, int) else max(clip.image_size)


def size_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the pictures that a CLIP reads."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _input_dtype(tower: nn.Module) -> torch.dtype:
    """Return the type of the first layer's weights: half-precision models keep norms and embeddings in float32."""
    for module in tower.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            return module.weight.dtype
    return torch.float32


def _count_tokens(tokenizer: Any, text: str) -> int:
    if isinstance(tokenizer, EmojiTokenizer):
        return tokenizer.count_tokens(text)
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:  # open_clip's own: byte pairs between two special tokens
        return len(tokenizer.encode(text)) + 2
    text = getattr(tokenizer, "clean_fn", str)(text)
    if getattr(tokenizer, "tokenizer_mode", "") == "clips":  # open_clip adds start, end and class tokens itself
        return len(inner(text, add_special_tokens=False, verbose=False)["input_ids"]) + 3
    return len(inner(text, verbose=False)["input_ids"])
