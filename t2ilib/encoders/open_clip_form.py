"""The embedded CLIP as a genuine open_clip model: timm's image tower and transformers' MiniLM, with its own weights.

For whoever wants open_clip's own functions; nothing that draws needs it. Image towers are registered with timm under a
name that spells out their shape, so that open_clip builds them from its own kind of config.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from .emoji_clip import CONTEXT_LENGTH, EmojiClipNetwork
from .hugging_face import quiet_transformers
from .image_towers import NORM_GROUPS
from .minilm import minilm_folder
from ..errors import BadParameter


def open_clip_form(network: EmojiClipNetwork) -> nn.Module:
    """Return an `open_clip.CustomTextCLIP` with the weights of an embedded CLIP, not a copy of them."""
    from open_clip import CustomTextCLIP

    config = open_clip_config(network)
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        model = CustomTextCLIP(config["embed_dim"], vision_cfg=config["vision_cfg"], text_cfg=config["text_cfg"])
    _freeze(model.text.transformer)
    model.visual.image_mean = tuple(network.config["mean"])
    model.visual.image_std = tuple(network.config["std"])
    return follow(model, network)


def follow(model: nn.Module, network: EmojiClipNetwork) -> nn.Module:
    """Bring an open_clip model to where its embedded CLIP lies now, and give it the same tensors again."""
    model.to(network.logit_scale.device)
    model.train(network.training)
    model.logit_scale = network.logit_scale
    share_tensors(network.visual, model.visual)
    share_tensors(network.text_proj, model.text.proj)
    share_tensors(network.minilm, model.text.transformer)
    return model


def share_tensors(source: nn.Module, target: nn.Module) -> None:
    """Put the parameters and buffers of one module into the places of the same names in another.

    Raises:
        KeyError: the target has no such place.
    """
    places = dict(target.named_modules())
    for prefix, module in source.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            places[prefix]._parameters[name] = parameter
        for name, buffer in module.named_buffers(recurse=False):
            places[prefix]._buffers[name] = buffer


def open_clip_config(network: EmojiClipNetwork) -> dict[str, Any]:
    """Return the model config in open_clip's own JSON form; its text tower names MiniLM's local folder."""
    minilm = str(minilm_folder(check=False))
    vision = {
        "image_size": network.config["image_size"], "timm_model_name": register_tower(network.tower_spec),
        "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": "linear",
        "timm_drop_path": network.config["drop_path"],
    }
    text = {
        "hf_model_name": minilm, "hf_tokenizer_name": minilm, "hf_proj_type": "linear",
        "hf_pooler_type": "mean_pooler", "hf_model_pretrained": False, "context_length": CONTEXT_LENGTH,
    }
    return {"embed_dim": network.config["embed_dim"], "custom_text": True, "vision_cfg": vision, "text_cfg": text}


def register_tower(spec: dict[str, Any]) -> str:
    """Make a tower known to timm (once), and return the name under which `timm.create_model` builds it."""
    import timm

    channels = "_".join(map(str, spec["channels"]))
    layers = "_".join(map(str, spec["layers"]))
    name = f"emoji_{spec['family']}_c{channels}_l{layers}_s{spec['stem']}_{spec['norm']}"
    if timm.is_model(name):
        return name
    build = _timm_resnet if spec["family"] == "resnet" else _timm_convnext
    shape = {key: value for key, value in spec.items() if key != "family"}

    def entry(pretrained: bool = False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
        if pretrained:
            raise BadParameter(f"{name} has no pretrained weights in timm; load the checkpoint instead")
        model = build(**shape, **kwargs)
        model.default_cfg = model.pretrained_cfg = {"input_size": (3, 64, 64), "pool_size": (2, 2)}
        return model

    entry.__name__ = entry.__qualname__ = name
    timm.models.register_model(entry)
    return name


def _timm_resnet(*, channels: list[int], layers: list[int], stem: int, norm: str, **kwargs: Any) -> nn.Module:
    """Build timm's form of `image_towers.ResNet`."""
    from timm.layers import GroupNorm
    from timm.models.resnet import BasicBlock, ResNet

    norms = {"batch": nn.BatchNorm2d, "group": partial(GroupNorm, num_groups=NORM_GROUPS)}
    inner = 16 if stem == 4 else max(16, channels[0] // 2)
    model = ResNet(BasicBlock, layers, channels=channels, stem_type="deep", stem_width=inner,
                   replace_stem_pool=stem == 4, norm_layer=norms[norm], **kwargs)
    if stem == 2:
        model.maxpool = nn.Identity()
    return model


def _timm_convnext(*, channels: list[int], layers: list[int], stem: int, norm: str, **kwargs: Any) -> nn.Module:
    """Build timm's form of `image_towers.ConvNeXt`."""
    from timm.models.convnext import ConvNeXt

    return ConvNeXt(dims=channels, depths=layers, patch_size=stem, **kwargs)


def _freeze(transformer: nn.Module) -> None:
    """Take gradients and dropout from a network for good: `model.train()` must not make its features noisy again."""
    transformer.eval().requires_grad_(False)
    for module in transformer.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
