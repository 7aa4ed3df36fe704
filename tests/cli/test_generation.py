"""The generate command from end to end, with the models that ship: what it writes, repeats and survives."""

import json
import warnings

import pytest
from PIL import Image

from t2ilib import methods
from t2ilib.cli import keeper, main, pictures
from t2ilib.cli.generate import read_prompts_file
from t2ilib.data import load_captioned
from t2ilib.data.phrases import plain_name
from t2ilib.errors import BadParameter, MissingAsset
from t2ilib.media import to_pil
from t2ilib.media.png import read_record, save_png
from t2ilib.methods import METHODS
from t2ilib.paths import repo_root

FAST = ["-o", "candidates=2", "-o", "steps=4", "-o", "num_cutouts=2", "-o", "prior_steps=2", "-o", "model=emoji-vqgan"]


def generate(*argv):
    return main(["generate", *map(str, argv)])


@pytest.mark.slow
def test_a_png_repeats_itself_byte_for_byte(tmp_path, capsys):
    out, again = tmp_path / "out.png", tmp_path / "again.png"
    assert generate("a red heart", "--seed", 3, "--num-images", 2, "--out", out, *FAST) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.png", "out_1.png", "out_2.png"]
    record = read_record(tmp_path / "out_2.png")
    assert record["index"] == 1 and len(record["codes"]) == 16 and record["call"]["seed"] == 3
    assert record["versions"]["torch"] and set(record["checkpoints"]) >= {"emoji-vqgan", "emoji-clip", "emoji-prior"}
    assert generate("--from", tmp_path / "out_2.png", "--out", again) == 0
    assert again.read_bytes() == (tmp_path / "out_2.png").read_bytes()
    assert generate("--from", out, "--out", tmp_path / "sheet.png") == 0
    assert (tmp_path / "sheet.png").read_bytes() == out.read_bytes()
    assert generate("--from", out, "--seed", 4, "-o", "steps=1", "--out", again, "--json") == 0
    answer = json.loads(capsys.readouterr().out.split("png\n")[-1])
    assert answer["seeds"] == [4, 5] and answer["config"]["steps"] == 1 and "codes" not in answer


def test_other_weights_are_told(tmp_path):
    call = {"prompt": "x", "method": "vqgan_clip", "seed": 0, "num_images": 1}
    record = {"call": call, "index": 0, "checkpoints": {"emoji-clip": "0" * 12, "gone": "1" * 12}}
    path = save_png(Image.new("RGB", (8, 8)), tmp_path / "old.png", record)
    with pytest.warns(UserWarning) as warned:
        assert pictures.repeat(path) == (call, 0)
    assert [str(w.message).split(" was made with ")[1].split(" ")[0] for w in warned] == ["emoji-clip", "gone"]
    with pytest.raises(BadParameter, match="no file can hold"):
        pictures.repeat(save_png(Image.new("RGB", (8, 8)), path, {**record, "call": None}))


