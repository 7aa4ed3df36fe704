"""What a small BLIP learns to read and to say: captions of a set, further phrases, and the answers of a frozen encoder.

Also where its weights begin: words from MiniLM's table, and the stem from a guide's picture tower, as the original
begins with BERT and with a picture encoder of ImageNet.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from .blip_step import BlipTexts, reduced
from ..checkpoint import load_model, load_strict
from ..data.captioned import CaptionedImages
from ..data.captions import caption_variants
from ..data.phrases import with_article
from ..data.text_features import pool_texts
from ..encoders import load_text_encoder
from ..encoders.emoji_blip import BEGIN_CAPTION, PROMPT, BlipPieces, EmojiBlip, prompt_rows, tokens_of
from ..encoders.emoji_clip import EmojiClip
from ..encoders.minilm import WordPieces, load_minilm, minilm_folder
from ..paths import checkpoints_dir

KEYWORDS_ALONE = 6  # the variant that is made of keywords alone may fit a hard partner as well
PHRASE_FORMS = ("{}", "a {}", "{} {}", "a {} {}", "a {} with a {}", "a {} in {}", "an emoji of a {} {}", "{}: {}, {}")


def caption_tokens(data: CaptionedImages) -> list[int]:
    """Return the tokens of MiniLM that the captions of a set need, its keywords included: a table for `BlipPieces`."""
    texts = set()
    for variants in caption_variants(data):
        texts.update(variants)
    for keywords in data.columns.get("keywords", []):
        texts.update(keywords)
    return tokens_of(sorted(texts))


def random_phrases(tokens: Sequence[int], count: int, generator: torch.Generator) -> list[str]:
    """Return phrases of random words of a table, which mean little: they show a text encoder what each word does.

    Args:
        tokens: MiniLM's ids. count: how many. generator: on the CPU.
    """
    pieces = WordPieces(minilm_folder(check=False))
    words = [pieces.decode([token]) for token in tokens]
    words = [word for word in words if re.fullmatch("[a-z]{3,}", word)]
    phrases = []
    for _ in range(count):
        form = PHRASE_FORMS[int(torch.randint(len(PHRASE_FORMS), (), generator=generator))]
        picked = torch.randint(len(words), (form.count("{}"),), generator=generator).tolist()
        phrases.append(form.format(*[words[i] for i in picked]))
    return phrases


def blip_texts(data: CaptionedImages, pieces: BlipPieces, width: int | None, *, phrases: Sequence[str] = (),
               cache: str | Path | None = None, dtype: torch.dtype = torch.float32) -> BlipTexts:
    """Cut all texts of a training into tokens, and ask MiniLM about each of them once.

    Args:
        data: the pictures that are trained on. phrases: further texts.
        width: D of the targets; None asks no encoder, for a network that only writes.
        cache: folder that keeps MiniLM's features. dtype: in which it computes.
    """
    variants = caption_variants(data)
    names = sorted(set(data.columns.get("name", data.captions)))
    concept_of = {name: i for i, name in enumerate(names)}
    texts = list(dict.fromkeys([text for row in variants for text in row] + list(phrases)))
    place = {text: i for i, text in enumerate(texts)}
    matching = []
    for row in variants:
        matching.append([place[text] for number, text in enumerate(row) if number != KEYWORDS_ALONE])
    targets = torch.zeros(len(texts), 0)
    if width is not None:
        targets = reduced(pool_texts(load_text_encoder("minilm"), texts, cache=cache, dtype=dtype), width)
    prompt = pieces([PROMPT])[0]
    spoken = pieces([with_article(text) for text in data.captions])
    concepts = [concept_of[name] for name in data.columns.get("name", data.captions)]
    name_of = {concept: place[row[1]] for concept, row in zip(concepts, variants, strict=True)}
    return BlipTexts(rows=pieces(texts), targets=targets, matching=torch.tensor(matching),
                     captions=prompt_rows(spoken, prompt), prompt=len(prompt) - 1, concepts=torch.tensor(concepts),
                     names=torch.tensor([name_of[concept] for concept in range(len(names))]),
                     phrases=torch.tensor([place[text] for text in phrases], dtype=torch.long))


@torch.no_grad()
def start_words(network: EmojiBlip, tokens: Sequence[int]) -> None:
    """Give the token table the rows of MiniLM's, in as many principal components as the network is wide.

    Args:
        tokens: MiniLM's ids of the rows from 5 on, which the network keeps.
    """
    network.tokens.copy_(torch.tensor(tokens))
    minilm, _ = load_minilm()
    words = minilm.embeddings["word_embeddings"].weight[network.tokens.cpu()].float()  # (V - 5, 384)
    table = network.retrieval.text_encoder.embeddings.word_embeddings.weight  # (V, D)
    width = table.shape[1]
    centred = words - words.mean(0)
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -width:]  # (384, D)
    rows = centred @ directions
    table[BEGIN_CAPTION + 1:] = 0.02 / rows.std() * rows


def start_stem(network: EmojiBlip, name: str = "emoji-clip-b") -> None:
    """Give the stem the weights of the first stages of a shipped guide's picture tower.

    Raises:
        MissingAsset: no such checkpoint. CheckpointMismatch: its tower has another shape.
    """
    folder = checkpoints_dir() / name
    tower = load_model(EmojiClip, folder).visual.trunk
    state = {key: x for key, x in tower.state_dict().items() if not key.startswith("layer4.")}
    load_strict(network.stem.trunk, state, source=str(folder))
