"""Checkpoints of open_clip models: tags, local files, OpenAI's archives, each with its own activation.

The trap this module exists for: OpenAI trained CLIP with QuickGELU, x * sigmoid(1.702 x). A model that was trained with
it and runs with plain GELU still loads, gives no error, and answers worse. A tag says which it needs; a file does not.
"""

import copy
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .hugging_face import quiet_transformers
from .torchscript_tensors import is_torchscript, read_torchscript_tensors
from ..assets import hub_or_cache
from ..checkpoint import load_strict, read_tensors
from ..errors import BadParameter, CheckpointMismatch, MissingAsset, unknown_name
from ..files import check_archive, read_json, sha256_of
from ..state_dicts import check_numbers, find_state

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
# In a file's name: families that their makers trained with QuickGELU, and those known to use plain GELU.
_QUICK_HINTS = ("openai", "quickgelu", "quick_gelu", "metaclip", "dfn")
_PLAIN_HINTS = ("laion2b", "laion5b", "datacomp", "commonpool")
_ARCHIVE_EXTRAS = ("input_resolution", "context_length", "vocab_size", "attn_mask")  # tensors, but no weights
_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


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


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file: safetensors, TorchScript archive, or a pickle of nothing but tensors.

    No file runs anything: of an archive only the tensors are read, and a pickle with other objects is refused.

    Raises:
        CheckpointMismatch: no weight file, or a pickle with other objects in it.
    """
    try:
        if path.suffix == ".safetensors":
            state = read_tensors(path)
        elif is_torchscript(path):
            state = read_torchscript_tensors(path)
        else:
            check_archive(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has errors of its own
        raise CheckpointMismatch(f"{path}: cannot be read as weights ({first_line(error)}); expected safetensors, "
                                 "a TorchScript archive, or torch.save of a state dict") from error
    weights = {}
    for name, tensor in find_state(state, source=str(path)).items():
        if name.rpartition(".")[2] not in _ARCHIVE_EXTRAS:
            weights[name] = tensor
    check_numbers(weights, source=str(path))
    return weights


def infer_config(state: dict[str, Tensor], *, source: str) -> dict[str, Any]:
    """Return open_clip's model config for weights in OpenAI's layout (ViT or ResNet), read from their shapes.

    Heads are 64 wide in every such model; anything else needs the model's name.
    """
    try:
        config = {"embed_dim": state["text_projection"].shape[1], "text_cfg": _text_config(state)}
        is_vit = "visual.conv1.weight" in state and "visual.proj" in state
        config["vision_cfg"] = _vit_config(state) if is_vit else _resnet_config(state)
    except KeyError as error:
        raise CheckpointMismatch(f"{source}: no CLIP in OpenAI's layout (no {error.args[0]}); name the architecture, "
                                 f"as in 'ViT-B-32:{source}'") from error
    return config


def _text_config(state: dict[str, Tensor]) -> dict[str, Any]:
    width = state["ln_final.weight"].shape[0]
    return {"context_length": state["positional_embedding"].shape[0], "width": width, "heads": max(1, width // 64),
            "vocab_size": state["token_embedding.weight"].shape[0], "layers": _count(state, "transformer.resblocks.")}


def _vit_config(state: dict[str, Tensor]) -> dict[str, Any]:
    width, _, patch, _ = state["visual.conv1.weight"].shape
    return {"layers": _count(state, "visual.transformer.resblocks."), "width": width, "patch_size": patch,
            "image_size": patch * _grid(state["visual.positional_embedding"])}


def _resnet_config(state: dict[str, Tensor]) -> dict[str, Any]:
    image_size = 32 * _grid(state["visual.attnpool.positional_embedding"])  # the trunk shrinks a picture 32 times
    layers = [_count(state, f"visual.layer{i}.") for i in (1, 2, 3, 4)]
    return {"layers": layers, "image_size": image_size, "width": state["visual.layer1.0.conv1.weight"].shape[0]}


def _count(state: dict[str, Tensor], prefix: str) -> int:
    """Return how many numbered modules follow a prefix."""
    numbers = set()
    for name in state:
        if name.startswith(prefix):
            numbers.add(name.removeprefix(prefix).split(".")[0])
    return len(numbers)


def _grid(positions: Tensor) -> int:
    """Return the side of the square grid of positions (side^2 + 1, D), the first of which is the class token's."""
    return round((positions.shape[0] - 1) ** 0.5)


