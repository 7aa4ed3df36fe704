"""A small BLIP in training: its batches, its losses by hand, and that it learns, goes on and agrees with itself."""

import pytest
import torch
from torch.nn import functional as F

from t2ilib.checkpoint import load_model
from t2ilib.data import load_captioned
from t2ilib.data.hard_pairs import partner_rows
from t2ilib.encoders.emoji_blip import END, NOT_LEARNT, BlipPieces, EmojiBlip, pad_rows, tokens_of
from t2ilib.encoders.emoji_clip import EmojiClip
from t2ilib.encoders.minilm import load_minilm
from t2ilib.media import to_signed
from t2ilib.paths import checkpoints_dir
from t2ilib.training import make_fabric
from t2ilib.training.blip_step import (
    BlipTexts,
    BlipTraining,
    CaptionTraining,
    TextTraining,
    caption_labels,
    contrastive_loss,
    distillation_loss,
    draw_blip_batch,
    match_loss,
    reduced,
)
from t2ilib.training.blip_texts import blip_texts, caption_tokens, random_phrases, start_stem, start_words


@pytest.fixture(scope="module")
def data():
    return load_captioned("emoji", split="train", image_size=32, limit=24)


def small_texts(data, width=32, phrases=4):
    """The texts of a training with random targets in the place of MiniLM's."""
    names = sorted(set(data.columns["name"]))
    forms = [[text, f"an emoji of {text}"] for text in data.captions]
    listed = sorted({text for row in forms for text in row}) + [f"two {i} words" for i in range(phrases)]
    tokens = tokens_of(listed)
    pieces = BlipPieces(tokens)
    place = {text: i for i, text in enumerate(listed)}
    targets = F.normalize(torch.randn(len(listed), width, generator=torch.Generator().manual_seed(0)), dim=-1)
    captions = [[4, *row[1:]] for row in pieces(data.captions)]
    concepts = [names.index(name) for name in data.columns["name"]]
    name_of = {concept: place[text] for concept, text in zip(concepts, data.captions, strict=True)}
    texts = BlipTexts(pieces(listed), targets, torch.tensor([[place[t] for t in row] for row in forms]), captions, 1,
                      torch.tensor(concepts), torch.tensor([name_of[i] for i in range(len(names))]),
                      torch.arange(len(listed) - phrases, len(listed)))
    return texts, tokens


def small_network(tokens, seed=0):
    torch.manual_seed(seed)
    return EmojiBlip(vocabulary=len(tokens) + 5, width=32, heads=2, vision_layers=1, text_layers=1, channels=[8, 8, 16],
                     positions=40, image_size=32, dropout=0.0)


def draw(data, texts, seed=0, phrases=3, names=5, **share):
    return draw_blip_batch(torch.arange(4), partner_rows(data), texts, torch.Generator().manual_seed(seed),
                           draw_pictures=lambda rows, _: data.batch(rows), phrases=phrases, names=names,
                           **share)


def test_a_batch_brings_partners_of_other_concepts_in_the_same_words(data):
    texts, _ = small_texts(data)
    batch = draw(data, texts)
    assert batch.x.shape == (8, 3, 32, 32) and len(batch.text.ids) == 8 + 3 + 5 == len(batch.targets)
    assert (batch.concepts[:4] != batch.concepts[4:]).all()
    with_article = batch.text.ids[:8, 1] == batch.text.ids[0, 1]
    assert torch.equal(with_article[:4], with_article[4:]) or len(set(map(tuple, batch.text.ids[:, 1:3].tolist()))) > 2
    assert batch.labels.shape == batch.captions.ids.shape
    again = draw(data, texts)
    assert torch.equal(batch.text.ids, again.text.ids)
    assert len(draw(data, texts, phrases=0, names=0).text.ids) == 8
    named = texts.rows[texts.names[batch.named[-1]]]
    assert batch.text.ids[-1, :len(named)].tolist() == list(named)


def test_labels_are_the_next_tokens_after_the_prompt():
    ids = torch.tensor([[4, 10, 11, 20, 21, END], [4, 10, 11, 22, END, 0]])
    labels = caption_labels(ids, prompt=3)
    no = NOT_LEARNT
    assert labels.tolist() == [[no, no, 20, 21, END, no], [no, no, 22, END, no, no]]


def test_losses_by_hand():
    images = F.normalize(torch.randn(3, 8), dim=-1)
    words = F.normalize(torch.randn(3, 8), dim=-1)
    names = F.normalize(torch.randn(4, 8), dim=-1)
    named = torch.tensor([3, 2, 1, 0])
    concepts = torch.tensor([0, 2, 0])  # the first and the third show the same
    found = contrastive_loss(images, words, torch.tensor(5.0), concepts, names, named)
    total = 0.0
    for i in range(3):
        rivals = [j for j in range(3) if j == i or concepts[j] != concepts[i]]
        texts = [5 * images[i] @ words[j] for j in rivals]
        others = [5 * images[i] @ names[j] for j in range(4) if named[j] != concepts[i]]
        pictures = [5 * images[j] @ words[i] for j in rivals]
        right = 5 * images[i] @ words[i]
        total -= right - torch.logsumexp(torch.stack(texts + others), 0)
        total -= right - torch.logsumexp(torch.stack(pictures), 0)
    torch.testing.assert_close(found, total / 6, rtol=1e-4, atol=1e-4)
    logits = torch.tensor([[0.0, 2.0], [3.0, 0.0]])  # the first belongs and is believed, the second does not
    expected = (F.softplus(torch.tensor(-2.0)) + F.softplus(torch.tensor(-3.0))) / 2
    torch.testing.assert_close(match_loss(logits), expected)
    assert distillation_loss(images, 3 * images).item() == pytest.approx(0, abs=1e-6)


