"""The embedded CLIP: equal to open_clip's, towers of several kinds, checkpoints without MiniLM, guide and judge."""

import json
import warnings

import pytest
import torch
from torch.nn import functional as F

from t2ilib.checkpoint import load_model, save_model
from t2ilib.data import load_captioned
from t2ilib.encoders import EmojiClip, embedded_clips, load_clip, load_judge, load_text_encoder
from t2ilib.encoders.emoji_clip import EmojiClipNetwork, EmojiTokenizer
from t2ilib.encoders.image_towers import TOWERS, tower_spec
from t2ilib.encoders.open_clip_form import open_clip_config, open_clip_form
from t2ilib.errors import BadParameter, CheckpointMismatch, MissingAsset, UnknownName
from t2ilib.media import to_unit

TINY = {"tower": "resnet", "channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1], "embed_dim": 12}
TEXTS = ["a red heart", "a yellow fish under water"]


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return EmojiClip(**TINY)


@pytest.fixture
def shipped(tmp_path, monkeypatch, tiny):
    monkeypatch.setattr("t2ilib.encoders.clips_by_name.checkpoints_dir", lambda: tmp_path)
    save_model(tmp_path / "emoji-clip", tiny, dtype=torch.float16)
    judge = EmojiClip(tower="convnext", channels=[8, 8, 8, 8], layers=[1, 1, 1, 1])
    save_model(tmp_path / "emoji-judge", judge, role="judge")
    return tmp_path


@pytest.fixture(scope="module")
def network(tiny):
    return EmojiClipNetwork(tiny)


def test_its_open_clip_form(tiny, network):
    import open_clip
    from open_clip.timm_model import TimmModel

    model = open_clip_form(network)
    assert isinstance(model, open_clip.CustomTextCLIP) and isinstance(model.visual, TimmModel)
    assert tiny.config["embed_dim"] == 12 and tiny.config["image_size"] == 64
    image, text, scale = model(torch.rand(2, 3, 64, 64), network.tokenizer(TEXTS))
    assert image.shape == text.shape == (2, 12)
    torch.testing.assert_close(scale, torch.tensor(1 / 0.07))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert "text.proj.weight" in trained and not any(n.startswith("text.transformer") for n in trained)


def test_features_computed_once_equal_the_text_tower(tiny, network):
    model = open_clip_form(network).train()  # the frozen transformer must stay free of dropout
    with torch.no_grad():
        direct = model.encode_text(EmojiTokenizer()(TEXTS), normalize=True)
        pooled = load_text_encoder("minilm").pooled(TEXTS)
        torch.testing.assert_close(tiny.encode_features(pooled), direct, atol=1e-5, rtol=1e-4)
        padded = F.pad(EmojiTokenizer()(TEXTS), (0, 60))  # open_clip's own tokeniser pads to 77
        torch.testing.assert_close(model.encode_text(padded, normalize=True), direct, atol=1e-5, rtol=1e-4)
        ours = F.normalize(network.encode_text(padded), dim=-1)
        torch.testing.assert_close(ours, direct, atol=1e-5, rtol=1e-4)


def test_weights_are_shared_and_checkpoint_leaves_minilm_out(tiny, network, tmp_path):
    model = open_clip_form(network)
    learnt = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not name.startswith("text.transformer."):
            learnt[name.replace("text.proj.", "text_proj.")] = tensor
    expected = tiny.state_dict(keep_vars=True)
    assert learnt.keys() == expected.keys() and all(learnt[name] is tensor for name, tensor in expected.items())
    frozen = model.text.transformer.state_dict(keep_vars=True)
    assert all(frozen[name] is tensor for name, tensor in network.minilm.state_dict(keep_vars=True).items())
    save_model(tmp_path, tiny)
    assert (tmp_path / "model.safetensors").stat().st_size < 1_000_000  # MiniLM alone is 90 MB
    again = load_model(EmojiClip, tmp_path)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again.encode_image(x), tiny.eval().encode_image(x))
    tiny.train()