def decide_quick_gelu(path: Path, *, quick_gelu: bool | None, config: dict[str, Any], model_name: str = "") -> bool:
    """Decide between QuickGELU and GELU for a local file: what is asked for, else what is certain, else a warning.

    In this order: the argument; a TorchScript archive (only OpenAI publishes those) or a model name or config that asks
    for QuickGELU; the file's name; and with none of these, plain GELU with a warning.
    """
    if quick_gelu is not None:
        return quick_gelu
    file_name = path.name.lower()
    named_quick = any(hint in file_name for hint in _QUICK_HINTS)
    if is_torchscript(path) or config.get("quick_gelu") or named_quick:
        return True
    named_plain = any(hint in file_name for hint in _PLAIN_HINTS)
    # neither tower is open_clip's own, and only those have the choice
    other_towers = "timm_model_name" in config["vision_cfg"] and "hf_model_name" in config["text_cfg"]
    if "quick_gelu" in config or other_towers or named_plain:
        return False
    warnings.warn(f"{path.name}: nothing tells whether it was trained with QuickGELU; plain GELU is taken. Weights "
                  "that come from OpenAI need load_clip(..., quick_gelu=True); quick_gelu=False ends this warning. "
                  f"(Model: {model_name or 'read from the shapes'}.)", stacklevel=4)
    return False


def build(config: dict[str, Any], *, quick_gelu: bool, precision: str) -> nn.Module:
    """Build an open_clip network from its JSON config, without any weights of its towers."""
    import open_clip

    config = copy.deepcopy(config)
    has_hf_text = "hf_model_name" in config["text_cfg"]
    custom_text = config.pop("custom_text", False) or has_hf_text
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    if has_hf_text:
        config["text_cfg"]["hf_model_pretrained"] = False
    config["quick_gelu"] = quick_gelu
    if "multimodal_cfg" in config:
        kind = open_clip.CoCa
    elif custom_text:
        kind = open_clip.CustomTextCLIP
    else:
        kind = open_clip.CLIP
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        return kind(**config, cast_dtype=open_clip.get_cast_dtype(precision))


def load_weights(model: nn.Module, path: Path, *, state: dict[str, Tensor] | None = None) -> None:
    """Load a weight file into a network, strictly: every key and shape must fit.

    Args:
        state: what `read_state` gave of this file, where it was asked before.
    """
    from open_clip.factory import load_checkpoint

    if path.suffix != ".npz":  # the form of big_vision, which only open_clip reads
        if state is None:
            state = read_state(path)
        try:
            load_strict(model, state, source=str(path))
            return
        except CheckpointMismatch:
            if is_torchscript(path):
                raise
    try:  # open_clip's reader knows the layouts of several other projects
        load_checkpoint(model, str(path), strict=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:400]  # in one line
        raise CheckpointMismatch(f"{path} does not fit {type(model).__name__}: {reason}; name its architecture as "
                                 f"'MODEL:{path}', one of open_clip.list_models()") from error


def _tokenizer(config: dict[str, Any], model_name: str = "", folder: Path | None = None) -> Any:
    import open_clip
    from open_clip.tokenizer import HFTokenizer

    if model_name:
        return open_clip.get_tokenizer(plain_name(model_name))
    text_config = config["text_cfg"]
    length = text_config.get("context_length", 77)
    if text_config.get("hf_tokenizer_name"):
        source = str(folder) if folder else text_config["hf_tokenizer_name"]
        return HFTokenizer(source, context_length=length)
    return open_clip.SimpleTokenizer(context_length=length)


def _finish(model: nn.Module, precision: str, preprocess: dict[str, Any]) -> nn.Module:
    import open_clip

    if PRECISIONS[precision] != torch.float32:
        open_clip.convert_weights_to_lp(model, dtype=PRECISIONS[precision])
    complete = {"size": model.visual.image_size, "mode": "RGB", "mean": open_clip.OPENAI_DATASET_MEAN,
                "std": open_clip.OPENAI_DATASET_STD, "interpolation": "bicubic", "resize_mode": "shortest",
                "fill_color": 0}
    for key in _PREPROCESSING:
        if key in preprocess:
            complete[key] = preprocess[key]
    open_clip.set_model_preprocess_cfg(model, complete)
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

    config = model_config(name)
    name = plain_name(name)
    pretrained = open_clip.get_pretrained_cfg(name, tag)
    if not pretrained:
        raise unknown_name(f"weights of {name}", tag, open_clip.list_pretrained_tags_by_model(name))
    quick = bool(pretrained.get("quick_gelu", False))
    if quick_gelu is not None and quick_gelu != quick:
        raise BadParameter(f"{name}/{tag} was trained with quick_gelu={quick}, got {quick_gelu}; leave it out")
    with hub_or_cache() as absence:
        try:
            path = Path(open_clip.download_pretrained(pretrained, cache_dir=cache_dir))
            model = build(config, quick_gelu=quick, precision=precision)
            tokenizer = _tokenizer(config, name)
        except Exception as error:  # every hub and network error there is
            problem = absence or f"{first_line(error)}; check the network"
            raise MissingAsset(f"the weights of {name}/{tag} could not be downloaded: {problem}, or give a file that "
                               f"you have as '{name}:/path/to/file'") from error
    load_weights(model, path)
    _finish(model, precision, pretrained)
    return Loaded(model, tokenizer, config["embed_dim"], model.visual.preprocess_cfg, sha256_of(path))


