"""open_clip models with foreign weights: tags, local files, OpenAI's archives, each with its own activation.

The trap this module exists for: OpenAI trained CLIP with QuickGELU, x * sigmoid(1.702 x). A model that was trained with
it and runs with plain GELU still loads, gives no error, and answers worse. A tag says which it needs; a file does not.
"""

import json
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .hugging_face import quiet_transformers
from ..checkpoint import load_strict
from ..errors import BadParameter, CheckpointMismatch, MissingAsset, unknown_name
from ..files import sha256_of

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
# In a file's name: families that their makers trained with QuickGELU, and those known to use plain GELU.
_QUICK_HINTS = ("openai", "quickgelu", "quick_gelu", "metaclip", "dfn")
_PLAIN_HINTS = ("laion2b", "laion5b", "datacomp", "commonpool")
_ARCHIVE_EXTRAS = ("input_resolution", "context_length", "vocab_size", "attn_mask")  # no weights


@dataclass
class Loaded:
    """An open_clip model with what is needed to use it rightly."""

    model: nn.Module
    tokenizer: Any
    dim: int
    preprocess: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""


def first_line(error: Exception) -> str:
    """Return what an error says, shortened to its first line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def plain_name(name: str) -> str:
    """Return open_clip's spelling of a name that OpenAI writes with a slash: "ViT-L/14@336px" -> "ViT-L-14-336"."""
    return name.replace("/", "-").replace("@336px", "-336")