def test_building_leaves_the_random_state_alone(tiny, network):
    torch.manual_seed(3)
    EmojiClipNetwork(tiny)
    open_clip_form(network)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("tower", sorted(TOWERS))
def test_named_towers_fit_the_budget_and_learn(tower):
    model = EmojiClip(tower=tower, drop_path=0.1)
    assert sum(p.numel() for p in model.parameters()) < 5_000_000
    loss = (model.encode_image(torch.randn(2, 3, 64, 64)) - 1).square().sum()
    loss.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None]
    assert silent == ["text_proj.weight", "logit_scale"] or set(silent) == {"text_proj.weight", "logit_scale"}


def test_group_norm_does_not_mix_pictures():
    torch.manual_seed(0)
    x = torch.rand(3, 3, 64, 64)
    group = EmojiClip(**TINY, norm="group").train()
    torch.testing.assert_close(group.encode_image(x)[:1], group.encode_image(x[:1]))
    batch = EmojiClip(**TINY, norm="batch").train()
    assert (batch.encode_image(x)[:1] - batch.encode_image(x[:1])).abs().max() > 1e-3


def test_wrong_towers_are_refused():
    with pytest.raises(UnknownName, match="resnet"):
        EmojiClip(tower="resnett")
    with pytest.raises(BadParameter, match="batch or group"):
        tower_spec("resnet", norm="layer")
    with pytest.raises(BadParameter, match="four positive"):
        tower_spec("resnet", channels=[8, 8, 8])
    with pytest.raises(BadParameter, match="multiples of 8"):
        tower_spec("resnet", channels=[8, 8, 12, 16], norm="group")
    with pytest.raises(BadParameter, match="2 or 4"):
        tower_spec("convnext", stem=3)
    with pytest.raises(BadParameter, match="drop_path"):
        EmojiClip(**TINY, drop_path=1.0)


def test_open_clip_builds_it_from_its_config(network, tmp_path):
    import open_clip

    (tmp_path / "emoji-test.json").write_text(json.dumps(open_clip_config(network)))
    open_clip.add_model_config(tmp_path / "emoji-test.json")
    model, _, preprocess = open_clip.create_model_and_transforms("emoji-test")
    assert isinstance(model, open_clip.CustomTextCLIP) and model.text.proj.weight.shape == (12, 384)
    tokens = open_clip.get_tokenizer("emoji-test")(TEXTS)
    assert tokens.shape == (2, 77)
    model.text.transformer.load_state_dict(network.minilm.state_dict())
    encoder = load_text_encoder("minilm")
    with torch.no_grad():
        expected = F.normalize(model.text.proj(encoder.pooled(TEXTS)), dim=-1)
        torch.testing.assert_close(model.eval().encode_text(tokens, normalize=True), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["emoji-clip", "emoji-clip-b", "emoji-judge"])
def test_shipped_models_equal_their_open_clip_form(name):
    clip = load_judge() if name == "emoji-judge" else load_clip(name)
    data = load_captioned("emoji", split="validation", image_size=64)
    chosen = range(0, len(data), 24)
    pictures = to_unit(data.batch(chosen))
    texts = [*[data.captions[i] for i in chosen], "", "naïve café ☃ 日本語", "heart " * 60]
    model = clip.model
    assert model is clip.model and "open_clip" in type(model).__module__
    with torch.no_grad():
        expected = model.encode_image(clip.normalise(pictures), normalize=True)
        torch.testing.assert_close(clip.encode_image(pictures), expected, atol=1e-5, rtol=0)
        expected = model.encode_text(clip.tokenizer(texts), normalize=True)
        torch.testing.assert_close(clip.encode_text(texts), expected, atol=1e-5, rtol=0)
    assert model.logit_scale is clip.network.logit_scale


