import pytest
import torch
from torch import nn

from t2ilib.memory import LiveBytes, no_memory, training_memory
from t2ilib.models.imagen_unet import ImagenUNet

GIB = 2**30
BUDGET = 12e9 / GIB - 1  # GiB of a card of 12 GB, less what the context and the libraries take


def test_live_bytes_are_those_of_tensors_that_are_alive():
    with LiveBytes() as live:
        x = torch.zeros(1000)
        y = (x + 1)[:10].exp()
        assert live.now == 4000 + 40 and live.peak == 8000 + 40
        x.add_(1)
        del x
        assert live.now == 40 and y.sum() > 0
    saved = []
    layer, x = nn.Sequential(nn.Linear(50, 50), nn.Sigmoid(), nn.Linear(50, 50)), torch.randn(100, 50)
    layer.requires_grad_(False)
    with LiveBytes() as live, torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = layer(x.requires_grad_())
        kept = {t.untyped_storage().data_ptr(): t.nbytes for t in saved if t.shape[0] == 100}
        assert live.now == sum(kept.values()) + out.nbytes


def text(batch, dim, tokens=20):
    return torch.randn(batch, tokens, dim), torch.ones(batch, tokens, dtype=torch.bool), torch.randn(batch, dim)


def unet_loss(network, *, size, batch, text_dim, dtype=torch.bfloat16):
    """One step's loss with text of 20 tokens; the super-resolution stage gets a picture to enlarge."""
    x = torch.randn(batch, 3, size, size)
    low = (torch.randn(x.shape), torch.rand(batch)) if network.lowres_cond else ()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return network(x, torch.rand(batch), *text(batch, text_dim), *low).float().square().mean()


@pytest.mark.slow
def test_foretold_memory_is_what_a_real_step_takes():
    options = dict(dim=16, dim_mults=[1, 2], text_embed_dim=12, attn_heads=2, attn_dim_head=8)
    case = dict(size=16, batch=4, text_dim=12)
    found = training_memory(lambda: ImagenUNet(**options), lambda n: unet_loss(n, **case), moments=2, ema=True)
    assert found["parameters"] == sum(p.numel() for p in ImagenUNet(**options).parameters())
    network = ImagenUNet(**options)
    with LiveBytes() as live:
        unet_loss(network, **case).backward()
    weights = sum(p.nbytes for p in network.parameters())
    assert found["state"] == 4 * weights
    assert found["step"] == pytest.approx(live.peak, rel=0.02) and found["peak"] == found["state"] + found["step"]


# the stages of the original, as they are to fit into 12 GB; at full size and width
STAGES = {
    "base, batch 32": (dict(dim=128, dim_mults=[1, 2, 4], layer_attns=[False, True, True],
                            layer_cross_attns=[False, True, True], text_embed_dim=512, num_resnet_blocks=2),
                       dict(size=64, batch=32, text_dim=512)),
    "super-resolution 64 -> 256, batch 8": (
        dict(dim=64, dim_mults=[1, 2, 4, 4], layer_attns=[False, False, False, True],
             layer_cross_attns=[False, False, True, True], text_embed_dim=512, num_resnet_blocks=2,
             memory_efficient=True, lowres_cond=True), dict(size=256, batch=8, text_dim=512)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_the_originals_stages_train_within_12_gb(name):
    options, case = STAGES[name]
    found = training_memory(lambda: ImagenUNet(**options), lambda n: unet_loss(n, **case))
    assert found["peak"] / GIB < BUDGET
    again = training_memory(lambda: ImagenUNet(**options, checkpointing=True), lambda n: unet_loss(n, **case))
    assert again["step"] < 0.6 * found["step"]


def test_nothing_is_allocated():
    with no_memory():
        layer = nn.Linear(2**20, 2**20)  # 4 TiB
        assert layer(torch.zeros(2, 2**20)).shape == (2, 2**20)
