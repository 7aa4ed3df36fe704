"""`python -m t2ilib release`: put what is large into an archive, or fetch from one what this clone lacks."""

import argparse
from pathlib import Path

from .console import relative
from ..errors import BadParameter
from ..files import check_writable

HELP = "Put checkpoints and executed notebooks into an archive with hashes, or fetch from one what is not here."
EXAMPLE = """examples:
  python -m t2ilib release --out outputs/t2ilib-files.tar.gz --url https://example.org/t2ilib-files.tar.gz
  python -m t2ilib release --fetch                            # from where data/release.json says
  python -m t2ilib release --fetch t2ilib-files.tar.gz --manifest t2ilib-files.json"""

DOWNLOAD = ""  # in the place of an archive's path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command understands."""
    parser.add_argument("--out", type=Path, metavar="ARCHIVE", help="write this .tar.gz, and a manifest beside it; as "
                        "data/release.json the manifest tells clones where to fetch from")
    parser.add_argument("--url", action="append", default=[], help="where the archive will lie; may be given again for "
                        "a mirror")
    parser.add_argument("--at-least", default="256KiB", metavar="SIZE", help="of files that go into the archive "
                        "(default: %(default)s)")
    parser.add_argument("--fetch", nargs="?", const=DOWNLOAD, metavar="ARCHIVE", help="bring what is not here, from "
                        "this file or by download")
    parser.add_argument("--manifest", type=Path, help="of the archive (default: data/release.json)")


def run(args: argparse.Namespace) -> int:
    """Write an archive, or unpack from one."""
    if (args.out is None) == (args.fetch is None):
        raise BadParameter("give --out ARCHIVE to write one, or --fetch to bring what this clone lacks")
    if args.out is not None:
        return write_archive(args)
    return fetch_files(args)


def write_archive(args: argparse.Namespace) -> int:
    """Write archive and manifest, and say what is in them."""
    from ..packing.archive import read_size
    from ..packing.release import release_parts, write_release

    at_least = read_size(args.at_least)
    check_writable(args.out)
    bundle, manifest = write_release(release_parts(at_least), args.out, urls=args.url)
    print(f"{relative(args.out)}: {bundle.size / 1e6:.1f} MB; {relative(manifest)}")
    for piece in bundle.taken:
        print(f"  {piece.mb:5.1f} MB  {piece.part.name}")
    return 0


def fetch_files(args: argparse.Namespace) -> int:
    """Bring what is not here, and say what that was."""
    from ..assets.released import fetch_lacking, read_release
    from ..runtime import progress

    release = read_release(args.manifest)
    archive = Path(args.fetch) if args.fetch != DOWNLOAD else None
    names = fetch_lacking(release, archive=archive, progress=progress)
    for name in names:
        print(f"  {name}")
    print(f"{len(names)} of {len(release.files)} files were not here" + (", and are now" if names else ""))
    return 0
