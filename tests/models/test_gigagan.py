"""GigaGAN-lite: shapes, what conditions what, and work that grows with the number of sides and not with its power."""

import pytest
import torch
from torch import nn

from t2ilib.checkpoint import load_model, save_model
from t2ilib.errors import BadParameter
from t2ilib.models.gigagan import FeatureDiscriminator, GigaDiscriminator, GigaGenerator, noise_of_styles

SMALL = dict(image_size=16, widths=(16, 16, 8), attention=(8,), heads=2, text_dim=12)


def text(batch=3, tokens=5):
    torch.manual_seed(1)
    mask = torch.ones(batch, tokens, dtype=torch.bool)
    mask[0, 3:] = False
    return torch.randn(batch, tokens, 12), mask, torch.randn(batch, 12)


def generator(**changes):
    torch.manual_seed(0)
    return GigaGenerator(**{**SMALL, "latent_dim": 6, "style_dim": 20, "filters": 2, **changes})


def discriminator(**changes):
    torch.manual_seed(0)
    return GigaDiscriminator(**{**SMALL, "reads": (16, 8), "scores": (4, 8), "hidden": 10, **changes})


def test_pictures_of_every_side_from_the_largest():
    pictures = generator()(torch.randn(3, 6), *text())
    assert [tuple(x.shape) for x in pictures] == [(3, 3, 16, 16), (3, 3, 8, 8), (3, 3, 4, 4)]