def test_other_settings_are_told(tmp_path):
    config = {"steps": 4, "clip": ["a"], "init_image": "there.png", "seed": 1, "gone": 2, "width": 8}
    record = {"call": {}, "inputs": {"init_image": {}}, "config": config, "prior": {"bank_noise": 0.85}}
    path = save_png(Image.new("RGB", (8, 8)), tmp_path / "old.png", record)
    same = {"config": {**config, "init_image": "here.png", "seed": 5, "width": 16}, "prior": record["prior"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures.tell_other_settings(path, same, asked={"width"})
        for nothing in ({"call": {}}, {"call": {}, "config": ["steps"], "prior": "x"}):
            plain = save_png(Image.new("RGB", (8, 8)), tmp_path / "plain.png", nothing)
            pictures.tell_other_settings(plain, same, asked=())
    changed = {name: value for name, value in config.items() if name != "gone"} | {"steps": 5, "new": 0.5}
    with pytest.warns(UserWarning) as warned:
        pictures.tell_other_settings(path, {"config": changed, "prior": {"bank_noise": 0.7}}, asked={"width"})
    assert [str(w.message).split(" was made with ")[1].split(":")[0] for w in warned] == [
        "bank_noise 0.85, here it is 0.7", "gone 2, here it is absent", "new absent, here it is 0.5",
        "steps 4, here it is 5"]


@pytest.mark.slow
def test_prompts_from_a_file_in_one_pass(tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red heart\na blue car\n")
    argv = ["--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "out.png", *FAST]
    assert generate(*argv, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["prompts"] == ["a red heart", "a blue car"] and len(answer["judge_score"]) == 2
    one = methods.generate("a blue car", num_images=1, seed=0, candidates=2, steps=4, num_cutouts=2, prior_steps=2,
                           model="emoji-vqgan")[0]

    def difference(name):
        pixels = zip(one.tobytes(), Image.open(tmp_path / name).tobytes(), strict=True)
        return sum(abs(a - b) for a, b in pixels) / len(one.tobytes())

    assert difference("out_2.png") < 5 < 20 < difference("out_1.png")  # batches of another size round in another way
    assert generate("x", *argv) == 2 and "leave out PROMPT" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_leaves_a_picture_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    whole, out = tmp_path / "whole.png", tmp_path / "out.png"
    assert generate("a red heart", "--out", whole, *FAST) == 0
    out.write_bytes(whole.read_bytes())  # an earlier picture, which an interrupted run leaves alone
    seen, original = [], keeper.Keeper.__call__

    def interrupt(self, preview):
        seen.append(preview.step)
        original(self, preview)
        if seen == [0, 1]:
            raise KeyboardInterrupt

    monkeypatch.setattr(keeper.Keeper, "__call__", interrupt)
    assert generate("a red heart", "--out", out, *FAST) == 130
    said = capsys.readouterr().err
    partial = tmp_path / "out.partial.png"
    assert f"the picture after step 2 of 4 is in {partial}; the same command goes on" in said
    assert out.read_bytes() == whole.read_bytes() and (tmp_path / "out.png.vqgan_clip.state").exists()
    record = read_record(partial)
    assert Image.open(partial).size == (64, 64) and record["steps_done"] == 2
    assert record["call"]["prompt"] == "a red heart" and record["call"]["candidates"] == 2
    assert pictures.repeat(partial) == (record["call"], None)
    assert generate("a blue car", "--out", out, *FAST) == 1 and "prompt was 'a red heart'" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="going on"):
        assert generate("a red heart", "--out", out, *FAST) == 0
    assert seen == [0, 1, 2, 3] and out.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.png", "whole.png"]


def test_previews_and_a_film(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(keeper.Keeper, "write", lambda self: written.append(self.preview.step))
    argv = ["--save-every", 2, "--film", tmp_path / "f.gif", "--out", tmp_path / "out.png"]
    assert generate("a red heart", *argv, *FAST) == 0
    assert written == [1]  # after every second step; the last one is the result
    assert Image.open(tmp_path / "f.gif").n_frames >= 2


@pytest.mark.slow
def test_the_judge_scores_what_the_prompt_asks_for_at_the_end():
    data = load_captioned("emoji", split="all", image_size=64)
    rows = {plain_name(name): i for i, name in enumerate(data.columns["name"])}
    heart, car = to_pil(data.batch([rows["red heart"], rows["automobile"]]) * 0.5 + 0.5)
    same = pictures.judge_scores([heart, car], ["a red heart", "automobile"])
    crossed = pictures.judge_scores([car, heart], ["a red heart", "automobile"])
    assert min(same) > 0.4 > 0.2 > max(crossed)
    fast = {"candidates": 2, "steps": 1, "num_cutouts": 2, "prior_steps": 2, "model": "emoji-vqgan"}
    _, record = methods.generate_with_record("a red heart:2 | yellow:-1 ^ automobile", num_images=1, **fast)
    assert record["final_texts"] == ["automobile"]
    literal = {"candidates": 1, "steps": 1, "clip_guidance_scale": 0}
    _, record = methods.generate_with_record("a castle, 16:9", method="minimagen", num_images=1, **literal)
    assert record["final_texts"] == ["a castle, 16:9"]  # weights are VQGAN+CLIP's alone: elsewhere a text is a text


def test_a_file_of_prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("# mine\n a red heart \n\na car:0.5 | blue\n", encoding="utf-8")
    assert read_prompts_file(path) == ["a red heart", "a car:0.5 | blue"]
    path.write_text("# nothing\n")
    with pytest.raises(BadParameter, match="holds no prompt"):
        read_prompts_file(path)
    with pytest.raises(MissingAsset, match="one prompt a line"):
        read_prompts_file(tmp_path / "no.txt")


def test_the_reference_of_options_is_made_from_the_code(capsys):
    assert generate("--options") == 0
    page = capsys.readouterr().out
    path = repo_root() / "t2ilib" / "guidance" / "README.md"
    assert path.read_text(encoding="utf-8") == page, f"run: python -m t2ilib generate --options > {path}"
    assert all(f"| `{option.name}` |" in page for option in METHODS["vqgan_clip"].options)
    assert generate("--options", "--method", "minimagen") == 0
    page = capsys.readouterr().out
    for option in METHODS["minimagen"].options:
        default = "" if option.default is None else f"`{option.default!r}`"
        assert f"| `{option.name}` | {default} |" in page
    assert generate("--options", "--method", "minimage") == 2
    assert "did you mean minimagen" in capsys.readouterr().err
