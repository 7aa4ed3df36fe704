"""`python -m t2ilib bundle`: pack what runs on a machine without internet into one archive."""

import argparse
import tempfile
from pathlib import Path

from .console import relative
from ..errors import BadParameter
from ..files import check_writable

HELP = "Pack code, tests, data, checkpoints and wheels for a machine without internet, as much as fits."
EXAMPLE = """examples:
  python -m t2ilib bundle --out lab.tar --limit 60MB
  python -m t2ilib bundle --checkpoints emoji-clip-b,emoji-clip --limit 64MiB
There, with torch, torchvision, timm, transformers, safetensors, pyarrow, pillow, scikit-learn and matplotlib:
  mkdir lab; tar -xf lab.tar -C lab; sh lab/run.sh gpu --minutes 9"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command understands."""
    parser.add_argument("--out", type=Path, default=Path("lab.tar"), help="archive to write, compressed by gzip "
                        "whatever its name (default: %(default)s)")
    parser.add_argument("--limit", default="60MB", metavar="SIZE", help="of the archive, such as 60MB or 64MiB "
                        "(default: %(default)s)")
    parser.add_argument("--checkpoints", metavar="NAMES", help="checkpoints that must be in it, and no others, such as "
                        "emoji-clip-b,emoji-clip; none for none (default: all that fit, those that `gpu` trains first)")


def run(args: argparse.Namespace) -> int:
    """Write the archive, and say what is in it and what is not."""
    from ..packing import archive
    from ..packing.parts import list_parts

    limit = archive.read_size(args.limit)
    check_writable(args.out)
    with tempfile.TemporaryDirectory(prefix="t2i-bundle-") as scratch:
        packed = [archive.pack(part) for part in list_parts(checkpoint_names(args.checkpoints), Path(scratch))]
    bundle = archive.choose(packed, limit)
    archive.write(bundle, args.out)
    print(f"{relative(args.out)}: {bundle.size / 1e6:.1f} MB of {limit / 1e6:.1f} MB")
    for piece in bundle.taken:
        print(f"  {piece.mb:5.1f} MB  {piece.part.name}")
    if bundle.left_out:
        print("left out, because they do not fit")
        for piece in bundle.left_out:
            print(f"  {piece.mb:5.1f} MB  {piece.part.name}")
    return 0


def checkpoint_names(text: str | None) -> list[str] | None:
    """Return the names in a list such as "emoji-clip,emoji-judge", each once; None where none was given.

    Raises:
        BadParameter: the list is empty.
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise BadParameter("--checkpoints is empty; name some, or write none")
    return [] if names == ["none"] else list(dict.fromkeys(names))