def is_torchscript(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, the form in which OpenAI published CLIP."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(n.endswith("/constants.pkl") for n in archive.namelist())


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file: safetensors, TorchScript archive, or a pickle of nothing but tensors.

    Raises:
        CheckpointMismatch: no weight file, or a pickle with other objects in it.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file
            state = load_file(path)
        elif is_torchscript(path):
            with warnings.catch_warnings():  # TorchScript is deprecated; here it is only a container of tensors
                warnings.simplefilter("ignore")
                state = torch.jit.load(path, map_location="cpu").state_dict()
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has errors of its own
        raise CheckpointMismatch(f"{path}: cannot be read as weights ({first_line(error)}); expected safetensors, "
                                 "a TorchScript archive, or torch.save of a state dict") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointMismatch(f"{path}: holds no state dict of tensors; save `model.state_dict()` instead")
    return {k.removeprefix("module."): v for k, v in state.items() if k not in _ARCHIVE_EXTRAS}


def infer_config(state: dict[str, Tensor], *, source: str) -> dict[str, Any]:
    """Return open_clip's model config for weights in OpenAI's layout (ViT or ResNet), read from their shapes.

    Heads are 64 wide in every such model; anything else needs the model's name.
    """
    def count(prefix: str) -> int:
        at = prefix.count(".")
        return len({k.split(".")[at] for k in state if k.startswith(prefix)})

    try:
        width = state["ln_final.weight"].shape[0]
        text = {"context_length": state["positional_embedding"].shape[0], "width": width, "heads": max(1, width // 64),
                "vocab_size": state["token_embedding.weight"].shape[0], "layers": count("transformer.resblocks.")}
        if "visual.conv1.weight" in state and "visual.proj" in state:
            patch = state["visual.conv1.weight"].shape[-1]
            grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
            vision = {"layers": count("visual.transformer.resblocks."), "width": state["visual.conv1.weight"].shape[0],
                      "patch_size": patch, "image_size": patch * grid}
        else:
            grid = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
            vision = {"layers": [count(f"visual.layer{i}.") for i in (1, 2, 3, 4)], "image_size": grid * 32,
                      "width": state["visual.layer1.0.conv1.weight"].shape[0]}
        return {"embed_dim": state["text_projection"].shape[1], "vision_cfg": vision, "text_cfg": text}
    except KeyError as error:
        raise CheckpointMismatch(f"{source}: no CLIP in OpenAI's layout (no {error.args[0]}); name the architecture, "
                                 f"as in 'ViT-B-32:{source}'") from error


def decide_quick_gelu(path: Path, *, given: bool | None, config: dict[str, Any], model_name: str = "") -> bool:
    """Decide between QuickGELU and GELU for a local file: what is given, else what is certain, else a warning.

    In this order: the argument; a TorchScript archive (only OpenAI publishes those) or a model name or config that asks
    for QuickGELU; the file's name; and with none of these, plain GELU with a warning.
    """
    if given is not None:
        return given
    hay = path.name.lower()
    if is_torchscript(path) or config.get("quick_gelu") or any(h in hay for h in _QUICK_HINTS):
        return True
    timm_only = "timm_model_name" in config["vision_cfg"] and "hf_model_name" in config["text_cfg"]
    if "quick_gelu" in config or timm_only or any(h in hay for h in _PLAIN_HINTS):
        return False
    warnings.warn(f"{path.name}: nothing tells whether it was trained with QuickGELU; plain GELU is taken. Weights "
                  "that come from OpenAI need load_clip(..., quick_gelu=True); quick_gelu=False ends this warning. "
                  f"(Model: {model_name or 'read from the shapes'}.)", stacklevel=4)
    return False


def build(config: dict[str, Any], *, quick_gelu: bool, precision: str) -> nn.Module:
    """Build an open_clip network from its JSON config, without any weights of its towers."""
    import open_clip

    config = json.loads(json.dumps(config))  # own copy
    custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    if "hf_model_name" in config["text_cfg"]:
        config["text_cfg"]["hf_model_pretrained"] = False
    kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    config["quick_gelu"] = quick_gelu
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        return kind(**config, cast_dtype=open_clip.get_cast_dtype(precision))


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a weight file into a network, strictly: every key and shape must fit."""
    from open_clip.factory import load_checkpoint

    if is_torchscript(path):
        load_strict(model, read_state(path), source=str(path))
        return
    try:  # open_clip's reader knows the layouts of several other projects
        load_checkpoint(model, str(path), strict=True)
    except Exception as error:
        read_state(path)  # says so if the file itself is the problem
        reason = " ".join(str(error).split())[:400]
        raise CheckpointMismatch(f"{path} does not fit {type(model).__name__}: {reason}; name its architecture as "
                                 f"'MODEL:{path}', one of open_clip.list_models()") from error


def _tokenizer(config: dict[str, Any], model_name: str = "", folder: Path | None = None) -> Any:
    import open_clip
    from open_clip.tokenizer import HFTokenizer

    if model_name:
        return open_clip.get_tokenizer(plain_name(model_name))
    text = config["text_cfg"]
    length = text.get("context_length", 77)
    if text.get("hf_tokenizer_name"):
        return HFTokenizer(str(folder) if folder else text["hf_tokenizer_name"], context_length=length)
    return open_clip.SimpleTokenizer(context_length=length)


def _finish(model: nn.Module, precision: str, preprocess: dict[str, Any]) -> nn.Module:
    import open_clip

    if PRECISIONS[precision] != torch.float32:
        open_clip.convert_weights_to_lp(model, dtype=PRECISIONS[precision])
    known = {k: preprocess[k] for k in ("mean", "std", "interpolation", "resize_mode") if k in preprocess}
    open_clip.set_model_preprocess_cfg(model, {
        "size": model.visual.image_size, "mode": "RGB", "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD, "interpolation": "bicubic", "resize_mode": "shortest",
        "fill_color": 0} | known)
    return model.eval().requires_grad_(False)


def model_config(name: str) -> dict[str, Any]:
    """Return open_clip's config of a named architecture; slashes as OpenAI writes them ("ViT-B/32") are understood."""
    import open_clip

    config = open_clip.get_model_config(plain_name(name))
    if config is None:
        raise unknown_name("open_clip model", name, open_clip.list_models())
    return config


def load_tag(name: str, tag: str, *, precision: str, quick_gelu: bool | None, cache_dir: str | None) -> Loaded:
    """Load a (model, tag) pair of open_clip, downloading its weights if they are not in the cache.

    Raises:
        UnknownName: no such model, or no such tag for it.
        BadParameter: `quick_gelu` contradicts the tag.
        MissingAsset: the download failed.
    """
    import open_clip

    config, name = model_config(name), plain_name(name)
    pretrained = open_clip.get_pretrained_cfg(name, tag)
    if not pretrained:
        raise unknown_name(f"weights of {name}", tag, open_clip.list_pretrained_tags_by_model(name))
    quick = bool(pretrained.get("quick_gelu", False))
    if quick_gelu is not None and quick_gelu != quick:
        raise BadParameter(f"{name}/{tag} was trained with quick_gelu={quick}, got {quick_gelu}; leave it out")
    try:
        path = Path(open_clip.download_pretrained(pretrained, cache_dir=cache_dir))
    except Exception as error:  # every hub and network error there is
        raise MissingAsset(f"the weights of {name}/{tag} could not be downloaded ({first_line(error)}); check the "
                           f"network, or give a file that you have as '{name}:/path/to/file'") from error
    model = build(config, quick_gelu=quick, precision=precision)
    load_weights(model, path)
    _finish(model, precision, pretrained)
    return Loaded(model, _tokenizer(config, name), config["embed_dim"], model.visual.preprocess_cfg, sha256_of(path))


def load_file(path: Path, *, model_name: str = "", precision: str, quick_gelu: bool | None) -> Loaded:
    """Load a local weight file; its architecture is the named one, that of a config beside it, or read from shapes.

    A config is `open_clip_config.json` beside the file (as open_clip writes it to the hub), or its name with `.json`.

    Raises:
        MissingAsset: no such file, or a folder without config or weights.
        CheckpointMismatch: the weights do not fit.
    """
    path = path.expanduser()
    if path.is_dir():
        found = [p for suffix in WEIGHT_SUFFIXES for p in sorted(path.glob(f"*{suffix}"))]
        if not (path / "open_clip_config.json").is_file() or not found:
            raise MissingAsset(f"{path}: a folder needs open_clip_config.json and a weight file; it holds "
                               f"{sorted(p.name for p in path.iterdir())[:6]}")
        path = found[0]
    if not path.is_file():
        raise MissingAsset(f"CLIP weights not found at {path}; give 'MODEL:/path/to/file', 'MODEL/TAG' or 'emoji-clip'")
    beside, preprocess, folder = {}, {}, None
    for candidate in (path.with_name("open_clip_config.json"), path.with_suffix(".json")):
        if candidate.is_file() and not beside:
            written = json.loads(candidate.read_text(encoding="utf-8"))
            beside, preprocess = written.get("model_cfg", written), written.get("preprocess_cfg", {})
            folder = path.parent if (path.parent / "tokenizer.json").is_file() else None
    if model_name:
        config, preprocess = model_config(model_name), preprocess or _usual_preprocess(model_name)
    else:
        config = beside or infer_config(read_state(path), source=str(path))
    quick = decide_quick_gelu(path, given=quick_gelu, config=config, model_name=model_name)
    model = build(config, quick_gelu=quick, precision=precision)
    load_weights(model, path)
    _finish(model, precision, preprocess)
    tokenizer = _tokenizer(config, model_name, folder)
    return Loaded(model, tokenizer, config["embed_dim"], model.visual.preprocess_cfg, sha256_of(path))


def load_hub(name: str, *, precision: str) -> Loaded:
    """Load 'hf-hub:owner/name', an open_clip repository on the Hugging Face hub."""
    import open_clip

    try:
        model = open_clip.create_model(name, precision=precision, require_pretrained=True)
        config = open_clip.get_model_config(name)
    except Exception as error:
        raise MissingAsset(f"{name}: could not be loaded from the hub ({first_line(error)}); check name and "
                           "network") from error
    model.eval().requires_grad_(False)
    return Loaded(model, open_clip.get_tokenizer(name), config["embed_dim"], model.visual.preprocess_cfg)


def _usual_preprocess(name: str) -> dict[str, Any]:
    """Return the preprocessing on which all published weights of an architecture agree, as far as they do."""
    import open_clip

    name = plain_name(name)
    tags = [open_clip.get_pretrained_cfg(name, t) for t in open_clip.list_pretrained_tags_by_model(name)]
    keys = ("mean", "std", "interpolation", "resize_mode")
    return {k: tags[0][k] for k in keys if tags and k in tags[0] and all(t.get(k) == tags[0][k] for t in tags)}
