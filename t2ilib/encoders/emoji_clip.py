"""The embedded CLIP: a genuine open_clip model with frozen MiniLM for texts and a small timm network for pictures.

Only what is learnt is kept in a checkpoint: image tower, text projection and temperature. The 22 million frozen weights
of MiniLM come from their pip package. Image towers are timm networks, registered with timm under a name that spells
out their shape, so that open_clip builds them from its own kind of config.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .text import TextEncoder, load_text_encoder, minilm_folder, quiet_transformers, tokenize
from ..checkpoint import configurable
from ..errors import BadParameter, check_name

CONTEXT_LENGTH = 77  # as in CLIP; captions and prompts are far shorter
TEXT_WIDTH = 384
# Named image towers: family, channels and blocks of each stage, stride of the stem, normalisation.
# The ResNets guide; the ConvNeXt judges: another block, another normalisation, another stem.
TOWERS: dict[str, dict[str, Any]] = {
    "resnet": {
        "family": "resnet", "channels": (32, 64, 160, 320), "layers": (2, 2, 2, 2), "stem": 2, "norm": "batch"},
    "resnet_small": {
        "family": "resnet", "channels": (32, 64, 128, 256), "layers": (2, 2, 2, 2), "stem": 2, "norm": "batch"},
    "resnet_fast": {
        "family": "resnet", "channels": (64, 128, 256, 256), "layers": (2, 2, 2, 1), "stem": 4, "norm": "batch"},
    "convnext": {
        "family": "convnext", "channels": (48, 96, 192, 320), "layers": (1, 2, 4, 1), "stem": 2, "norm": "layer"},
}


def _resnet(*, channels: list[int], layers: list[int], stem: int, norm: str, **kwargs: Any) -> nn.Module:
    """Build a timm ResNet for small pictures: three 3x3 convolutions as stem, no max pooling.

    Stem stride 2 keeps a 64 px picture at 32 x 32 in the first stage; stride 4 has one more strided convolution.
    """
    from functools import partial

    from timm.layers import GroupNorm
    from timm.models.resnet import BasicBlock, ResNet

    norms = {"batch": nn.BatchNorm2d, "group": partial(GroupNorm, num_groups=8)}
    stem_width = 16 if stem == 4 else max(16, channels[0] // 2)  # at stride 4 the stem would be half of all the work
    model = ResNet(BasicBlock, layers, channels=channels, stem_type="deep", stem_width=stem_width,
                   replace_stem_pool=stem == 4, norm_layer=norms[norm], **kwargs)
    if stem == 2:
        model.maxpool = nn.Identity()
    return model


def _convnext(*, channels: list[int], layers: list[int], stem: int, norm: str, **kwargs: Any) -> nn.Module:
    """Build a timm ConvNeXt (depthwise 7x7, layer norm, GELU) whose stem cuts patches of `stem` pixels."""
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(dims=channels, depths=layers, patch_size=stem, **kwargs)


_FAMILIES = {"resnet": (_resnet, ("batch", "group")), "convnext": (_convnext, ("layer",))}


def tower_spec(tower: str, *, channels: list[int] | None = None, layers: list[int] | None = None,
               stem: int | None = None, norm: str | None = None) -> dict[str, Any]:
    """Return the full description of a named tower with some of its values replaced.

    Raises:
        UnknownName: no such tower.
        BadParameter: a value that the family cannot take.
    """
    check_name("image tower", tower, TOWERS)
    given = {"channels": channels, "layers": layers, "stem": stem, "norm": norm}
    spec = TOWERS[tower] | {k: v for k, v in given.items() if v is not None}
    norms = _FAMILIES[spec["family"]][1]
    if spec["norm"] not in norms:
        raise BadParameter(f"norm of tower {tower}: got {spec['norm']!r}, expected {' or '.join(norms)}")
    if spec["stem"] not in (2, 4):
        raise BadParameter(f"stem of tower {tower}: got {spec['stem']}, expected a stride of 2 or 4")
    for key in ("channels", "layers"):
        values = list(spec[key])
        if len(values) != 4 or any(not isinstance(v, int) or v < 1 for v in values):
            raise BadParameter(f"{key} of tower {tower}: got {values}, expected four positive whole numbers")
        spec[key] = values
    if spec["norm"] == "group" and any(c % 8 for c in spec["channels"]):
        raise BadParameter(f"channels of tower {tower}: got {spec['channels']}, expected multiples of 8 for group norm")
    return spec


def register_tower(spec: dict[str, Any]) -> str:
    """Make a tower known to timm (once), and return the name under which `timm.create_model` builds it."""
    import timm

    numbers = ["_".join(map(str, spec[key])) for key in ("channels", "layers")]
    name = f"emoji_{spec['family']}_c{numbers[0]}_l{numbers[1]}_s{spec['stem']}_{spec['norm']}"
    if timm.is_model(name):
        return name
    build = _FAMILIES[spec["family"]][0]
    arguments = {k: v for k, v in spec.items() if k != "family"}

    def entry(pretrained: bool = False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
        if pretrained:
            raise BadParameter(f"{name} has no pretrained weights in timm; load the checkpoint instead")
        model = build(**arguments, **kwargs)
        model.default_cfg = model.pretrained_cfg = {"input_size": (3, 64, 64), "pool_size": (2, 2)}
        return model

    entry.__name__ = entry.__qualname__ = name
    timm.models.register_model(entry)
    return name


def open_clip_config(*, tower: str = "resnet", channels: list[int] | None = None, layers: list[int] | None = None,
                     stem: int | None = None, norm: str | None = None, embed_dim: int = 256, image_size: int = 64,
                     drop_path: float = 0.0) -> dict[str, Any]:
    """Return the model config in open_clip's own JSON form; its text tower names MiniLM's local folder."""
    name = register_tower(tower_spec(tower, channels=channels, layers=layers, stem=stem, norm=norm))
    minilm = str(minilm_folder(check=False))
    return {
        "embed_dim": embed_dim,
        "custom_text": True,
        "vision_cfg": {"image_size": image_size, "timm_model_name": name, "timm_model_pretrained": False,
                       "timm_pool": "avg", "timm_proj": "linear", "timm_drop_path": drop_path},
        "text_cfg": {"hf_model_name": minilm, "hf_tokenizer_name": minilm, "hf_proj_type": "linear",
                     "hf_pooler_type": "mean_pooler", "hf_model_pretrained": True, "context_length": CONTEXT_LENGTH},
    }


class EmojiTokenizer:
    """Texts -> token ids (B, T) for the embedded CLIP, padded to the longest text of the call, not to 77."""

    def __init__(self, tokenizer: Any = None, *, context_length: int = CONTEXT_LENGTH):
        if tokenizer is None:
            from transformers import AutoTokenizer
            tokenizer = AutoTokenizer.from_pretrained(minilm_folder(check=False), local_files_only=True)
        self.tokenizer, self.context_length = tokenizer, context_length

    def __call__(self, texts: str | list[str], context_length: int | None = None, *, warn: bool = True) -> Tensor:
        texts = [texts] if isinstance(texts, str) else list(texts)
        return tokenize(self.tokenizer, texts, context_length or self.context_length,
                        name="emoji-clip" if warn else None)["input_ids"]

    def count_tokens(self, text: str) -> int:
        """Return how many tokens a text has, the two special ones included, before anything is cut."""
        return len(self.tokenizer(text, verbose=False)["input_ids"])


def _freeze(transformer: nn.Module) -> None:
    """Take gradients and dropout from a network for good: `model.train()` must not make its features noisy again."""
    transformer.eval().requires_grad_(False)
    for module in transformer.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


@configurable
class EmojiClip(nn.Module):
    """The learnt part of the embedded CLIP: image tower, text projection, temperature.

    Args:
        tower: a name in `TOWERS`; `channels`, `layers`, `stem`, `norm` replace its values.
        embed_dim: size E of the shared space.
        image_size: side of the pictures that the image tower reads.
        drop_path: stochastic depth of the image tower while training.
        init_temperature: 1 / exp(logit_scale) at the start, 0.07 in CLIP.
        mean, std: normalisation of [0, 1] pictures before the tower.

    Shapes:
        encode_image: normalised pictures (B, 3, image_size, image_size) -> (B, E), unit norm
        encode_features: MiniLM's pooled features (B, 384) -> (B, E), unit norm

    References:
        Radford et al. 2021, arXiv:2103.00020, figure 3; Zhai et al. 2022, arXiv:2111.07991 (one tower locked).
    """

    def __init__(self, *, tower: str = "resnet", channels: list[int] | None = None, layers: list[int] | None = None,
                 stem: int | None = None, norm: str | None = None, embed_dim: int = 256, image_size: int = 64,
                 drop_path: float = 0.0, init_temperature: float = 0.07, mean: list[float] = (0.5, 0.5, 0.5),
                 std: list[float] = (0.5, 0.5, 0.5)):
        super().__init__()
        if embed_dim < 1 or image_size < 16 or not init_temperature > 0 or not 0 <= drop_path < 1:
            raise BadParameter(f"embed_dim {embed_dim}, image_size {image_size}, init_temperature {init_temperature}, "
                               f"drop_path {drop_path}: expected >= 1, >= 16, > 0 and 0 <= drop_path < 1")
        from open_clip.timm_model import TimmModel

        self.open_clip_config = open_clip_config(
            tower=tower, channels=channels, layers=layers, stem=stem, norm=norm, embed_dim=embed_dim,
            image_size=image_size, drop_path=drop_path)
        vision = self.open_clip_config["vision_cfg"]
        self.visual = TimmModel(vision["timm_model_name"], embed_dim, image_size=image_size, pool="avg", proj="linear",
                                drop_path=drop_path)
        self.text_proj = nn.Linear(TEXT_WIDTH, embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(init_temperature)))
        self.image_size, self.image_mean, self.image_std = image_size, tuple(mean), tuple(std)

    def encode_image(self, x: Tensor) -> Tensor:
        """Return unit vectors of pictures that are already resized and normalised (`normalise`)."""
        return F.normalize(self.visual(x), dim=-1)

    def encode_features(self, features: Tensor) -> Tensor:
        """Return unit vectors of texts from MiniLM's pooled features; their length does not matter."""
        return F.normalize(self.text_proj(features), dim=-1)

    def normalise(self, x: Tensor) -> Tensor:
        """Map [0, 1] pictures to what the image tower reads."""
        shape = (1, 3, 1, 1)
        return (x - x.new_tensor(self.image_mean).view(shape)) / x.new_tensor(self.image_std).view(shape)

    def as_open_clip(self) -> nn.Module:
        """Return an `open_clip.CustomTextCLIP` that shares this module's weights and adds frozen MiniLM."""
        from open_clip import CustomTextCLIP

        minilm_folder()  # the hash is checked here, once
        config = self.open_clip_config
        parts = {k: dict(config[k]) for k in ("vision_cfg", "text_cfg")}
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            model = CustomTextCLIP(config["embed_dim"], **parts)
        _freeze(model.text.transformer)
        model.visual, model.text.proj, model.logit_scale = self.visual, self.text_proj, self.logit_scale
        model.visual.image_mean, model.visual.image_std = self.image_mean, self.image_std
        return model.train(self.training).to(self.logit_scale.device)


