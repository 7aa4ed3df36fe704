"""CLIP models by name: those that ship, open_clip's, and files."""

from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from .clip import Clip, size_pair
from .emoji_clip import EmojiClip, EmojiClipNetwork
from .minilm import WIDTH
from .open_clip_checkpoints import (
    PRECISIONS,
    WEIGHT_SUFFIXES,
    Loaded,
    load_file,
    load_hub,
    load_tag,
    plain_name,
)
from .photo_clip import PhotoClip, PhotoClipNetwork
from .photo_judge import PHOTO_JUDGE
from .student_clip import StudentClip, StudentNetwork
from ..checkpoint import absent_checkpoint, load_model, read_config
from ..errors import BadParameter, CheckpointMismatch, MissingAsset, check_name, unknown_name
from ..paths import checkpoints_dir
from ..runtime import pick_device

JUDGE = "emoji-judge"
RECIPE = "python -m t2ilib run 12 --profile full"
EMBEDDED = (EmojiClip, PhotoClip, StudentClip)  # what the checkpoint of a CLIP may hold


def embedded_clips(classes: Collection[type[nn.Module]] = EMBEDDED) -> list[str]:
    """Return the names of the CLIP models that ship with the repository and may guide (the judge may not).

    `classes` are those of their checkpoints: `[EmojiClip]` leaves out what has no picture tower of its own.
    """
    folders = sorted(path.parent for path in checkpoints_dir().glob("*/config.json"))
    return [folder.name for folder in folders if _is_embedded(folder, classes) and not _is_judge(folder)]


def _is_embedded(folder: Path, classes: Collection[type[nn.Module]] = EMBEDDED) -> bool:
    try:
        kind = read_config(folder).get("class")
    except (MissingAsset, CheckpointMismatch):
        return False
    return kind in [cls.__name__ for cls in classes]


def _is_judge(folder: Path) -> bool:
    return folder.name == JUDGE or read_config(folder).get("role") == "judge"


def _load_embedded(folder: Path, name: str, device: torch.device, *, measure_only: bool = False) -> Clip:
    if not (folder / "config.json").is_file():
        raise MissingAsset(absent_checkpoint(folder.name, folder.parent, RECIPE))
    if not _is_embedded(folder):
        kinds = " or ".join(cls.__name__ for cls in EMBEDDED)
        raise CheckpointMismatch(f"{folder} holds a {read_config(folder).get('class')}, not an {kinds}; "
                                 "give the folder of a CLIP")
    if _is_embedded(folder, [PhotoClip]):
        clip = _photo_clip(folder, name, measure_only)
    elif _is_embedded(folder, [StudentClip]):
        clip = _student_clip(folder, name, measure_only)
    else:
        clip = _emoji_clip(folder, name, measure_only)
    return clip.eval().requires_grad_(False).to(device)


def _emoji_clip(folder: Path, name: str, measure_only: bool) -> Clip:
    towers = load_model(EmojiClip, folder)
    towers.visual.to(memory_format=torch.channels_last)  # convolutions are faster so, with the same results
    network = EmojiClipNetwork(towers)
    return Clip(network, network.tokenizer, name=name, dim=towers.config["embed_dim"], image_size=towers.image_size,
                mean=towers.image_mean, std=towers.image_std, sha256=read_config(folder)["sha256"],
                measure_only=measure_only)


def _photo_clip(folder: Path, name: str, measure_only: bool) -> Clip:
    learnt = load_model(PhotoClip, folder)
    network = PhotoClipNetwork(learnt)
    return Clip(network, network.tokenizer, name=name, dim=WIDTH, image_size=learnt.image_size, mean=[0.0] * 3,
                std=[1.0] * 3, sha256=read_config(folder)["sha256"], measure_only=measure_only)


def _student_clip(folder: Path, name: str, measure_only: bool) -> Clip:
    student = load_model(StudentClip, folder)
    return student_as_clip(student, name, sha256=read_config(folder)["sha256"], measure_only=measure_only)


