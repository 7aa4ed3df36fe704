import pytest
import torch

from t2ilib.errors import BadParameter
from t2ilib.guidance import near_drawings
from t2ilib.guidance.prior import DiffusionPrior
from t2ilib.models.latent_prior import LatentPrior
from t2ilib.models.start_bank import StartBank

MEAN, STD = [1.0, -1.0, 0.0, 2.0], [0.5, 1.0, 2.0, 1.0]


class Words:
    """A text encoder: a random vector for each word, padded to the longest text of the call; counts what it encodes."""

    def __init__(self):
        self.seen = []

    def encode(self, texts):
        self.seen += texts

        def word(w):
            return torch.randn(6, generator=torch.Generator().manual_seed(sum(map(ord, w))))

        rows = [torch.stack([word(w) for w in ("start " + text).split()]) for text in texts]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(tokens.shape[1]) < torch.tensor([[len(r)] for r in rows])
        return tokens, mask, torch.stack([r.mean(0) for r in rows])


def make_network():
    torch.manual_seed(0)
    network = LatentPrior(latent_channels=4, channels=16, channel_mults=(1, 1), attention=(False, True),
                          num_res_blocks=1, text_dim=6, heads=2, dropout=0.2, latent_mean=MEAN, latent_std=STD)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.03 * torch.randn_like(p))
    return network


@pytest.fixture
def prior():
    return DiffusionPrior(make_network(), Words(), steps=4, precision="float32")