def load_file(path: Path, *, model_name: str = "", precision: str, quick_gelu: bool | None) -> Loaded:
    """Load a local weight file; its architecture is the named one, that of a config beside it, or read from shapes.

    A config is `open_clip_config.json` beside the file (as open_clip writes it to the hub), or its name with `.json`.

    Raises:
        MissingAsset: no such file, or a folder without config or weights.
        CheckpointMismatch: the weights do not fit.
    """
    path = path.expanduser()
    if path.is_dir():
        path = _weights_in(path)
    if not path.is_file():
        raise MissingAsset(f"CLIP weights not found at {path}; give 'MODEL:/path/to/file', 'MODEL/TAG' or 'emoji-clip'")
    config, preprocess = _config_beside(path)
    tokenizer_folder = path.parent if config and (path.parent / "tokenizer.json").is_file() else None
    state = None
    if model_name:
        config = model_config(model_name)
        preprocess = preprocess or _usual_preprocess(model_name)
    elif not config:
        state = read_state(path)
        config = infer_config(state, source=str(path))
    quick = decide_quick_gelu(path, quick_gelu=quick_gelu, config=config, model_name=model_name)
    text_config = config["text_cfg"]
    has_parts_on_hub = "hf_model_name" in text_config or "hf_tokenizer_name" in text_config
    with hub_or_cache(needed=has_parts_on_hub) as absence:
        try:
            model = build(config, quick_gelu=quick, precision=precision)
            tokenizer = _tokenizer(config, model_name, tokenizer_folder)
        except OSError as error:
            problem = absence or first_line(error)
            raise MissingAsset(f"{path}: its text model or tokenizer could not be loaded: {problem}") from error
    load_weights(model, path, state=state)
    _finish(model, precision, preprocess)
    return Loaded(model, tokenizer, config["embed_dim"], model.visual.preprocess_cfg, sha256_of(path))


def _weights_in(folder: Path) -> Path:
    """Return the weight file of a folder as open_clip writes it."""
    files = [path for suffix in WEIGHT_SUFFIXES for path in sorted(folder.glob(f"*{suffix}"))]
    if not files or not (folder / "open_clip_config.json").is_file():
        raise MissingAsset(f"{folder}: a folder needs open_clip_config.json and a weight file; it holds "
                           f"{sorted(path.name for path in folder.iterdir())[:6]}")
    return files[0]


def _config_beside(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the model and preprocessing configs that lie beside a weight file; empty ones where there are none."""
    for candidate in (path.with_name("open_clip_config.json"), path.with_suffix(".json")):
        if candidate.is_file():
            written = read_json(candidate)
            return written.get("model_cfg", written), written.get("preprocess_cfg", {})
    return {}, {}


def load_hub(name: str, *, precision: str) -> Loaded:
    """Load 'hf-hub:owner/name', an open_clip repository on the Hugging Face hub."""
    import open_clip

    with hub_or_cache() as absence:
        try:
            model = open_clip.create_model(name, precision=precision, require_pretrained=True)
            config = open_clip.get_model_config(name)
            tokenizer = open_clip.get_tokenizer(name)
        except Exception as error:
            problem = absence or f"{first_line(error)}; check name and network"
            raise MissingAsset(f"{name} could not be loaded from the hub: {problem}") from error
    model.eval().requires_grad_(False)
    return Loaded(model, tokenizer, config["embed_dim"], model.visual.preprocess_cfg)


def _usual_preprocess(name: str) -> dict[str, Any]:
    """Return the preprocessing on which all published weights of an architecture agree, as far as they do."""
    import open_clip

    name = plain_name(name)
    tags = [open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)]
    usual = {}
    for key in _PREPROCESSING:
        values = [tag.get(key) for tag in tags]
        if values and values[0] is not None and all(value == values[0] for value in values):
            usual[key] = values[0]
    return usual