def student_as_clip(student: StudentClip, name: str, *, sha256: str = "", measure_only: bool = False) -> Clip:
    """Return a student that is already in memory as a CLIP: its picture tower is a copy, made for speed."""
    network = StudentNetwork(student)
    network.visual.to(memory_format=torch.channels_last)
    return Clip(network, network.tokenizer, name=name, dim=student.config["embed_dim"], image_size=student.image_size,
                mean=student.image_mean, std=student.image_std, sha256=sha256, measure_only=measure_only)


def load_clip(name: str = "emoji-clip", *, device: torch.device | str = "cpu", quick_gelu: bool | None = None,
              precision: str = "fp32", cache_dir: str | None = None) -> Clip:
    """Load a CLIP model, frozen and in eval mode.

    Args:
        name: one of
            "emoji-clip", "emoji-clip-b", "emoji-clip-photo", "emoji-clip-student": a guide that ships, or a folder
                like theirs;
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
    check_name("precision", precision, PRECISIONS)
    path = Path(name).expanduser()
    folder = path if _is_embedded(path) else checkpoints_dir() / name
    if path.name in (JUDGE, PHOTO_JUDGE) or (_is_embedded(folder) and _is_judge(folder)):
        raise BadParameter(f"{name} only measures and must not guide: use load_judge() or load_photo_judge()")
    if _is_embedded(folder):
        return _load_embedded(folder, name, place)
    if name.startswith("emoji-"):
        if embedded_clips() and name != "emoji-clip":
            raise unknown_name("embedded CLIP", name, embedded_clips())
        return _load_embedded(folder, name, place)  # says what is missing
    model, colon, file = name.partition(":")
    is_file = path.exists() or path.is_absolute() or (not colon and path.suffix in WEIGHT_SUFFIXES)
    if model == "hf-hub":
        loaded = load_hub(name, precision=precision)
    elif is_file:
        loaded = load_file(path, precision=precision, quick_gelu=quick_gelu)
    elif colon:
        loaded = load_file(Path(file), model_name=model, precision=precision, quick_gelu=quick_gelu)
    else:
        model, tag = _split_tag(name)
        loaded = load_tag(model, tag, precision=precision, quick_gelu=quick_gelu, cache_dir=cache_dir)
    return _wrap(loaded, name).to(place)


def _split_tag(name: str) -> tuple[str, str]:
    """Split "MODEL/TAG"; "ViT-B/32" and "RN50", the names OpenAI gave its models, mean OpenAI's weights."""
    import open_clip

    model, slash, tag = name.rpartition("/")
    full_name = plain_name(name)
    if "openai" in open_clip.list_pretrained_tags_by_model(full_name):
        return full_name, "openai"
    if not slash:
        known = embedded_clips() + open_clip.list_models()
        if name in known:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none are published"
            raise BadParameter(f"{name!r} is an architecture: say which weights, as '{name}/TAG' or '{name}:FILE'; "
                               f"published tags: {tags}")
        raise unknown_name("CLIP model", name, known)
    return model, tag


def _wrap(loaded: Loaded, name: str) -> Clip:
    height, width = size_pair(loaded.model.visual.image_size)
    image_size = height if height == width else (height, width)
    preprocessing = {key: loaded.preprocess[key] for key in ("mean", "std", "resize_mode", "interpolation")}
    clip = Clip(loaded.model, loaded.tokenizer, name=name, dim=loaded.dim, sha256=loaded.sha256,
                image_size=image_size, **preprocessing)
    return clip.eval().requires_grad_(False)


def load_judge(name: str = JUDGE, *, device: torch.device | str = "cpu") -> Clip:
    """Load the model that measures, and only measures: no gradient leaves its `encode_image`.

    Args:
        name: "emoji-judge", or a folder like its.
    """
    folder = checkpoints_dir() / name
    if not folder.is_dir() and Path(name).expanduser().is_dir():
        folder = Path(name).expanduser()
    return _load_embedded(folder, name, pick_device(str(device)), measure_only=True)