def test_the_open_clip_form_follows_its_clip(shipped):
    clip = load_clip()
    model = clip.model
    clip.double()
    assert clip.model is model and model.visual.trunk.bn1.running_mean is clip.visual.trunk.bn1.running_mean
    assert not any(name.startswith("_open_clip") for name in clip.state_dict())


def test_load_clip_by_name_and_by_folder(shipped, tiny):
    clip = load_clip("emoji-clip")
    assert embedded_clips() == ["emoji-clip"] and (clip.image_size, clip.dim, clip.name) == (64, 12, "emoji-clip")
    x = torch.rand(2, 3, 64, 64)
    tiny.eval()
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_image(x), tiny.encode_image(tiny.normalise(x)), atol=5e-3, rtol=5e-3)
    tiny.train()
    torch.testing.assert_close(load_clip(str(shipped / "emoji-clip")).encode_image(x), clip.encode_image(x))
    torch.testing.assert_close(clip.logit_scale, torch.tensor(1 / 0.07), rtol=1e-2, atol=0)
    with pytest.warns(UserWarning, match="at most 77 tokens"):
        assert clip.encode_text(["heart " * 100]).shape == (1, 12)


def test_guide_gives_gradients_and_judge_does_not(shipped):
    x = torch.rand(1, 3, 80, 64, requires_grad=True)
    clip, judge = load_clip(), load_judge()
    clip.encode_image(x).sum().backward()
    assert x.grad.abs().max() > 0 and not any(p.requires_grad for p in clip.parameters())
    assert not judge.encode_image(x).requires_grad and judge.encode_text(TEXTS).shape == (2, 256)
    with pytest.raises(BadParameter, match="load_judge"):
        load_clip("emoji-judge")


def test_text_vectors_do_not_depend_on_the_company(shipped):
    clip = load_clip()
    many = clip.encode_text(["fish", "a very long text about a heart", "a cat"], batch_size=2)
    torch.testing.assert_close(many[1:2], clip.encode_text(["a very long text about a heart"]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(many.norm(dim=1), torch.ones(3))
    assert clip.encode_text([]).shape == (0, 12)


def test_long_prompts_of_the_embedded_clip(shipped):
    clip = load_clip()
    assert clip.context_length == 77 and clip.count_tokens("a red heart") == 5
    assert clip.tokenizer.count_tokens("heart " * 100) == 102
    texts = ["a cat", "heart " * 100, "cat " * 90 + "heart " * 90, "a fish"]
    with pytest.warns(UserWarning, match="with 102 tokens; shorten it, or read it whole with long='windows'") as caught:
        cut = clip.encode_text(texts, batch_size=1)  # once for each call, not once for each batch
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = clip.encode_text(texts, batch_size=1, long="windows")
        cat, heart = clip.encode_text(["cat " * 75, "heart " * 75])
    assert torch.equal(whole[[0, 3]], cut[[0, 3]])
    torch.testing.assert_close(cut[2], cat, atol=1e-5, rtol=1e-4)  # nothing but its first 75 words
    assert whole[2] @ cat < 0.999 and whole[2] @ heart > cut[2] @ heart
    with pytest.warns(UserWarning, match="at most 77 tokens"):
        clip.tokenizer(texts)  # who tokenises by himself hears of it too


def test_embedded_errors(shipped, tmp_path, monkeypatch):
    with pytest.raises(UnknownName, match="emoji-clip"):
        load_clip("emoji-clap")
    weights = shipped / "emoji-clip" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    with pytest.raises(CheckpointMismatch, match="SHA-256"):
        load_clip("emoji-clip")
    monkeypatch.setattr("t2ilib.encoders.clips_by_name.checkpoints_dir", lambda: tmp_path / "nothing")
    with pytest.raises(MissingAsset, match="train one with `python -m t2ilib run 12"):
        load_clip("emoji-clip")
    with pytest.raises(MissingAsset, match="emoji-judge"):
        load_judge()
