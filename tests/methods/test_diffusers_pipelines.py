"""Pipelines of diffusers as a method. What needs the package is skipped where it is not installed."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from t2ilib.cli import main
from t2ilib.errors import BadParameter, MissingAsset, UnknownName
from t2ilib.leaderboard import Entry, draw_entry
from t2ilib.methods import METHODS, generate, generate_with_record
from t2ilib.methods.networks import CACHE
from t2ilib.methods.pipeline_folders import check_index, count_parameters, weight_files
from t2ilib.sweep import Grid, LocalEngine, Sweep, plan_jobs

needs_diffusers = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None,
                                     reason='diffusers is not installed: pip install "diffusers>=0.30"')
KINDS = {"unet": ("save_unet_pipeline", "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"),
         "transformer": ("save_transformer_pipeline", "StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")}
QUICK = {"steps": 2, "guidance_scale": 3.0, "precision": "float32"}


def tiny_pipelines():
    """Return the module beside this file, which needs diffusers."""
    spec = importlib.util.spec_from_file_location("tiny_pipelines", Path(__file__).with_name("tiny_pipelines.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    if importlib.util.find_spec("diffusers") is None:
        pytest.skip('diffusers is not installed: pip install "diffusers>=0.30"')
    home = tmp_path_factory.mktemp("pipelines")
    module = tiny_pipelines()
    return {kind: getattr(module, names[0])(home / kind) for kind, names in KINDS.items()}


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


def pixels(image):
    return np.asarray(image).astype(int)


# ---- resolution and messages, with the package and without


def test_a_name_with_a_place_is_a_method_and_others_are_not():
    assert "diffusers:models/sd" in METHODS and "diffusers" not in METHODS and "diffusers:" not in METHODS
    method = METHODS.find("diffusers:models/sd")
    assert method.name == "diffusers:models/sd" and method.title == "sd (diffusers)" and method.estimate is not None
    assert METHODS.find("diffusers:models/sd") is method
    assert not [name for name in METHODS if name.startswith("diffusers")]  # it is not drawn by `--method all`
    with pytest.raises(UnknownName, match="did you mean diffusers:PATH"):
        METHODS.find("diffusers:")
    with pytest.raises(UnknownName, match="unknown method 'difusers:x'.*diffusers:PATH"):
        METHODS.find("difusers:x")


def test_options_are_called_as_those_of_other_methods():
    method = METHODS.find("diffusers:x")
    shared = {"steps", "guidance_scale", "negative", "init_image", "strength", "device", "precision", "chunk"}
    assert shared <= {option.name for option in METHODS["minimagen"].options}
    assert {"width", "height"} <= {option.name for option in METHODS["vqgan_clip"].options}
    assert {option.name for option in method.options} == shared | {"width", "height"}
    for alias, name in (("negative_prompt", "negative"), ("num_inference_steps", "steps"), ("cfg", "guidance_scale")):
        with pytest.raises(UnknownName, match=f"here it is called '{name}'"):
            method.option(alias)
    with pytest.raises(BadParameter, match="strength must be a number above 0"):
        generate("a", method="diffusers:x", strength=0)


def test_the_absent_package_is_named_with_its_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(MissingAsset, match='pip install "diffusers>=0.30"'):
        generate("a", method=f"diffusers:{tmp_path}")
    assert 'pip install "diffusers' in METHODS.find(f"diffusers:{tmp_path}").missing()
    assert main(["generate", "a", "--method", f"diffusers:{tmp_path}", "--out", str(tmp_path / "o.png")]) == 1
    assert 'pip install "diffusers' in capsys.readouterr().err


def test_the_page_of_options_needs_neither_package_nor_folder(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert main(["generate", "--options", "--method", "diffusers:none"]) == 0
    assert "| `negative` |" in capsys.readouterr().out


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(BadParameter, match="holds no model_index.json.*from_single_file"):
        generate("a", method=f"diffusers:{tmp_path}")
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(2)}, file)
    with pytest.raises(BadParameter, match="holds no model_index.json"):
        generate("a", method=f"diffusers:{file}")


@pytest.mark.parametrize(("changes", "message"), [
    ({"_class_name": ["pipeline_own", "Mine"]}, "_class_name is"), ({"_class_name": "os.system"}, "_class_name is"),
    ({"unet": ["os", "system"]}, "part 'unet' is"), ({"unet": ["my_code", "Net"]}, "part 'unet' is"),
    ({"unet": ["diffusers.models", "Net"]}, "part 'unet' is"), ({"../x": ["diffusers", "Net"]}, "part '../x' is"),
    ({"unet": [None, "Net"]}, "part 'unet' is"), ({"unet": ["diffusers"]}, "part 'unet' is")])
def test_a_folder_that_names_code_from_elsewhere_is_refused(tmp_path, monkeypatch, changes, message):
    from t2ilib.methods import pipeline_folders

    monkeypatch.setattr(pipeline_folders, "_is_pipeline", lambda library: library == "stable_diffusion")
    good = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "image_encoder": [None, None],
            "requires_safety_checker": True}
    path = tmp_path / "model_index.json"
    path.write_text(json.dumps(good))
    assert set(check_index(tmp_path)) == {"unet", "safety_checker", "image_encoder"}
    path.write_text(json.dumps({**good, **changes}))
    with pytest.raises(BadParameter, match=message):
        check_index(tmp_path)


def test_the_files_that_are_loaded(tmp_path):
    parts = {"unet": ["diffusers", "Net"], "vae": ["diffusers", "Net"], "scheduler": ["diffusers", "S"]}
    for part in parts:
        (tmp_path / part).mkdir()
    for name in ("unet/w.safetensors", "unet/w.fp16.safetensors", "vae/w-00001-of-00002.safetensors",
                 "vae/w-00002-of-00002.safetensors", "vae/w.fp16.safetensors"):
        save_file({"a": torch.zeros(3, 2), "b": torch.zeros(())}, tmp_path / name)
    whole, variant = weight_files(tmp_path, parts, torch.float32)
    assert variant is None and {part: len(files) for part, files in whole.items()} == {"unet": 1, "vae": 2}
    half, variant = weight_files(tmp_path, parts, torch.float16)
    assert variant == "fp16" and {part: len(files) for part, files in half.items()} == {"unet": 1, "vae": 1}
    assert count_parameters(half["unet"][0]) == 7
    for file in (*whole["unet"], *whole["vae"]):
        file.unlink()
    assert weight_files(tmp_path, parts, torch.float32)[1] == "fp16"  # all that there is
    (tmp_path / "scheduler" / "weights.bin").touch()
    with pytest.raises(MissingAsset, match="weights.bin and no safetensors; a pickle is not opened"):
        weight_files(tmp_path, parts, torch.float32)


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x02\0\0\0\0\0\0\0[]", b"\x05\0\0\0\0\0\0\0{\"a\":"])
def test_a_broken_file_of_weights_is_said(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(BadParameter, match="no safetensors file"):
        count_parameters(tmp_path / "w.safetensors")


# ---- drawing


@needs_diffusers
def test_a_name_that_is_nowhere_says_where_was_looked():
    with pytest.raises(MissingAsset, match="nor in the Hugging Face cache or on its hub"):
        generate("a", method="diffusers:nobody/nothing-of-the-kind")
    with pytest.raises(MissingAsset, match="there is no such folder"):
        generate("a", method="diffusers:./no/folder")


def test_it_draws(folders, kind):
    method = f"diffusers:{folders[kind]}"
    images, record = generate_with_record(["a red heart", "a blue star"], method=method, num_images=2, seed=3, **QUICK)
    assert [image.size for image in images] == [(32, 32)] * 4 and record["pipeline"] == KINDS[kind][1]
    assert record["seeds"] == [3, 4, 3, 4] and record["config"]["steps"] == 2 and record["dtype"] == "float32"
    assert list(record["inputs"]["method"]) == [kind] and record["call"]["method"] == method
    assert len({image.tobytes() for image in images}) == 4
    again, _ = generate_with_record(**record["call"])
    assert [image.tobytes() for image in again] == [image.tobytes() for image in images]


def test_a_picture_does_not_depend_on_its_neighbours(folders, kind):
    method = f"diffusers:{folders[kind]}"
    together = generate(["a", "b"], method=method, num_images=2, seed=0, chunk=3, **QUICK)
    alone, = generate("b", method=method, num_images=1, seed=1, **QUICK)
    assert np.abs(pixels(alone) - pixels(together[3])).max() <= 1  # another batch rounds otherwise


def test_it_is_what_the_pipeline_draws(folders, kind):
    from diffusers import DiffusionPipeline

    from t2ilib import runtime

    left_out = {"text_encoder_3": None, "tokenizer_3": None} if kind == "transformer" else {}
    pipeline = DiffusionPipeline.from_pretrained(folders[kind], **left_out)
    expected = pipeline(prompt="a red heart", negative_prompt="b", num_inference_steps=3, guidance_scale=4.0,
                        generator=runtime.generator(5, "diffusers")).images[0]
    drawn, = generate("a red heart", method=f"diffusers:{folders[kind]}", num_images=1, seed=5, steps=3,
                      guidance_scale=4, negative="b", precision="float32")
    assert np.array_equal(pixels(drawn), pixels(expected))


@pytest.mark.parametrize("change", [{"steps": 5}, {"guidance_scale": 9.0}, {"negative": "zz"}])
def test_every_option_reaches_the_pipeline(folders, kind, change):
    method = f"diffusers:{folders[kind]}"
    before, = generate("a", method=method, num_images=1, **QUICK)
    after, = generate("a", method=method, num_images=1, **{**QUICK, **change})
    assert not np.array_equal(pixels(before), pixels(after))


def test_sizes(folders, kind):
    method = f"diffusers:{folders[kind]}"
    image, = generate("a", method=method, num_images=1, width=48, height=16, **QUICK)
    assert image.size == (48, 16)
    with pytest.raises(BadParameter, match="width must be a multiple of 8.*got 33"):
        generate("a", method=method, num_images=1, width=33, **QUICK)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision(folders, kind, precision):
    method = f"diffusers:{folders[kind]}"
    images, record = generate_with_record("a", method=method, num_images=1, **{**QUICK, "precision": precision})
    assert record["dtype"] == precision
    whole, = generate("a", method=method, num_images=1, **QUICK)
    assert np.abs(pixels(images[0]) - pixels(whole)).mean() < 12


def test_half_weights_are_taken_for_half_precision(folders, tmp_path):
    folder = tiny_pipelines().save_unet_pipeline(tmp_path / "half", variant="fp16")
    images = generate("a", method=f"diffusers:{folder}", num_images=1, **QUICK)
    whole = generate("a", method=f"diffusers:{folders['unet']}", num_images=1, **QUICK)
    assert np.array_equal(pixels(images[0]), pixels(whole[0]))


def test_a_picture_is_drawn_anew(folders, kind, tmp_path):
    method = f"diffusers:{folders[kind]}"
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    arguments = {**QUICK, "steps": 10, "init_image": str(tmp_path / "red.png"), "num_images": 1}
    images, record = generate_with_record("a", method=method, strength=0.5, **arguments)
    assert images[0].size == (32, 32) and record["pipeline"] == KINDS[kind][2]
    assert list(record["inputs"]["init_image"]) == ["red.png"] and 4 <= record["steps_done"] <= 6
    other, = generate("a", method=method, strength=1.0, **arguments)
    assert not np.array_equal(pixels(other), pixels(images[0]))
    wide, = generate("a", method=method, strength=0.5, width=48, height=32, **arguments)
    assert wide.size == (48, 32)


def test_an_option_that_a_pipeline_does_not_take_is_refused(folders, monkeypatch):
    from t2ilib.methods import diffusers_pipelines

    def without_negative(pipeline):
        known = dict(arguments_of(pipeline))
        del known["negative_prompt"]
        return known

    arguments_of = diffusers_pipelines.arguments_of
    monkeypatch.setattr(diffusers_pipelines, "arguments_of", without_negative)
    method = f"diffusers:{folders['unet']}"
    with pytest.raises(BadParameter, match="negative is nothing that StableDiffusionPipeline"):
        generate("a", method=method, num_images=1, negative="b", **QUICK)
    assert generate("a", method=method, num_images=1, **QUICK)


def test_a_pipeline_without_a_prompt_is_refused(tmp_path):
    pytest.importorskip("diffusers")
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
                       down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    with pytest.raises(BadParameter, match="DDPMPipeline, which takes no prompt"):
        generate("a", method=f"diffusers:{tmp_path / 'ddpm'}", num_images=1)


def test_memory_is_estimated_from_the_files(folders, kind):
    method = METHODS.find(f"diffusers:{folders[kind]}")
    generate("a", method=method.name, num_images=1, **QUICK)
    pipeline = next(loaded for key, loaded in CACHE._loaded.items() if key[0] == "diffusers" and kind in key[1])
    values = 0
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            values += sum(tensor.numel() for tensor in part.state_dict().values())
    tiny = {"width": 8, "height": 8, "steps": 2}
    whole = method.estimate(1, {**tiny, "precision": "float32"})
    half = method.estimate(1, {**tiny, "precision": "float16"})
    activations = 8 * 8 * 512
    assert (whole.gib - 0.8) * 2**30 == pytest.approx(4 * (values + activations), rel=0.02)
    assert half.gib - 0.8 == pytest.approx((whole.gib - 0.8) / 2)
    assert method.estimate(4, tiny).seconds == pytest.approx(4 * method.estimate(1, tiny).seconds)
    with pytest.raises(BadParameter, match="would take about"):
        generate("a", method=method.name, num_images=10_000, steps=10_000, width=8192, height=8192)


def test_it_joins_the_leaderboard(folders, tmp_path):
    entry = Entry("tiny", f"diffusers:{folders['unet']}", QUICK)
    assert entry.missing() == ""
    for _ in range(2):  # the second time from what was kept
        drawn = draw_entry(entry, ["a", "b"], seeds=[0], home=tmp_path)
        assert drawn.pictures["a"].shape == (1, 3, 32, 32) and len(list(tmp_path.glob("diffusers_*/*.png"))) == 2
    assert len(list(tmp_path.iterdir())) == 1 and list(drawn.card["inputs"]["method"]) == ["unet"]


@pytest.mark.slow
def test_it_joins_a_sweep(folders, tmp_path):
    grid = Grid(method=f"diffusers:{folders['unet']}", prompts=("a red heart",), parameters={"precision": "float32"},
                sweep={"steps": [1, 2]}, metric="judge_similarity")
    sweep = Sweep(grid, plan_jobs(grid, tmp_path), tmp_path)
    sweep.run(LocalEngine())
    assert sweep.succeeded, [row.error for row in sweep.rows]
    assert (tmp_path / "index.html").is_file() and len(list(tmp_path.glob("runs/*/*/pictures/1.png"))) == 2


def test_the_command_line_draws_with_it_and_repeats_it(folders, tmp_path, capsys):
    out = tmp_path / "out.png"
    command = ["generate", "a red heart", "--method", f"diffusers:{folders['unet']}", "-o", "steps=2", "--out"]
    assert main([*command, str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["pipeline"] == "StableDiffusionPipeline" and Image.open(out).size == (32, 32)
    text = Image.open(out).text["t2ilib"]
    assert str(folders["unet"]) not in text and '"diffusers:unet"' in text  # it carries no folder of this machine
    again = ["generate", "--from", str(out), "--method", f"diffusers:{folders['unet']}", "--out"]
    assert main([*again, str(tmp_path / "again.png")]) == 0
    assert np.array_equal(pixels(Image.open(out)), pixels(Image.open(tmp_path / "again.png")))
