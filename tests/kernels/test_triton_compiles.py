"""Triton's compiler makes machine code of every kernel, for capability 8.0, and needs no GPU for that: it sees types
that the interpreter does not."""

import os
import subprocess
import sys

import pytest

from t2ilib.kernels import HAS_TRITON
from t2ilib.paths import repo_root

COMPILE = """
import importlib
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

MODULES = {name: importlib.import_module(f"t2ilib.kernels.{name}")
           for name in ("nearest_code", "_group_norm_silu_triton", "_cutouts_triton")}
HALF = {"_group_norm_silu_triton": ("x", "y", "grad"), "_cutouts_triton": ("pyramid", "grad"),
        "nearest_code": ("z",)}
CONSTANTS = {"ROWS": 64, "ENTRIES": 64, "DIMS": 64, "PRECISION": "tf32x3", "C": 4, "P": 512}
OTHER = {"table": "*i64", "codes": "*i32"}  # what is neither a pointer to float32 nor a number
NUMBERS = {"n", "k", "d", "part", "channels", "positions", "blocks", "groups", "cuts", "size", "depth", "h", "w",
           "margin"}


def variants(names):
    for value in (True, False) if "SUMS" in names else (0, 1, 2) if "PADDING" in names else (None,):
        yield {k: v for k, v in {**CONSTANTS, "SUMS": value, "PADDING": value}.items() if k in names}


for module_name, module in MODULES.items():
    kernels = {k: v for k, v in vars(module).items() if k.endswith("_kernel")}
    assert kernels, module_name
    for name, kernel in kernels.items():
        for half in (False, True):
            for constants in variants(kernel.arg_names):
                kinds = {}
                for argument in kernel.arg_names:
                    stride = argument.endswith(("_row", "_dim", "_b", "_c", "_p"))
                    pointer = "*bf16" if half and argument in HALF[module_name] else "*fp32"
                    kinds[argument] = ("constexpr" if argument in constants else OTHER.get(argument)
                                       or ("i32" if stride or argument in NUMBERS else pointer))
                source = ASTSource(kernel, kinds, {(kernel.arg_names.index(k),): v for k, v in constants.items()})
                made = triton.compile(source, target=GPUTarget("cuda", 80, 32))
                assert made.metadata.shared <= 99 * 1024, (name, made.metadata.shared)
                print(name, len(made.asm["cubin"]))
"""


@pytest.mark.skipif(not HAS_TRITON, reason="Triton has no wheel for this system")
@pytest.mark.slow
def test_every_kernel_compiles(tmp_path):
    environment = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(repo_root())}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILE], capture_output=True, text=True,
                          env=os.environ | environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    compiled = {line.split()[0] for line in done.stdout.splitlines()}
    assert compiled == {"_nearest_code_kernel", "_moments_kernel", "_apply_kernel", "_backward_kernel", "_cut_kernel",
                        "_gather_kernel"}
