"""CLIP models behind one interface: pictures in [0, 1] and texts in, unit vectors out."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import open_clip_checkpoints
from .emoji_clip import EmojiClip, EmojiClipNetwork, EmojiTokenizer
from .open_clip_form import follow, open_clip_form
from .text import check_texts
from .windows import text_windows
from ..checkpoint import load_model, read_config
from ..errors import BadParameter, CheckpointMismatch, MissingAsset, check_name, unknown_name
from ..paths import checkpoints_dir
from ..runtime import pick_device, warn_fallback

JUDGE = "emoji-judge"
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
        target, (h, w) = _pair(self.image_size), x.shape[-2:]
        if (h, w) == target:
            return x
        size = target
        if self.resize_mode in ("shortest", "longest") and h * target[1] != w * target[0]:
            scale = (max if self.resize_mode == "shortest" else min)(target[0] / h, target[1] / w)
            whole = int if self.resize_mode == "shortest" else round  # torchvision rounds down here, timm rounds
            size = tuple(max(1, whole(side * scale + 1e-9)) for side in (h, w))
        # MPS has no antialiased bicubic; bicubic overshoots, hence the clamp (a no-op for bilinear).
        mode = "bilinear" if x.device.type == "mps" or self.interpolation == "bilinear" else "bicubic"
        x = F.interpolate(x, size, mode=mode, antialias=True, align_corners=False).clamp(0, 1)
        rows, columns = target[0] - size[0], target[1] - size[1]
        if rows < 0 or columns < 0:  # crop the middle
            top, left = round(-rows / 2), round(-columns / 2)
            return x[..., top:top + target[0], left:left + target[1]]
        return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))

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
        rows = self._too_long(texts)
        if rows and long == "truncate":
            first, limit = texts[rows[0]], self.context_length
            warn_fallback(f"{self.name} reads at most {limit} tokens: the end of {len(rows)} of {len(texts)} texts is "
                          f"ignored, first of {first[:60]!r}... with {self.count_tokens(first)} tokens; shorten it, or "
                          "read it whole with long='windows', which averages overlapping windows")
        features = self._encode(texts, batch_size)
        for i in rows if long == "windows" else []:
            windows = text_windows(texts[i], self.context_length, self.count_tokens)
            features[i] = F.normalize(self._encode(windows, batch_size).mean(dim=0), dim=-1)
        return features

    @torch.no_grad()
    def similarity(self, images: Tensor, texts: list[str], *, batch_size: int = 64) -> Tensor:
        """Return the cosine (B,) between each picture of (B, 3, H, W) in [0, 1] and the text beside it.

        Raises:
            BadParameter: not as many texts as pictures, or what `encode_image` and `encode_text` refuse.
        """
        if len(images) != len(texts):
            raise BadParameter(f"got {len(images)} pictures and {len(texts)} texts; give each picture its own text")
        seen = torch.cat([self.encode_image(part) for part in images.split(batch_size)])
        return (seen * self.encode_text(texts)).sum(1)

    def _encode(self, texts: list[str], batch_size: int) -> Tensor:
        """Return the unit vectors of texts whose ends are cut without a word."""
        quiet = {"warn": False} if isinstance(self.tokenizer, EmojiTokenizer) else {}
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # similar lengths together: less padding
        parts = []
        for start in range(0, len(order), batch_size):
            tokens = self.tokenizer([texts[i] for i in order[start:start + batch_size]], **quiet).to(self.device)
            parts.append(F.normalize(self.network.encode_text(tokens).float(), dim=-1))
        return torch.cat(parts)[torch.tensor(order).argsort().to(self.device)]

    def _too_long(self, texts: list[str]) -> list[int]:
        """Return the indices of texts beyond the context; few bytes are few tokens, and need no counting."""
        limit = self.context_length
        return [i for i, t in enumerate(texts) if len(t.encode()) + 2 > limit and self.count_tokens(t) > limit]


def input_side(clip: Any) -> int:
    """Return the side of square pictures for a CLIP; one whose input is not square scales them itself."""
    return clip.image_size if isinstance(clip.image_size, int) else max(clip.image_size)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _input_dtype(tower: nn.Module) -> torch.dtype:
    """Return the type of the first layer's weights: half-precision models keep norms and embeddings in float32."""
    layers = (m.weight.dtype for m in tower.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    return next(layers, torch.float32)


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


def embedded_clips() -> list[str]:
    """Return the names of the CLIP models that ship with the repository and may guide (the judge may not)."""
    folders = sorted(p.parent for p in checkpoints_dir().glob("*/config.json"))
    return [f.name for f in folders if _is_emoji_clip(f) and not _is_judge(f)]


def _is_emoji_clip(folder: Path) -> bool:
    try:
        return read_config(folder).get("class") == EmojiClip.__name__
    except (MissingAsset, ValueError):
        return False


def _is_judge(folder: Path) -> bool:
    return folder.name == JUDGE or read_config(folder).get("role") == "judge"


def _load_emoji(folder: Path, name: str, device: torch.device, *, measure_only: bool = False) -> Clip:
    if not (folder / "config.json").is_file():
        raise MissingAsset(f"{name}: no checkpoint at {folder}; restore it with `git checkout`, or train it: "
                           "`python -m t2ilib run 12 --profile full`")
    if not _is_emoji_clip(folder):
        raise CheckpointMismatch(f"{folder} holds a {read_config(folder).get('class')}, not an {EmojiClip.__name__}; "
                                 "give the folder of a CLIP")
    towers = load_model(EmojiClip, folder)
    towers.visual.to(memory_format=torch.channels_last)  # what convolutions like; the numbers do not change
    network = EmojiClipNetwork(towers)
    clip = Clip(network, network.tokenizer, name=name, dim=towers.config["embed_dim"], image_size=towers.image_size,
                mean=towers.image_mean, std=towers.image_std, sha256=read_config(folder)["sha256"],
                measure_only=measure_only)
    return clip.eval().requires_grad_(False).to(device)


def load_clip(name: str = "emoji-clip", *, device: torch.device | str = "cpu", quick_gelu: bool | None = None,
              precision: str = "fp32", cache_dir: str | None = None) -> Clip:
    """Load a CLIP model, frozen and in eval mode.

    Args:
        name: one of
            "emoji-clip", "emoji-clip-b", ...: a guide that ships with the repository, or a folder like theirs;
            "MODEL/TAG": any pair of open_clip, such as "ViT-B-32/openai" or "ViT-B-16/laion2b_s34b_b88k" (downloaded);
            "MODEL:/path/to/file": weights of a named architecture from a file;
            "/path/to/file": weights in OpenAI's layout or with a config beside them; "hf-hub:owner/name".
        device: "auto", "cpu", "cuda", "mps", ...
        quick_gelu: for local files whose origin cannot be seen: True for weights that come from OpenAI.
        precision: "fp32", or "fp16" / "bf16" to hold the weights in half the memory (not for the embedded models).
        cache_dir: where downloads go; None for open_clip's own place.

    Raises:
        UnknownName: no such embedded model, architecture or tag.
        MissingAsset: a file is absent or a download failed.
        CheckpointMismatch: the weights do not fit.
        BadParameter: the judge was asked for as a guide, or a precision that does not exist.
    """
    place = pick_device(str(device))
    check_name("precision", precision, open_clip_checkpoints.PRECISIONS)
    path = Path(name).expanduser()
    folder = path if _is_emoji_clip(path) else checkpoints_dir() / name
    if name == JUDGE or (_is_emoji_clip(folder) and _is_judge(folder)):
        raise BadParameter(f"{name} only measures and must not guide: use load_judge()")
    if _is_emoji_clip(folder):
        return _load_emoji(folder, name, place)
    if name.startswith("emoji-"):
        if embedded_clips() and name != "emoji-clip":
            raise unknown_name("embedded CLIP", name, embedded_clips())
        return _load_emoji(folder, name, place)  # says what is missing
    options = {"precision": precision, "quick_gelu": quick_gelu}
    model, colon, file = name.partition(":")
    if model == "hf-hub":
        loaded = open_clip_checkpoints.load_hub(name, precision=precision)
    elif path.exists() or path.is_absolute() or (not colon and path.suffix in open_clip_checkpoints.WEIGHT_SUFFIXES):
        loaded = open_clip_checkpoints.load_file(path, **options)
    elif colon:
        loaded = open_clip_checkpoints.load_file(Path(file), model_name=model, **options)
    else:
        loaded = open_clip_checkpoints.load_tag(*_split_tag(name), cache_dir=cache_dir, **options)
    return _wrap(loaded, name).to(place)


def _split_tag(name: str) -> tuple[str, str]:
    """Split "MODEL/TAG"; "ViT-B/32" and "RN50", the names OpenAI gave its models, mean OpenAI's weights."""
    import open_clip

    model, slash, tag = name.rpartition("/")
    whole = open_clip_checkpoints.plain_name(name)
    if "openai" in open_clip.list_pretrained_tags_by_model(whole):
        return whole, "openai"
    if not slash:
        known = embedded_clips() + open_clip.list_models()
        if name in known:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none are published"
            raise BadParameter(f"{name!r} is an architecture: say which weights, as '{name}/TAG' or '{name}:FILE'; "
                               f"published tags: {tags}")
        raise unknown_name("CLIP model", name, known)
    return model, tag


def _wrap(loaded: open_clip_checkpoints.Loaded, name: str) -> Clip:
    height, width = _pair(loaded.model.visual.image_size)
    how = {k: loaded.preprocess[k] for k in ("mean", "std", "resize_mode", "interpolation")}
    clip = Clip(loaded.model, loaded.tokenizer, name=name, dim=loaded.dim, sha256=loaded.sha256,
                image_size=height if height == width else (height, width), **how)
    return clip.eval().requires_grad_(False)


def load_judge(name: str = JUDGE, *, device: torch.device | str = "cpu") -> Clip:
    """Load the model that measures, and only measures: no gradient leaves its `encode_image`.

    Args:
        name: "emoji-judge", or a folder like its.
    """
    folder = checkpoints_dir() / name
    folder = folder if folder.is_dir() or not Path(name).expanduser().is_dir() else Path(name).expanduser()
    return _load_emoji(folder, name, pick_device(str(device)), measure_only=True)