def streams(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_shapes_repeatable_and_the_network_is_frozen(prior):
    z = prior.sample(["a red heart", "cat"], num=3, generators=streams(0, 1), size=(6, 4))
    assert z.shape == (6, 4, 6, 4) and z.isfinite().all() and not z.requires_grad
    torch.testing.assert_close(prior.sample(["a red heart", "cat"], num=3, generators=streams(0, 1), size=(6, 4)), z,
                               rtol=0, atol=0)
    assert not prior.network.training and not any(p.requires_grad for p in prior.network.parameters())
    assert prior.text_encoder.seen == ["a red heart", "cat"]  # each text is encoded once


def test_a_prompt_depends_on_its_own_generator_alone(prior):
    both = prior.sample(["a red heart", "cat"], num=2, generators=streams(0, 1), size=(4, 4))
    other = prior.sample(["a red heart", "a very long text beside it"], num=2, generators=streams(0, 9), size=(4, 4))
    alone = prior.sample(["a red heart"], num=2, generators=streams(0), size=(4, 4))
    torch.testing.assert_close(both[:2], other[:2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[:2], alone, rtol=1e-4, atol=1e-4)
    assert (both[2:] - other[2:]).abs().max() > 0.1 and (both[0] - both[1]).abs().max() > 0.1
    second = prior.sample(["cat"], num=2, generators=streams(1), size=(4, 4))
    torch.testing.assert_close(both[2:], second, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_chunks_change_nothing(prior, chunk):
    def draw():
        return prior.sample(["cat", "a red heart"], num=3, generators=streams(0, 1), size=(4, 4))

    whole = draw()
    prior.chunk = chunk
    torch.testing.assert_close(draw(), whole, rtol=1e-4, atol=1e-4)


def test_text_and_guidance_scale_matter():
    samples = {}
    for scale in (0.0, 1.0, 4.0):
        prior = DiffusionPrior(make_network(), Words(), steps=4, guidance_scale=scale, precision="float32")
        samples[scale] = [prior.sample([text], num=1, generators=streams(0), size=(4, 4)) for text in ("cat", "heart")]
    torch.testing.assert_close(*samples[0.0])  # without guidance the text is not heard
    difference = {scale: (a - b).abs().mean() for scale, (a, b) in samples.items()}
    assert difference[4.0] > difference[1.0] > 1e-4


class Known(LatentPrior):
    """Believes that every picture is 0.5, in normalised units."""

    def forward(self, x_t, t, tokens, mask, pooled):
        from t2ilib.diffusion import alpha_sigma

        alpha, sigma = alpha_sigma(t)
        return (alpha * x_t - 0.5) / sigma


def test_score_distillation_pulls_towards_the_estimate():
    network = Known(latent_channels=4, channels=16, channel_mults=(1,), attention=(False,), num_res_blocks=1,
                    text_dim=6, heads=2, latent_mean=MEAN, latent_std=STD)
    prior = DiffusionPrior(network, Words(), precision="float32")
    believed = network.denormalize(torch.full((2, 4, 3, 3), 0.5))
    z = (believed + torch.randn(2, 4, 3, 3)).requires_grad_()
    loss = prior.score_distillation(z, ["cat", "heart"], streams(0, 1))
    std = torch.tensor(STD).view(4, 1, 1)
    torch.testing.assert_close(loss, ((z - believed) / std).square().mean((1, 2, 3)), rtol=1e-3, atol=1e-4)
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    # the estimate carries no gradient: what remains is that of the squared distance itself
    torch.testing.assert_close(gradient, 2 * (z - believed).detach() / std**2 / 36, rtol=1e-2, atol=1e-3)
    exact = prior.score_distillation(believed, ["cat", "heart"], streams(0, 1))
    torch.testing.assert_close(exact, torch.zeros(2), rtol=0, atol=1e-4)


def with_bank(**options):
    words = Words()
    _, _, text = words.encode(["cat", "heart"])
    bank = StartBank.build(torch.tensor([0, 1]).view(2, 1, 1).expand(2, 4, 4), torch.tensor([0, 1]), text,
                           torch.tensor([[9.0, 9.0, 9.0, 9.0], [-9.0, -9.0, -9.0, -9.0]]))
    return DiffusionPrior(make_network(), words, steps=8, precision="float32", bank=bank, **options)


def test_a_part_of_the_samples_starts_from_the_drawings_of_the_closest_names(prior):
    plain = with_bank(bank_share=0.0).sample(["cat", "heart"], num=3, generators=streams(0, 1), size=(4, 4))
    mixed = with_bank(bank_share=0.4, bank_noise=0.2).sample(["cat", "heart"], num=3, generators=streams(0, 1),
                                                             size=(4, 4))
    plain, mixed = plain.unflatten(0, (2, 3)), mixed.unflatten(0, (2, 3))
    torch.testing.assert_close(mixed[:, :2], plain[:, :2])  # int(0.4 * 3) = 1 starts from a drawing, the last
    assert mixed[0, 2].mean() > 5 and mixed[1, 2].mean() < -5  # little noise: the cat's 9 and the heart's -9 remain
    more = with_bank(bank_share=1.0, bank_noise=1.0).sample(["cat"], num=2, generators=streams(0), size=(4, 4))
    assert more.mean().abs() < 4  # all noise: nothing of the drawing is left


class Painter:
    """Paints each latent as its first number, in grey, and encodes a picture as the mean of its blue."""

    factor = 1
    codebook = torch.zeros(2, 4)

    def decode(self, z):
        return torch.tanh(z[:, :1]).expand(-1, 3, -1, -1)

    def encode_codes(self, x):
        return x[:, 2]

    def embed_codes(self, codes):
        return codes[:, None].expand(-1, 4, -1, -1)


def test_all_samples_start_from_painted_drawings_where_a_prompt_asks_for_a_colour(monkeypatch):
    monkeypatch.setattr(near_drawings, "recolored", lambda x, word: torch.zeros_like(x) + 0.25)
    texts = ["cat", "blue heart"]
    prior = with_bank(bank_share=0.4, bank_noise=0.05, painter=Painter())
    x = prior.sample(texts, num=3, generators=streams(0, 1), size=(4, 4)).unflatten(0, (2, 3))
    plain = with_bank(bank_share=0.4, bank_noise=0.05).sample(texts, num=3, generators=streams(0, 1), size=(4, 4))
    torch.testing.assert_close(x[0], plain[:3], rtol=1e-3, atol=1e-3)  # the cat is as it was
    assert (x[1].mean((1, 2, 3)) + 0.5).abs().max() < 0.5  # the painted grey, 0.25 of [0, 1], in all three
    assert plain[5].mean() < -5  # unpainted, the last was the drawing


def test_drawings_of_another_size_are_not_used():
    ours, plain = (with_bank(bank_share=share).sample(["cat"], num=2, generators=streams(0), size=(6, 4))
                   for share in (1.0, 0.0))
    torch.testing.assert_close(ours, plain)


def test_score_distillation_of_a_real_network(prior):
    z = prior.sample(["cat", "heart"], num=1, generators=streams(0, 1), size=(4, 4)).requires_grad_()
    loss = prior.score_distillation(z, ["cat", "heart"], streams(2, 3))
    assert loss.shape == (2,) and loss.isfinite().all() and (loss > 0).all()
    (gradient,) = torch.autograd.grad(loss.sum(), z)
    assert gradient.isfinite().all()
    with torch.no_grad():
        after = prior.score_distillation(z - 2.0 * gradient, ["cat", "heart"], streams(2, 3))
    assert (after < loss).all()  # one small step along it helps, with the same noise
    torch.testing.assert_close(prior.score_distillation(z[:1], ["cat"], streams(2)), loss[:1], rtol=1e-3, atol=1e-4)
    assert (prior.score_distillation(z, ["cat", "heart"], streams(2, 4))[1] - loss[1]).abs() > 1e-6


def test_wrong_arguments(prior):
    network = make_network()
    for options in ({"steps": 0}, {"guidance_scale": -1.0}, {"bank_share": 1.5}, {"bank_noise": 0.0}):
        with pytest.raises(BadParameter, match="need steps >= 1, guidance_scale >= 0"):
            DiffusionPrior(network, Words(), **options)
    for prompts, seeds, num in ((["a", "b"], (0,), 1), (["a"], (0, 1), 1), ([], (), 1), (["a"], (0,), 0)):
        with pytest.raises(BadParameter, match="a generator for each"):
            prior.sample(prompts, num=num, generators=streams(*seeds), size=(4, 4))
    with pytest.raises(BadParameter, match="got 2 latents, 1 prompts and 2 generators"):
        prior.score_distillation(torch.zeros(2, 4, 4, 4), ["a"], streams(0, 1))


def test_redrawing_keeps_little_or_much_of_the_start(prior):
    z = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))

    def redraw(strength, z=z):
        return prior.redraw(z, ["a", "b"], num=3, generators=streams(0, 1), strength=strength)

    little, much = redraw(0.1), redraw(1.0)
    assert little.shape == (6, 4, 4, 4) and torch.equal(little, redraw(0.1))
    start = z.repeat_interleave(3, dim=0)
    assert (little - start).norm() < 0.5 * (much - start).norm()
    assert (redraw(1.0, z + 5) - much).abs().mean() < 0.1 * much.abs().mean()  # nothing of the start is left
