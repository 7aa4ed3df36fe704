"""Steps of feed-forward generators: batches, losses that fall, going on from a state."""

import pytest
import torch
from torch.testing import assert_close

from t2ilib.errors import BadParameter
from t2ilib.layers.patch_critic import PatchCritic
from t2ilib.models.feed_forward import CodeGenerator, PixelGenerator
from t2ilib.training import Batches, load_training, make_fabric, save_training
from t2ilib.training.feed_forward_step import CodeGeneratorTraining, draw_generator_batch
from t2ilib.training.guided_generator import (
    GuidedBatch,
    GuidedTerms,
    GuidedTraining,
    embedding_distance,
    random_views,
)

CODES = torch.randint(20, (8, 24), generator=torch.Generator().manual_seed(1))
CAPTIONS = torch.arange(24).view(8, 3)
TEXTS = torch.randn(24, 12, generator=torch.Generator().manual_seed(2))
STYLE = torch.eye(2)[torch.arange(8) % 2]
RELATIVES = torch.eye(4, dtype=torch.bool)[torch.arange(8) // 2]
MATERIAL = (CODES, CAPTIONS, STYLE, RELATIVES, TEXTS)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def training():
    torch.manual_seed(0)
    network = CodeGenerator(codes=20, code_dim=3, height=4, width=6, text_dim=12, styles=["round", "flat"], memory=4,
                            key_dim=4, draft_dim=7, text_hidden=8, dim=16, depth=1, heads=2, local_dim=8)
    network.begin_with(texts=TEXTS[::6], codebook=torch.randn(20, 3), codes=CODES, things=torch.arange(8) // 2,
                       styles=torch.arange(8) % 2)
    return CodeGeneratorTraining(network, make_fabric("cpu"), learning_rate=1e-2, ema_decay=0.9)


def test_what_a_batch_holds():
    batch = draw_generator_batch(*MATERIAL, stream(), plain_share=1.0, predicted_share=0.25, hidden_share=1.0)
    assert torch.equal(batch.pooled, TEXTS[CAPTIONS[:, 0]]) and torch.equal(batch.hidden, RELATIVES)
    assert torch.equal(batch.predicted.sum(1), torch.full((8,), 6))
    other = draw_generator_batch(*MATERIAL, stream(), plain_share=0.0, hidden_share=0.0)
    assert not torch.equal(other.pooled, TEXTS[CAPTIONS[:, 0]]) and not other.hidden.any()
    halves = [draw_generator_batch(*MATERIAL, stream(), rank=rank, world_size=2) for rank in (0, 1)]
    whole = draw_generator_batch(*MATERIAL, stream())
    for name in ("codes", "predicted", "pooled", "style", "noise", "hidden"):
        assert torch.equal(getattr(halves[1], name), getattr(whole, name)[1::2])
    for wrong in (dict(plain_share=1.5), dict(predicted_share=0.0)):
        with pytest.raises(BadParameter):
            draw_generator_batch(*MATERIAL, stream(), **wrong)
    with pytest.raises(BadParameter, match="8 pictures"):
        draw_generator_batch(CODES, CAPTIONS[:3], STYLE, RELATIVES, TEXTS, stream())


def test_a_step_lowers_the_loss():
    one = training()
    batch = draw_generator_batch(*MATERIAL, stream(), hidden_share=0.5)
    before = one.loss(batch).item()
    for _ in range(20):
        one.step(batch)
    assert one.loss(batch).item() < 0.8 * before


def test_going_on_from_a_state_is_the_same(tmp_path):
    def run(one, batches, rng, steps):
        losses = []
        for _ in range(steps):
            i = batches.next()
            losses.append(one.step(draw_generator_batch(*[part[i] for part in MATERIAL[:4]], TEXTS, rng)).item())
        return losses

    def parts():
        one = training()
        return one, Batches(8, 4, stream(3)), stream(4)

    one, batches, rng = parts()
    whole = run(one, batches, rng, 6)
    one, batches, rng = parts()
    run(one, batches, rng, 3)
    save_training(tmp_path / "x.pt", step=3, settings={}, **one.parts(), batches=batches, stream=rng)
    one, batches, rng = parts()
    load_training(tmp_path / "x.pt", settings={}, **one.parts(), batches=batches, stream=rng)
    assert run(one, batches, rng, 3) == whole[3:]


class Guide:
    """A CLIP of one linear layer."""

    def __init__(self):
        self.weight = torch.randn(6, 3 * 16 * 16, generator=stream(5)) / 28

    def encode_image(self, images):
        return torch.nn.functional.normalize(images.flatten(1) @ self.weight.T, dim=1)


def guided(terms, noise_dim=0, **parts):
    torch.manual_seed(0)
    network = PixelGenerator(embed_dim=6, noise_dim=noise_dim, hidden=8, dim=16, depth=1, heads=2, widths=[8, 8])
    return GuidedTraining(network, make_fabric("cpu"), guides=[Guide()], terms=GuidedTerms(**terms),
                          generator=stream(), learning_rate=3e-3, ema_decay=0.9, **parts)


def guided_batch(noise_dim=0):
    rng = stream(6)
    target = torch.nn.functional.normalize(torch.randn(4, 6, generator=rng), dim=1)
    noise = torch.randn(4, noise_dim, generator=rng) if noise_dim else None
    return GuidedBatch(target, [target], noise, torch.rand(4, 3, 16, 16, generator=rng) * 2 - 1)


def test_distance_of_unit_embeddings():
    images = torch.rand(4, 3, 16, 16, generator=stream())
    target = guided_batch().targets[0]
    cosine = (Guide().encode_image(images) * target).sum(1)
    assert_close(embedding_distance(images, target, Guide()), 2 - 2 * cosine)


def test_views_are_crops_of_the_picture():
    images = torch.zeros(2, 3, 16, 16)
    images[1] = 1
    views = random_views(images, 3, stream())
    assert views.shape == (6, 3, 16, 16)
    assert views[::2].mean() < 0.1 and views[1::2].mean() > 0.9 and 0 <= views.min() <= views.max() <= 1


@pytest.mark.parametrize("terms, noise_dim", [
    ({}, 0), (dict(views=2), 0), (dict(pixels=1.0, guidance=0.0), 0), (dict(perceptual=1.0), 0), (dict(critic=0.1), 0),
    (dict(diversity=0.1), 5)])
def test_every_term_trains(terms, noise_dim):
    parts = {}
    if "perceptual" in terms:
        parts["perceptual"] = lambda a, b: (a - b).square().mean((1, 2, 3))
    if "critic" in terms:
        parts["critic"] = PatchCritic(ch=8, num_layers=1)
    one = guided(terms, noise_dim, **parts)
    batch = guided_batch(noise_dim)
    first = one.guide_distance(one.network(batch.embedding, batch.noise), batch.targets).mean().item()
    before = [weights.clone() for weights in one.network.parameters()]
    for _ in range(15):
        one.step(batch)
    assert all((a - b).abs().max() > 0 for a, b in zip(before, one.network.parameters(), strict=True))
    if terms.get("guidance", 1.0):
        assert one.guide_distance(one.network(batch.embedding, batch.noise), batch.targets).mean().item() < first
    assert "critic" in one.parts() or "critic" not in terms


def test_a_decoder_paints_and_its_latents_can_be_learned():
    torch.manual_seed(0)
    network = PixelGenerator(embed_dim=6, hidden=8, dim=16, depth=1, heads=2, widths=[8], channels=8)
    one = GuidedTraining(network, make_fabric("cpu"), guides=[Guide()], terms=GuidedTerms(latents=1.0, guidance=0.0),
                         generator=stream(), decoder=lambda z: z[:, :3].repeat_interleave(2, 2).repeat_interleave(2, 3),
                         learning_rate=1e-2, ema_decay=0.9)
    batch = guided_batch()
    batch = GuidedBatch(batch.embedding, batch.targets, latents=torch.randn(4, 8, 8, 8, generator=stream()))
    before = one.loss(batch).item()
    for _ in range(15):
        one.step(batch)
    assert one.loss(batch).item() < before


def test_terms_that_lack_their_network():
    for terms, message in ((dict(perceptual=1.0), "perceptual"), (dict(critic=1.0), "critic"),
                           (dict(latents=1.0), "a decoder"), (dict(diversity=1.0), "noise_dim")):
        with pytest.raises(BadParameter, match=message):
            guided(terms)
