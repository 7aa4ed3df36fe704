"""A method added from one file is found in every place that lists methods, options or abilities."""

import importlib
import json
import re
import sys
from types import ModuleType

import pytest
from PIL import Image

from t2ilib.cli import main
from t2ilib.errors import BadParameter, UnknownName
from t2ilib.methods import METHODS, generate, generate_with_record
from t2ilib.paths import repo_root
from t2ilib.playground import Playground
from t2ilib.record import Run

TOY = '''
from types import SimpleNamespace

import torch
from PIL import Image

from t2ilib.methods import Estimate, Method, Option


def run(prompt, *, num_images, seed, callback=None, side=8, blue=0.0, **options):
    prompts = [prompt] if isinstance(prompt, str) else prompt
    texts = [text for text in prompts for _ in range(num_images)]
    for step in range(3):
        images = torch.full((len(texts), 3, side, side), step / 2)
        if callback and callback(SimpleNamespace(step=step, steps=3, images=images, finish=lambda: images)):
            break
    pictures = [Image.new("RGB", (side, side), (255, seed % 256, round(255 * blue))) for _ in texts]
    return pictures, {"prompts": texts, "final_texts": texts, "steps_done": step + 1, "options": options}


def estimate(pictures, options):
    return Estimate(options.get("side", 8) * pictures, 0.1)


METHOD = Method("toy", "A toy", run, previews=True, estimate=estimate,
                options=(Option("side", 8, "of the picture, in pixels", "size", low=1, high=10**7, slider=(4, 64)),
                         Option("blue", 0.0, "how blue it is", "colour", low=0, high=1, slider=(0.0, 1.0)),
                         Option("mood", "calm", "calm or wild", "colour", choices=("calm", "wild"))),
                aliases={"size": "side"}, notes=lambda: "A note on toys.")
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy_method.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    METHODS.add("toy", "toy_method")
    yield METHODS
    METHODS.remove("toy")
    sys.modules.pop("toy_method", None)


def test_it_is_imported_when_it_is_first_used(toy):
    assert list(toy)[-1] == "toy" and "toy_method" not in sys.modules
    assert toy["toy"].title == "A toy" and "toy_method" in sys.modules
    with pytest.raises(BadParameter, match="already"):
        toy.add("toy", "toy_method")


def test_generate_checks_its_options_in_one_place(toy):
    images, record = generate_with_record(["a", "b"], method="toy", num_images=2, seed=5, side=16, blue=1)
    assert [image.size for image in images] == [(16, 16)] * 4 and images[0].getpixel((0, 0)) == (255, 5, 255)
    options = {"num_images": 2, "seed": 5, "side": 16, "blue": 1.0}
    assert record["call"] == {"prompt": ["a", "b"], "method": "toy", **options}
    assert generate("a", method="toy", num_images=1)[0].size == (8, 8)
    for wrong, message in (({"sid": 8}, "did you mean side"), ({"size": 8}, "here it is called 'side'"),
                           ({"side": 2.5}, "whole number"), ({"side": "8"}, "whole number"),
                           ({"side": 0}, "at least 1"), ({"side": None}, "side"),
                           ({"blue": float("nan")}, "a number"), ({"blue": float("inf")}, "a number"),
                           ({"blue": 1.5}, "at most 1"), ({"mood": "wil"}, "did you mean wild"),
                           ({"side": True}, "whole number"), ({"side": [8]}, "whole number")):
        with pytest.raises(BadParameter, match=message):
            generate("a", method="toy", **wrong)
    with pytest.raises(UnknownName, match="did you mean toy"):
        generate("a", method="to")
    with pytest.raises(BadParameter, match="cannot go on from a state"):
        generate("a", method="toy", state="x.state")


def test_what_cannot_be_meant_is_refused_with_its_number(toy):
    with pytest.raises(BadParameter, match=r"toy would take about 116 days: side=10,000,000 is 1,250,000 times"):
        generate("a", method="toy", num_images=1, side=10**7)
    with pytest.raises(BadParameter, match=r"num_images \(of all prompts\)=8,000 is 2,000 times"):
        generate("a", method="toy", num_images=8000, side=1000)


def test_the_command_line_knows_it(toy, tmp_path, capsys):
    out = tmp_path / "out.png"
    options = ["-o", "side=32", "-o", "blue=0.5"]
    assert main(["generate", "a", "--method", "toy", *options, "--out", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["method"] == "toy" and len(answer["judge_score"]) == 1 and Image.open(out).size == (32, 32)
    assert main(["generate", "--from", str(out), "--out", str(tmp_path / "again.png")]) == 0
    assert (tmp_path / "again.png").read_bytes() == out.read_bytes()
    (tmp_path / "prompts.txt").write_text("a\nb\n")
    assert main(["generate", "--prompts", str(tmp_path / "prompts.txt"), "--method", "toy", "--out", str(out)]) == 0
    assert (tmp_path / "out_2.png").exists()
    assert main(["generate", "a", "--method", "toy", "-o", "moood=calm", "--out", str(out)]) == 2
    assert "did you mean mood" in capsys.readouterr().err
    film = tmp_path / "f.gif"
    assert main(["generate", "a", "--method", "toy", "--film", str(film), "--out", str(out)]) == 0 and film.exists()


def test_all_methods_draw_with_it(toy, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(METHODS, "_modules", {"toy": "toy_method"})
        assert main(["generate", "a", "--method", "all", "--out", str(tmp_path / "out.png")]) == 0
    assert (tmp_path / "out_toy_1.png").exists()


def test_the_page_of_options_is_made_from_it(toy, capsys):
    assert main(["generate", "--options", "--method", "toy"]) == 0
    page = capsys.readouterr().out
    assert "# Options of A toy" in page and "## Colour" in page and "A note on toys." in page
    assert "| `side` | `8` | of the picture, in pixels |" in page and "| `mood` | `'calm'` | calm or wild |" in page


def test_the_playground_shows_its_sliders_and_reads_its_options(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("T2I_RUN_DIR", str(tmp_path))

    def draw(prompt, **arguments):
        return generate_with_record(prompt, **arguments)

    panel = Playground(draw, METHODS, method="toy", run=Run("00_playground", given={}), num_images=1)
    listed = {value for _, value in panel.controls.method.options}
    assert listed >= {"toy", "vqgan_clip", "minimagen"}
    sliders = panel.controls.sliders
    side = sliders["side"]
    assert set(sliders) == {"side", "blue"} and (side.min, side.max) == (4, 64)
    sliders["side"].value = 12
    panel.controls.others.value = "mood=wild"
    panel.start()
    panel.wait(20)
    assert panel.error is None and panel.history[0].call["mood"] == "wild"
    assert panel.history[0].pictures[0].size == (12, 12) and panel.bar.value == panel.bar.max == 3


def test_the_example_of_the_contributing_page_draws():
    page = (repo_root() / "CONTRIBUTING.md").read_text()
    code = re.search(r"```python\n(.*?METHOD = .*?)```", page, re.DOTALL)[1]
    module = ModuleType("t2ilib.methods.plain")
    exec(code, vars(module))
    METHODS.add("plain", module.METHOD)
    try:
        first = generate("a red heart", method="plain", num_images=3, side=8)
        second = generate(["a red heart"], method="plain", num_images=1, seed=1)
    finally:
        METHODS.remove("plain")
    assert [picture.size for picture in first] == [(8, 8)] * 3
    assert first[1].getpixel((0, 0)) == second[0].getpixel((0, 0)) != first[0].getpixel((0, 0))
