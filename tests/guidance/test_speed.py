"""The fast state changes neither results nor, afterwards, the networks; the estimate is what a step takes."""

import functools

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from t2ilib.errors import BadParameter
from t2ilib.guidance import GuidanceConfig, draw_cutouts, frozen, vqgan_clip
from t2ilib.guidance.guides import Guides
from t2ilib.guidance.memory import memory_estimate
from t2ilib.guidance.painting import render
from t2ilib.guidance.speed import fast
from t2ilib.memory import LiveBytes
from t2ilib.models.vqgan import VQGAN
from t2ilib.runtime import generator

SIZE = (32, 48)


@pytest.fixture(scope="module")
def networks(tiny_clip):
    """A VQGAN and an open_clip ViT with QuickGELU, small and random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vqgan = VQGAN(embed_dim=4, n_embed=64, z_channels=8, resolution=32, ch=16, ch_mult=(1, 2, 2), num_res_blocks=1,
                      attn_resolutions=(8,), norm_groups=4)
        nn.init.normal_(vqgan.quantize.embedding.weight)
        return vqgan.eval().requires_grad_(False), tiny_clip(32)


def one_step(vqgan, clip, *, pictures=1, cutouts=4, dtype=torch.float32):
    """Return picture, loss and gradient of a guidance step."""
    prompts = GuidanceConfig(["a"] * pictures).prompts()
    g = torch.Generator().manual_seed(0)
    z = torch.randn(pictures, 4, SIZE[0] // vqgan.factor, SIZE[1] // vqgan.factor, generator=g).requires_grad_()
    streams = [generator(i, "cutouts") for i in range(pictures)]
    parameters = draw_cutouts(streams, cutouts, SIZE, cut_size=32, noise=0.1)
    guides = Guides([clip], [1.0], prompts, dtype)
    images, _ = render(vqgan, z, dtype)
    loss = guides.losses(images, parameters).sum()
    return images.detach(), loss.detach(), torch.autograd.grad(loss, z)[0]


def state(*networks):
    return [(p.stride(), p.dtype, p.clone(), {k: v for k, v in vars(m).items() if k in ("forward", "checkpoint")})
            for n in networks for m in n.modules() for p in m.parameters(recurse=False)]


@pytest.mark.parametrize("options", [{}, {"channels_last": False}, {"checkpoint": True, "drop_encoder": True,
                                                                    "drop_text": True}], ids=str)
def test_results_stay_and_the_networks_come_back(networks, options):
    before, plain = state(*networks), one_step(*networks)
    with fast(*networks, **options):
        quick = one_step(*networks)
    for a, b in zip(quick, plain, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(state(*networks), before, strict=True):
        assert a[:2] == b[:2] and torch.equal(a[2], b[2]) and a[3] == b[3] == {}
    assert all(torch.equal(a, b) for a, b in zip(one_step(*networks), plain, strict=True))


def test_what_was_set_is_what_was_meant(networks):
    vqgan, clip = networks
    conv, block = vqgan.decoder.up[0].block[0].conv1, clip.model.visual.transformer.resblocks[0]
    plain = type(block.attn).forward
    with fast(vqgan, [clip], checkpoint=True, dtype=torch.bfloat16):
        assert conv.weight.is_contiguous(memory_format=torch.channels_last) and conv.weight.dtype == torch.bfloat16
        assert block.attn.in_proj_weight.dtype == torch.bfloat16 and vqgan.codebook.dtype == torch.float32
        assert vqgan.decoder.up[0].checkpoint and vqgan.decoder.mid.checkpoint and not vqgan.encoder.mid.checkpoint
        assert vqgan.decoder.norm_out.weight.dtype == torch.float32 and "forward" in vars(block.attn)
    assert not vqgan.decoder.up[0].checkpoint and conv.weight.dtype == torch.float32
    assert block.attn.forward.__func__ is plain
    with pytest.raises(ZeroDivisionError), fast(vqgan, clip, checkpoint=True, dtype=torch.bfloat16):
        raise ZeroDivisionError
    assert not vqgan.decoder.up[0].checkpoint and conv.weight.dtype == torch.float32 and conv.weight.is_contiguous()


def test_checkpointing_changes_no_bit_and_keeps_less(networks):
    found = []
    for checkpoint in (False, True):
        kept = []
        with fast(*networks, checkpoint=checkpoint):
            z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
            with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.nbytes) or t, lambda t: t):
                image = networks[0].decode(z)
            found.append((image, torch.autograd.grad(image.square().sum(), z)[0], sum(kept)))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert found[1][2] < 0.6 * found[0][2]


def test_weights_cast_once_give_what_autocast_gives(networks):
    plain = one_step(*networks, dtype=torch.bfloat16)
    with fast(*networks, channels_last=False, dtype=torch.bfloat16):
        held = one_step(*networks, dtype=torch.bfloat16)
    exact = one_step(*networks)
    assert_close(held[0], plain[0], rtol=0, atol=0.05)
    assert (held[2] - exact[2]).norm() < 1.5 * (plain[2] - exact[2]).norm()  # no worse than autocast alone


@pytest.mark.slow
def test_compiled_networks_agree(networks, monkeypatch):
    made, original = [], torch.compile

    def traced(function, **options):  # the real tracing without the minutes of code generation
        made.append(options)
        return original(function, backend="eager", dynamic=options["dynamic"])

    monkeypatch.setattr(torch, "compile", traced)
    plain = one_step(*networks)
    with fast(*networks, compile="reduce-overhead"):
        quick = one_step(*networks)
    assert [o["mode"] for o in made] == ["reduce-overhead"] * 2
    for a, b in zip(quick, plain, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert "decode" not in vars(networks[0]) and "forward" not in vars(networks[1].model.visual)
    with pytest.raises(BadParameter, match="reduce-overhead"), fast(*networks, compile="fastest"):
        pass


def test_other_networks_are_left_alone(vqgan, clip):
    config = GuidanceConfig("red", steps=3, num_cutouts=3, min_cut=0.6)
    plain = vqgan_clip(config, vqgan=vqgan, clips=clip)
    with fast(vqgan, clip, checkpoint=True, drop_encoder=True, drop_text=True):
        quick = vqgan_clip(config, vqgan=vqgan, clips=clip)
    assert_close(quick.images, plain.images, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 12), (11, 9)])
def test_patches_are_those_of_the_convolution(size):
    tower = nn.Sequential(nn.Conv2d(3, 5, (4, 3), stride=(4, 3)), nn.Conv2d(5, 2, 2, stride=1)).requires_grad_(False)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    plain = tower(x)
    with fast(nn.Identity(), tower):
        assert "forward" in vars(tower[0]) and "forward" not in vars(tower[1])
        assert_close(tower(x), plain)
    attention = nn.MultiheadAttention(16, 2, batch_first=True).eval().requires_grad_(False)
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    plain = attention(x, x, x, need_weights=False)[0]
    with fast(nn.Identity(), attention, dtype=torch.bfloat16), torch.autocast("cpu", torch.bfloat16):
        assert_close(attention(x, x, x, need_weights=False)[0].float(), plain, rtol=0.05, atol=0.02)


def test_attention_with_a_mask_or_with_other_keys_is_the_modules_own():
    attention = nn.MultiheadAttention(16, 2, batch_first=True).eval().requires_grad_(False)
    holder = nn.Sequential(attention)
    holder.image_size = 8
    x, other = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(0))
    calls = [functools.partial(attention, x, x, x, need_weights=False), functools.partial(attention, x, x, x),
             functools.partial(attention, x, other, other, need_weights=False),
             functools.partial(attention, x, x, x, need_weights=False, attn_mask=torch.ones(5, 5).triu(1).bool())]
    plain = [call() for call in calls]
    with fast(nn.Identity(), holder):
        for a, b in zip([call() for call in calls], plain, strict=True):
            assert_close(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"checkpoint": True}, {"channels_last": False}, {"dtype": torch.bfloat16}],
                         ids=str)
def test_the_estimate_is_what_a_real_step_takes(networks, options):
    dtype = options.get("dtype", torch.float32)
    for pictures, cutouts in ((1, 24), (3, 2)):
        with fast(*networks, **options):
            estimate = memory_estimate(*networks, image_size=SIZE, pictures=pictures, cutouts=cutouts, dtype=dtype)
            with LiveBytes() as live, frozen(*networks):
                one_step(*networks, pictures=pictures, cutouts=cutouts, dtype=dtype)
            weights = sum(t.nbytes for n in networks for t in [*n.parameters(), *n.buffers()])
        assert estimate == pytest.approx(weights + live.peak, rel=0.1)
        assert estimate - weights == pytest.approx(live.peak, rel=0.2)