def build_emoji_clip(**kwargs: Any) -> tuple[nn.Module, EmojiTokenizer, dict[str, Any]]:
    """Build an untrained embedded CLIP from `EmojiClip`'s arguments: (open_clip model, tokenizer, config).

    Nothing is downloaded. The third value holds the arguments, defaults filled in.
    """
    towers = EmojiClip(**kwargs)
    return towers.as_open_clip(), EmojiTokenizer(), towers.config


def emoji_clip_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the learnt tensors of an embedded CLIP in open_clip form, with the keys of `EmojiClip`."""
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("text.transformer.")}
    return {k.replace("text.proj.", "text_proj."): v for k, v in state.items()}


def register_with_open_clip(name: str, folder: str | Path, **kwargs: Any) -> Path:
    """Write the config as `folder/name.json` and register it: `open_clip.create_model(name)` then builds the network.

    Args:
        kwargs: those of `open_clip_config`.
    """
    import open_clip

    path = Path(folder) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(open_clip_config(**kwargs), indent=2) + "\n", encoding="utf-8")
    open_clip.add_model_config(path)
    return path


def text_tower_features(texts: list[str], *, encoder: TextEncoder | None = None) -> Tensor:
    """Return MiniLM's pooled features (N, 384) of N texts: the frozen part of the text tower, worth computing once.

    The projection that follows has no bias and its result is normalised, so that unit-norm features give exactly what
    open_clip's un-normalised mean gives.
    """
    return (encoder or load_text_encoder("minilm")).pooled(texts)
