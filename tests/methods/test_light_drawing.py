"""What draws with shipped networks imports none of the packages that take seconds."""

import subprocess
import sys

import pytest

from t2ilib.methods import METHODS
from t2ilib.paths import repo_root

HEAVY = ("open_clip", "transformers", "timm", "torchvision", "matplotlib", "scipy", "wandb", "lightning_fabric",
         "torch._dynamo", "sympy")
QUICK = {"vqgan_clip": ["steps=1", "candidates=1"], "minimagen": ["steps=1", "candidates=2"],
         "vqvae_pixelsnail": ["candidates=2"], "text_transformer": ["candidates=2"]}
CODE = """
import sys
from t2ilib.cli import main
code = main(sys.argv[1:])
heavy = HEAVY & set(sys.modules)
raise SystemExit(f"imported: {sorted(heavy)}" if heavy else code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", list(METHODS))
def test_a_picture_needs_no_heavy_package(tmp_path, method):
    """Two pictures, so that there is a contact sheet; `--json`, so that the judge looks at them."""
    assert not METHODS[method].missing()  # each method draws with what ships
    command = [sys.executable, "-c", CODE.replace("HEAVY", repr(set(HEAVY))), "generate", "a red heart", "--method",
               method, "--num-images", "2", "--out", str(tmp_path / "out.png"), "--json"]
    for option in QUICK.get(method, []):
        command += ["-o", option]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repo_root())
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out.png").is_file()


def test_the_registry_needs_neither_torch_nor_numpy():
    code = ("import sys, t2ilib.methods; "
            "print(sorted({'torch', 'numpy', 'PIL'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repo_root(), check=True)
    assert done.stdout.strip() == "[]"