def test_reduced_features_keep_angles_where_they_can():
    low = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    features = low @ torch.randn(5, 40, generator=torch.Generator().manual_seed(1)) + 3
    found = reduced(features, 5)
    centred = F.normalize(features - features.mean(0), dim=-1)
    torch.testing.assert_close(found @ found.T, centred @ centred.T, rtol=1e-3, atol=1e-4)


def test_a_training_learns_its_batch_and_goes_on_bit_for_bit(data):
    texts, tokens = small_texts(data)
    batch = draw(data, texts)

    def train(steps, network=None, training=None):
        network = network or small_network(tokens)
        training = training or BlipTraining(network, make_fabric(), learning_rate=3e-3)
        losses = []
        for _ in range(steps):
            losses.append(training.step(batch).item())
        return network, training, losses

    network, training, losses = train(30)
    assert losses[-1] < 0.7 * losses[0]
    assert set(training.losses) == {"contrast", "match", "write", "distil"}
    assert set(training.parts()) == {"net", "ema", "optimizer"}
    half_network, half, _ = train(15)
    other, rest, _ = train(0, small_network(tokens, seed=1))
    for name, part in half.parts().items():
        rest.parts()[name].load_state_dict(part.state_dict())
    train(15, other, rest)
    for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_weights_of_zero_leave_a_loss_out(data):
    texts, tokens = small_texts(data)
    network = small_network(tokens)
    training = BlipTraining(network, make_fabric(), contrast=0, match=0, distil=0)
    training.optimizer.zero_grad()
    training.loss(draw(data, texts)).backward()
    assert network.retrieval.itm_head.weight.grad is None
    assert network.decoder_bias.grad is not None


def test_the_text_encoder_learns_alone(data):
    texts, tokens = small_texts(data)
    network = small_network(tokens)
    training = TextTraining(network, make_fabric(), learning_rate=3e-3)
    batch = (pad_rows(texts.rows), texts.targets)
    losses = [training.step(batch).item() for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


def test_batch_norm_keeps_its_statistics_while_training(data):
    texts, tokens = small_texts(data)
    network = small_network(tokens).train()
    before = network.stem.trunk.bn1.running_mean.clone()
    network.image_states(to_signed(torch.rand(4, 3, 32, 32)))
    assert torch.equal(network.stem.trunk.bn1.running_mean, before) and network.training


def test_phrases_are_made_of_words_of_the_table():
    tokens = tokens_of(["zebra crossing", "unbelievably"])
    phrases = random_phrases(tokens, 20, torch.Generator().manual_seed(0))
    assert len(phrases) == 20
    known = {"a", "with", "in", "an", "emoji", "of", "zebra", "crossing", "picture"}
    for phrase in phrases:
        assert set(phrase.replace(":", "").replace(",", "").split()) <= known | {"unbelievably"}


def test_writing_alone_is_the_same_loss_and_is_learnt(data):
    texts, tokens = small_texts(data)
    network = small_network(tokens)
    batch = draw(data, texts)
    all_tasks = BlipTraining(network, make_fabric())
    all_tasks.loss(batch)
    training = CaptionTraining(network, make_fabric(), learning_rate=3e-3)
    assert training.loss(batch).item() == pytest.approx(all_tasks.losses["write"], rel=1e-5)
    losses = [training.step(batch).item() for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]
    assert training.ema.model.network.captioning is not network.captioning


def test_words_and_stem_begin_with_what_others_learnt(data):
    tokens = caption_tokens(data)
    network = EmojiBlip(vocabulary=len(tokens) + 5, width=96, vision_layers=1, text_layers=1)
    start_words(network, tokens)
    start_stem(network)
    minilm, _ = load_minilm()
    words = minilm.embeddings["word_embeddings"].weight[torch.tensor(tokens)]
    words = F.normalize(words - words.mean(0), dim=-1)
    ours = network.retrieval.text_encoder.embeddings.word_embeddings.weight[5:]
    ours = F.normalize(ours, dim=-1)
    both = torch.stack([(words @ words.T).flatten(), (ours @ ours.T).flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.8
    tower = load_model(EmojiClip, checkpoints_dir() / "emoji-clip-b").visual.trunk
    assert torch.equal(network.stem.trunk.layer3[1].conv2.weight, tower.layer3[1].conv2.weight)


def test_texts_of_a_set(data):
    tokens = caption_tokens(data)
    pieces = BlipPieces(tokens)
    texts = blip_texts(data, pieces, None, phrases=["a zebra of glass"])
    assert texts.matching.shape == (24, 7) and texts.targets.shape[1] == 0
    assert pieces.decode(texts.captions[0]).startswith("a picture of ")
    for row in range(24):
        name = texts.rows[texts.names[texts.concepts[row]]]
        assert pieces.decode(texts.captions[row]) == f"a picture of {pieces.decode(name)}"
    assert len(texts.phrases) == 1 and 1 not in texts.rows[0]
    assert 1 in texts.rows[int(texts.phrases[0])]  # a word beyond the table


def test_processes_share_the_pairs_of_one_batch(data):
    texts, _ = small_texts(data)
    whole = draw(data, texts)
    parts = [draw(data, texts, rank=rank, world_size=2) for rank in range(2)]
    for rank, part in enumerate(parts):
        rows = torch.tensor([rank, rank + 2, rank + 4, rank + 6])
        assert torch.equal(part.x, whole.x[rows]) and torch.equal(part.concepts, whole.concepts[rows])
        assert torch.equal(part.named, whole.named)
        assert torch.equal(part.targets, torch.cat([whole.targets[rows], whole.targets[8:]]))