def test_a_generator_that_grows_stops_at_a_side_and_draws_the_same_up_to_it():
    network = generator()
    z = torch.randn(3, 6)
    every = network(z, *text())
    up_to_8 = network(z, *text(), largest=8)
    assert len(up_to_8) == 2
    for one, other in zip(up_to_8, every[1:], strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(BadParameter, match="draws pictures of"):
        network(z, *text(), largest=12)


def with_memory(**changes):
    network = generator(memory=5, memory_styles=2, draft_dim=30, **changes)
    _, _, texts = text(5)
    pictures = torch.rand(10, 3, 16, 16) * 2 - 1
    network.drafts.begin_with(texts, pictures, torch.arange(10) % 5, torch.arange(10) // 5)
    network.drafts.memory.log_sharpness.data.fill_(6.0)  # each text finds its own row
    return network, texts, pictures


def test_a_memory_gives_the_drawing_of_a_thing_and_noise_chooses_which():
    network, texts, pictures = with_memory()
    for style in range(2):
        z = torch.zeros(5, 6)
        z[:, style] = 3.0
        torch.testing.assert_close(network.draft(z, texts), pictures[5 * style:][:5], atol=1e-3, rtol=0)


def test_a_picture_begins_from_the_draft_and_learns_through_it():
    network, texts, _ = with_memory(image_size=32, widths=(16, 16, 8, 8))
    network.drafts.memory.log_sharpness.data.fill_(1.0)  # several rows are mixed
    tokens, mask, _ = text(5)
    z = torch.randn(5, 6)
    styles, read = network.style(z, texts), network.read(tokens, mask)
    draft = network.draft(z, texts)
    drawn = network(z, tokens, mask, texts)
    without = network.draw(styles, *read, draft=torch.zeros_like(draft))
    torch.testing.assert_close(drawn[1] - without[1], draft)  # at 16 pixels, before training
    torch.testing.assert_close(drawn[2:], without[2:])
    drawn[0].square().mean().backward()
    for name, parameter in network.drafts.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    assert network.from_draft.weight.grad.abs().max() > 0


def test_a_memory_that_nothing_would_look_up_is_refused():
    for wrong in (dict(conditional=False), dict(image_size=8, widths=(16, 16))):
        with pytest.raises(BadParameter, match="looked up by a text"):
            generator(memory=5, **wrong)
    with pytest.raises(BadParameter, match="noise of 6 numbers cannot choose among 7"):
        generator(memory=5, memory_styles=7)
    network, texts, _ = with_memory()
    with pytest.raises(BadParameter, match="with a memory needs draft"):
        network.draw(network.style(torch.randn(5, 6), texts), *network.read(*text(5)[:2]))


def test_noise_of_styles_names_each_style_and_stays_noise():
    torch.manual_seed(0)
    z = torch.randn(40_000, 6)
    styles = torch.randint(4, (len(z),))
    named = noise_of_styles(z, styles, 4)
    assert torch.equal(named[:, :4].argmax(1), styles)
    assert torch.equal(named.sort(1).values, z.sort(1).values) and torch.equal(named[:, 4:], z[:, 4:])
    assert named.mean(0).abs().max() < 0.03
    assert (named.T.cov() - torch.eye(6)).abs().max() < 0.04


def test_before_training_pictures_are_grey_and_not_cut_off():
    network = generator(widths=(64, 64, 64))
    assert network(torch.randn(3, 6), *text())[0].abs().max() < 1


def test_noise_tokens_and_pooled_text_change_the_picture_and_padding_does_not():
    network = generator()
    for block in network.blocks:
        if block.read_text is not None:
            nn.init.normal_(block.read_text.attention.out.weight)
    z = torch.randn(3, 6)
    tokens, mask, pooled = text()
    first = network(z, tokens, mask, pooled)[0]
    padded = tokens.clone()
    padded[0, 3:] = 7.0
    torch.testing.assert_close(network(z, padded, mask, pooled)[0], first)
    for changed in ((z + 1, tokens, mask, pooled), (z, tokens + 1, mask, pooled), (z, tokens, mask, pooled.flip(0))):
        assert (network(*changed)[0] - first).abs().max() > 1e-5


def test_without_condition_the_text_is_not_read():
    network = generator(conditional=False)
    z = torch.randn(3, 6)
    tokens, mask, pooled = text()
    torch.testing.assert_close(network(z, tokens, mask, pooled)[0], network(z, -tokens, mask, -pooled)[0])
    nulls = network.without_text(tokens, mask, pooled, torch.ones(3, dtype=torch.bool))
    part_by_part = network.draw(network.style(z, pooled), *network.read(tokens, mask))[0]  # as a painter draws
    torch.testing.assert_close(part_by_part, network(z, *nulls)[0])


def test_styles_of_two_pictures_mix_side_by_side():
    network = generator()
    tokens, mask, pooled = text()
    read = network.read(tokens, mask)
    one = network.style(torch.randn(3, 6), pooled)
    other = network.style(torch.randn(3, 6), pooled)
    alone = network.draw(one, *read)
    mixed = network.draw([one, one, other], *read)
    torch.testing.assert_close(mixed[1], alone[1])  # up to 8 pixels the first style
    assert (mixed[0] - alone[0]).abs().max() > 1e-4
    with pytest.raises(BadParameter, match="a style for each side"):
        network.draw([one], *read)


def test_a_score_for_each_pair_of_sides():
    network = discriminator()
    tokens, mask, pooled = text()
    pictures = generator()(torch.randn(3, 6), tokens, mask, pooled)
    # 16 is scored after 8 and 4, and 8 after 4
    assert network(pictures, pooled).shape == (3, 3)
    assert discriminator(reads=(16,), scores=(4,))(pictures, pooled).shape == (1, 3)


def test_without_the_largest_pictures_the_others_have_the_scores_that_they_had():
    network = discriminator(scores=(4,)).eval()  # a row for 16, a row for 8
    _, _, pooled = text()
    x = torch.randn(3, 3, 16, 16)
    small = nn.functional.adaptive_avg_pool2d(x, 8)
    pictures = network.pyramid(small)
    assert [one.shape[-1] for one in pictures] == [8]
    torch.testing.assert_close(network(pictures, pooled), network(network.pyramid(x), pooled)[1:])
    with pytest.raises(BadParameter, match="all but the largest"):
        network([x], pooled)


def test_a_score_depends_on_its_own_picture_and_text_alone():
    network = discriminator().eval()
    _, _, pooled = text()
    pictures = network.pyramid(torch.randn(3, 3, 16, 16))
    scores = network(pictures, pooled)
    torch.testing.assert_close(network([x[1:] for x in pictures], pooled[1:]), scores[:, 1:])
    assert (network(pictures, pooled.flip(0))[:, 0] - scores[:, 0]).abs().max() > 1e-4
    torch.testing.assert_close(discriminator(conditional=False)(pictures, pooled),
                               discriminator(conditional=False)(pictures, pooled.flip(0)))


def test_several_texts_are_scored_as_one_by_one_and_the_pictures_are_looked_at_once():
    network = discriminator().eval()
    _, _, pooled = text()
    pictures = network.pyramid(torch.randn(3, 3, 16, 16))
    looks = []
    network.blocks[0].register_forward_hook(lambda module, inputs, output: looks.append(len(output)))
    own, wrong = network.scores(pictures, [pooled, pooled.flip(0)])
    assert looks == [3]
    torch.testing.assert_close(own, network(pictures, pooled))
    torch.testing.assert_close(wrong, network(pictures, pooled.flip(0)))


def test_work_grows_linearly_with_the_sides_that_are_read():
    torch.manual_seed(0)
    rows = []
    for reads in ((64,), (64, 32), (64, 32, 16), (64, 32, 16, 8)):
        network = GigaDiscriminator(widths=(8,) * 5, reads=reads, scores=(4,), attention=(), text_dim=12)
        seen = []
        for block in network.blocks:
            block.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(len(inputs[0])))
        network(network.pyramid(torch.randn(2, 3, 64, 64)), torch.randn(2, 12))
        rows.append(seen)
    assert rows == [[2, 2, 2, 2], [2, 4, 4, 4], [2, 4, 6, 6], [2, 4, 6, 8]]


def test_sides_that_do_not_fit_are_refused():
    with pytest.raises(BadParameter, match="one number for each side"):
        GigaGenerator(image_size=32, widths=(8, 8))
    with pytest.raises(BadParameter, match="begin with image_size"):
        discriminator(reads=(8,))
    with pytest.raises(BadParameter, match="scores must be among"):
        discriminator(scores=(2,))
    with pytest.raises(BadParameter, match="reads pictures of"):
        discriminator()([torch.zeros(1, 3, 16, 16)], torch.zeros(1, 12))


def test_a_checkpoint_draws_the_same(tmp_path):
    network = generator()
    save_model(tmp_path / "net", network, licence="MIT")
    z = torch.randn(3, 6)
    torch.testing.assert_close(load_model(GigaGenerator, tmp_path / "net")(z, *text())[0], network(z, *text())[0])


class TwoLayers(nn.Module):
    def forward(self, x, layers):
        return {"a": x.repeat(1, 2, 1, 1), "b": x[:, :, ::2, ::2]}


def test_frozen_features_are_scored_layer_by_layer_and_not_saved():
    network = FeatureDiscriminator(TwoLayers(), {"a": 6, "b": 3}, size=8, text_dim=12, hidden=4)
    _, _, pooled = text()
    x = torch.randn(3, 3, 16, 16, requires_grad=True)
    scores = network(x, pooled)
    assert scores.shape == (2, 3)
    scores.sum().backward()
    assert x.grad.abs().max() > 0
    assert not any("_network" in name for name in network.state_dict())
