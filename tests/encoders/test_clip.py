"""open_clip models from tags and files, with random weights in the exact formats: activation, preprocessing, errors."""

import copy
import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from t2ilib.encoders import load_clip
from t2ilib.encoders.open_clip_checkpoints import infer_config, read_state
from t2ilib.encoders.torchscript_tensors import is_torchscript
from t2ilib.encoders.windows import text_windows
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset, UnknownName

CONFIG = {"embed_dim": 16,
          "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
          "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}}
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def tiny():
    import open_clip

    torch.manual_seed(0)
    model = open_clip.CLIP(**copy.deepcopy(CONFIG), quick_gelu=True).eval()
    with torch.no_grad():
        for p in model.visual.parameters():
            p.mul_(3)  # far from zero, where the two activations differ
    return model


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def named(tmp_path):
    import open_clip

    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny-vit.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path / "configs")
    return "tiny-vit"


def openai_image_tower(state, x, *, heads=1, quick=True):
    """CLIP's vision transformer, written out from the paper on nothing but a state dict."""
    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    x = F.conv2d((x - MEAN) / STD, state["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + state["visual.positional_embedding"]
    x = norm(x, "visual.ln_pre")
    for i in range(2):
        at = f"visual.transformer.resblocks.{i}"
        q, k, v = F.linear(norm(x, f"{at}.ln_1"), state[f"{at}.attn.in_proj_weight"],
                           state[f"{at}.attn.in_proj_bias"]).chunk(3, -1)
        mixed = (q @ k.transpose(1, 2) / 64 ** 0.5).softmax(-1) @ v
        x = x + F.linear(mixed, state[f"{at}.attn.out_proj.weight"], state[f"{at}.attn.out_proj.bias"])
        h = F.linear(norm(x, f"{at}.ln_2"), state[f"{at}.mlp.c_fc.weight"], state[f"{at}.mlp.c_fc.bias"])
        h = h * torch.sigmoid(1.702 * h) if quick else F.gelu(h)
        x = x + F.linear(h, state[f"{at}.mlp.c_proj.weight"], state[f"{at}.mlp.c_proj.bias"])
    return F.normalize(norm(x[:, 0], "visual.ln_post") @ state["visual.proj"], dim=-1)


def torchscript_archive(model, path):
    holder = torch.jit.script(model)
    torch.jit.save(holder, str(path))
    return path


def test_safetensors_file_without_config_follows_openai_maths(tiny, pictures, tmp_path):
    save_file(tiny.state_dict(), tmp_path / "clip-openai.safetensors")
    clip = load_clip(str(tmp_path / "clip-openai.safetensors"))
    torch.testing.assert_close(clip.encode_image(pictures), openai_image_tower(tiny.state_dict(), pictures))
    assert (clip.image_size, clip.dim) == (32, 16) and len(clip.sha256) == 64
    plain = load_clip(str(tmp_path / "clip-openai.safetensors"), quick_gelu=False)
    expected = openai_image_tower(tiny.state_dict(), pictures, quick=False)
    torch.testing.assert_close(plain.encode_image(pictures), expected)
    assert (expected - clip.encode_image(pictures)).abs().max() > 1e-4  # the trap is real


def test_torchscript_archive_is_read_as_openai(tiny, pictures, tmp_path, named):
    path = torchscript_archive(tiny, tmp_path / "weights.pt")
    assert is_torchscript(path) and read_state(path).keys() == tiny.state_dict().keys()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in (str(path), f"{named}:{path}"):
            torch.testing.assert_close(load_clip(name).encode_image(pictures),
                                       openai_image_tower(tiny.state_dict(), pictures))


def test_shapes_tell_the_architecture(tiny):
    import open_clip

    assert infer_config(tiny.state_dict(), source="x") == CONFIG
    resnet = copy.deepcopy(CONFIG)
    resnet["vision_cfg"] = {"layers": [1, 2, 1, 1], "width": 64, "image_size": 64}
    assert infer_config(open_clip.CLIP(**copy.deepcopy(resnet)).state_dict(), source="x") == resnet
    with pytest.raises(CheckpointMismatch, match="name the architecture"):
        infer_config({"a.weight": torch.zeros(1)}, source="x")


def test_unknown_origin_warns_and_argument_decides(tiny, pictures, tmp_path, named):
    path = tmp_path / "clip.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in tiny.state_dict().items()}}, path)
    with pytest.warns(UserWarning, match="quick_gelu=True"):
        plain = load_clip(f"{named}:{path}")
    expected = openai_image_tower(tiny.state_dict(), pictures, quick=False)
    torch.testing.assert_close(plain.encode_image(pictures), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*every name begins with 'module.'")
        quick = load_clip(f"{named}:{path}", quick_gelu=True)
    torch.testing.assert_close(quick.encode_image(pictures), openai_image_tower(tiny.state_dict(), pictures))


def test_config_beside_the_file(tiny, pictures, tmp_path):
    save_file(tiny.state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({
        "model_cfg": CONFIG | {"quick_gelu": True},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "squash"}}))
    for name in (tmp_path, tmp_path / "open_clip_model.safetensors"):
        clip = load_clip(str(name))
        expected = openai_image_tower(tiny.state_dict(), (pictures - 0.5) / 0.5 * STD + MEAN)
        torch.testing.assert_close(clip.encode_image(pictures), expected, atol=1e-5, rtol=1e-4)
        assert clip.resize_mode == "squash"


def test_tag_brings_its_activation_and_mean(tiny, pictures, tmp_path, named, monkeypatch):
    import open_clip
    from open_clip import pretrained

    save_file(tiny.state_dict(), tmp_path / "weights.safetensors")
    mean, std = tuple(MEAN.flatten().tolist()), tuple(STD.flatten().tolist())
    tags = {"openai": {"quick_gelu": True, "mean": mean, "std": std},
            "laion": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "bilinear"}}
    monkeypatch.setitem(pretrained._PRETRAINED, named, tags)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda cfg, **kw: str(tmp_path / "weights.safetensors"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        openai, laion = load_clip(f"{named}/openai"), load_clip(f"{named}/laion")
    torch.testing.assert_close(openai.encode_image(pictures), openai_image_tower(tiny.state_dict(), pictures))
    torch.testing.assert_close(laion.encode_image(pictures), openai_image_tower(
        tiny.state_dict(), pictures * STD + MEAN, quick=False), atol=1e-5, rtol=1e-4)
    assert load_clip(named).name == named  # as OpenAI names its models, without a tag
    with pytest.raises(BadParameter, match="was trained with quick_gelu=True"):
        load_clip(f"{named}/openai", quick_gelu=False)
    with pytest.raises(UnknownName, match="laion"):
        load_clip(f"{named}/laoin")


def test_real_tag_names_carry_quick_gelu():
    """The registry this relies on: OpenAI's weights say so under the plain model name too."""
    import open_clip

    assert open_clip.get_pretrained_cfg("ViT-B-32", "openai")["quick_gelu"] is True
    assert not open_clip.get_pretrained_cfg("ViT-B-32", "laion2b_s34b_b79k").get("quick_gelu", False)


def test_text_tower_and_truncation(tiny, tmp_path):
    import open_clip

    save_file(tiny.state_dict(), tmp_path / "openai.safetensors")
    clip = load_clip(str(tmp_path / "openai.safetensors"))
    texts = ["a red heart", "a fish"]
    with torch.no_grad():
        expected = tiny.encode_text(open_clip.SimpleTokenizer()(texts), normalize=True)
    torch.testing.assert_close(clip.encode_text(texts), expected)
    with pytest.warns(UserWarning, match="at most 77 tokens: the end of 1 of 2 texts"):
        clip.encode_text(["a fish", "fish " * 76])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip.encode_text(["fish " * 75])
    with pytest.raises(BadParameter, match="list of strings"):
        clip.encode_text("a fish")
    assert clip.model.logit_scale.exp() == clip.logit_scale


@pytest.fixture
def reader(tiny, tmp_path):
    save_file(tiny.state_dict(), tmp_path / "openai.safetensors")
    return load_clip(str(tmp_path / "openai.safetensors"))


def test_tokens_are_counted_as_the_model_reads_them(reader):
    assert reader.context_length == 77
    assert [reader.count_tokens(t) for t in ("", "a fish", "fish " * 76)] == [2, 4, 78]
    for text in ("A café &amp; a naïve fox!", "x" * 60, "a fish " * 30):
        assert min(reader.count_tokens(text), 77) == (reader.tokenizer([text])[0] != 0).sum()
    with pytest.raises(BadParameter, match="list of strings"):
        reader.count_tokens(3)


def test_the_warning_says_which_text_how_long_and_what_to_do(reader):
    long = "a story of a fish that " * 20
    with pytest.warns(UserWarning) as caught:
        reader.encode_text([long, "a fish", long + "swims"], batch_size=1)
    assert len(caught) == 1 and caught[0].filename == __file__
    for words in ("a story of a fish that", "at most 77 tokens", "2 of 3 texts", "with 122 tokens", "long='windows'"):
        assert words in str(caught[0].message)


def test_windows_read_the_whole_text_and_leave_short_ones_alone(reader):
    long = " ".join(f"number {i} of a long story" for i in range(40))
    other_end = long + " with a red dragon"
    texts = ["a fish", long, "a red heart", other_end]
    with pytest.warns(UserWarning, match="2 of 4"):
        cut = reader.encode_text(texts)
    assert torch.equal(cut[1], cut[3])  # the end is not read
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = reader.encode_text(texts, long="windows")
        assert torch.equal(reader.encode_text(texts[::2], long="windows"), reader.encode_text(texts[::2]))
    assert torch.equal(whole[[0, 2]], cut[[0, 2]])
    assert (whole[1] - whole[3]).abs().max() > 1e-4 and (whole[1] - cut[1]).abs().max() > 1e-4
    parts = text_windows(long, 77, reader.count_tokens)
    assert len(parts) > 3
    mean = F.normalize(torch.stack([reader.encode_text([p])[0] for p in parts]).mean(0), dim=0)
    torch.testing.assert_close(whole[1], mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(4))


def test_a_giant_word_in_both_ways(reader):
    giant = "".join("bcdfg"[i * i % 5] + "aeiou"[i % 5] for i in range(200))
    with pytest.warns(UserWarning, match="1 of 1 texts"):
        cut = reader.encode_text([giant])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = reader.encode_text([giant], long="windows")
    assert (whole - cut).abs().max() > 1e-4 and whole.isfinite().all()
    with pytest.raises(UnknownName, match="did you mean windows"):
        reader.encode_text(["a fish"], long="window")


def test_other_tokenizers_count_their_own_special_tokens(reader):
    """The two kinds of open_clip's tokenizer around a Hugging Face one, on MiniLM's word pieces."""
    from open_clip.tokenizer import HFTokenizer

    from t2ilib.encoders.minilm import minilm_folder

    text = "two  red   hearts"
    reader.tokenizer = HFTokenizer(str(minilm_folder(check=False)), context_length=12)
    assert reader.context_length == 12
    assert reader.count_tokens(text) == (reader.tokenizer([text]) != 0).sum() == 5
    reader.tokenizer = HFTokenizer(str(minilm_folder(check=False)), context_length=12, tokenizer_mode="clips")
    reader.tokenizer.tokenizer.add_special_tokens({"bos_token": "[unused0]", "eos_token": "[unused1]"})
    full = " ".join(["heart"] * 9)
    assert reader.count_tokens(full) == 12 and (reader.tokenizer([full]) != 0).all()
    assert reader.tokenizer([full + " fish"]).tolist() == reader.tokenizer([full]).tolist()  # the tenth word is cut


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (32, 32), (20, 16)])
def test_preprocessing_equals_open_clips_own(tiny, tmp_path, size):
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    save_file(tiny.state_dict(), tmp_path / "openai.safetensors")
    clip = load_clip(str(tmp_path / "openai.safetensors"))
    smooth = F.interpolate(torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(2)), size, mode="bilinear")
    array = (smooth[0].permute(1, 2, 0) * 255).round().byte().numpy()
    x = torch.from_numpy(np.array(array)).permute(2, 0, 1)[None] / 255
    for mode in ("shortest", "longest", "squash"):
        clip.resize_mode = mode
        theirs = image_transform_v2(PreprocessCfg(size=32, resize_mode=mode), is_train=False)(Image.fromarray(array))
        ours = clip.normalise(clip.resize(x))[0]
        assert (ours - theirs).abs().max() < 0.05 and (ours - theirs).abs().mean() < 0.01


