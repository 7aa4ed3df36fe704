"""`python -m t2ilib bench`: measure hot loops beside what they replace."""

import argparse
from pathlib import Path
from types import ModuleType

from .console import relative
from ..errors import MissingAsset, check_name

HELP = "Measure hot loops beside what they replace, into reports/benchmarks."
EXAMPLE = "example: python -m t2ilib bench kernels --seconds 5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command understands."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks (default: all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--out", type=Path, help="folder for the CSV files (default: reports/benchmarks)")
    parser.add_argument("--memory", type=float, metavar="GIB", help="of the GPU that may be used, as on a smaller card")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured for each provider (default: 2)")


def run(args: argparse.Namespace) -> int:
    """Run the benchmarks and print their rows."""
    bench = load_benchmarks()
    for name in args.names:
        check_name("benchmark", name, bench.BENCHMARKS)
    if args.memory is not None:
        from ..runtime import limit_gpu_memory

        limit_gpu_memory(args.device, args.memory)
    for name in args.names or bench.BENCHMARKS:
        rows, path = bench.run_benchmark(name, device=args.device, seconds=args.seconds, folder=args.out)
        for row in rows:
            print(f"{row.kernel}, {row.shape}, {row.mode}: {row.provider} ({row.dtype}) "
                  f"{row.p50:.2f} {row.metric}, x{row.ratio:.2f}", flush=True)
        print(relative(path))
    return 0


def load_benchmarks() -> ModuleType:
    """Return the package of benchmarks, which an installed library does not have."""
    try:
        from .. import bench
    except ModuleNotFoundError as error:
        if error.name != "t2ilib.bench":
            raise
        raise MissingAsset("an installed package has no benchmarks; run them in a checkout") from error
    return bench