def test_gradient_reaches_pictures_of_any_size(tiny, tmp_path):
    save_file(tiny.state_dict(), tmp_path / "openai.safetensors")
    clip = load_clip(str(tmp_path / "openai.safetensors"))
    x = torch.rand(2, 3, 50, 50, requires_grad=True)
    vectors = clip.encode_image(x)
    vectors[:, 0].sum().backward()
    assert x.grad.abs().min(dim=0).values.max() > 0
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    with pytest.raises(BadParameter, match=r"\(B, 3, H, W\)"):
        clip.encode_image(torch.rand(3, 32, 32))
    with pytest.raises(BadParameter, match="uint8"):
        clip.encode_image(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_similarity_is_the_cosine_of_each_pair(tiny_clip):
    clip, pictures = tiny_clip(16), torch.rand(5, 3, 16, 16)
    texts = ["a", "b", "c", "d", "e"]
    expected = (clip.encode_image(pictures) * clip.encode_text(texts)).sum(1)
    torch.testing.assert_close(clip.similarity(pictures, texts, batch_size=2), expected)
    with pytest.raises(BadParameter, match="5 pictures and 4 texts"):
        clip.similarity(pictures, texts[:4])


def test_half_precision_weights(tiny, pictures, tmp_path):
    save_file(tiny.state_dict(), tmp_path / "openai.safetensors")
    clip = load_clip(str(tmp_path / "openai.safetensors"), precision="bf16")
    assert clip.model.visual.conv1.weight.dtype == torch.bfloat16
    vectors = clip.encode_image(pictures)
    assert vectors.dtype == torch.float32
    cosine = (vectors * openai_image_tower(tiny.state_dict(), pictures)).sum(1)
    assert cosine.min() > 0.99
    assert clip.encode_text(["a fish"]).dtype == torch.float32


def test_bad_files_and_names(tiny, tmp_path, named):
    with pytest.raises(MissingAsset, match="not found"):
        load_clip(str(tmp_path / "absent.pt"))
    with pytest.raises(MissingAsset, match="not found"):
        load_clip("weights/absent.safetensors")
    with pytest.raises(MissingAsset, match="open_clip_config.json"):
        load_clip(str(tmp_path))
    with pytest.raises(UnknownName, match="ViT-B-32"):
        load_clip("ViT-B-33/openai")
    with pytest.raises(UnknownName, match="openai"):
        load_clip("ViT-B-32/openia")
    with pytest.raises(BadParameter, match="say which weights"):
        load_clip("coca_ViT-B-32")
    with pytest.raises(UnknownName, match="precision"):
        load_clip("ViT-B-32/openai", precision="int8")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not weights")
    with pytest.raises(CheckpointMismatch, match="cannot be read"):
        load_clip(f"{named}:{broken}", quick_gelu=True)
    state = dict(tiny.state_dict())
    state.pop("ln_final.bias")
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(CheckpointMismatch, match="ln_final.bias"):
        load_clip(f"{named}:{tmp_path / 'part.pt'}", quick_gelu=True)
    torch.save({"model": tiny}, tmp_path / "pickle.pt")
    with pytest.raises(CheckpointMismatch, match="cannot be read as weights"):
        load_clip(str(tmp_path / "pickle.pt"), quick_gelu=True)


@pytest.mark.parametrize("config", ['{"model_type": "clip"}', "{", "[]"])
def test_a_folder_of_another_framework_is_no_embedded_clip(tiny, pictures, tmp_path, config):
    save_file(tiny.state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "config.json").write_text(config)
    model = {"model_cfg": CONFIG | {"quick_gelu": True}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(model))
    torch.testing.assert_close(load_clip(str(tmp_path)).encode_image(pictures),
                               openai_image_tower(tiny.state_dict(), pictures))
