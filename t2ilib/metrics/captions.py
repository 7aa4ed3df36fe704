"""How close captions are to reference captions: BLEU, METEOR and ROUGE, each beside captions that cannot be right.

The scores are those of nltk and torchmetrics; here they get the same words, a name for their variant, and baselines.
Without a baseline none of them says anything: captions of one kind share most of their words whatever they are about.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .image import encode_pictures, nearest_neighbour
from ..data.phrases import with_article
from ..errors import BadParameter, MissingAsset
from ..media import to_unit

ORDERS = 4  # BLEU-1 to BLEU-4
SMOOTHING = "method 1 of Chen and Cherry 2014: 0.1 where a count is 0"
METEOR_WORDNET = "exact, stem, WordNet"
METEOR_PLAIN = "exact, stem"
ROUGE = ("rouge1", "rouge2", "rougeL")
SHUFFLED_CAPTIONS = "shuffled"  # labels of the rows of `caption_score_rows`
NEAREST_DRAWING = "nearest training drawing"


@dataclass(frozen=True)
class CaptionScores:
    """Scores of N captions against their references, each in [0, 1].

    Attributes:
        bleu: BLEU-1 to BLEU-4 over the whole corpus, smoothed as `SMOOTHING` says.
        meteor: mean over captions; `meteor_variant` says which matches count.
        rouge1, rouge2, rouge_l: mean F1 over captions.
        n: number of captions.
    """

    bleu: tuple[float, ...]
    meteor: float
    rouge1: float
    rouge2: float
    rouge_l: float
    meteor_variant: str
    n: int

    def row(self) -> dict[str, float]:
        """Return the scores as one row of a table."""
        names = [f"BLEU-{order}" for order in range(1, ORDERS + 1)]
        return {**dict(zip(names, self.bleu, strict=True)), "METEOR": self.meteor, "ROUGE-1": self.rouge1,
                "ROUGE-2": self.rouge2, "ROUGE-L": self.rouge_l}


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without accents and punctuation: what all scores compare."""
    plain = unicodedata.normalize("NFKD", text.lower())
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.findall(r"[a-z0-9]+", plain)


def caption_scores(captions: Sequence[str], references: Sequence[str | Sequence[str]], *,
                   wordnet: bool | None = None) -> CaptionScores:
    """Compare captions with their references.

    Args:
        captions: N texts. references: one or more texts for each of them.
        wordnet: whether METEOR also matches synonyms. None does where nltk's corpus `wordnet` is on this machine;
            nothing is downloaded.

    Raises:
        BadParameter: no captions, or other numbers of captions and references.
        MissingAsset: wordnet=True, and the corpus is not here.

    References:
        Papineni et al. 2002; Banerjee and Lavie 2005; Lin 2004.
    """
    listed = _as_lists(captions, references)
    synonyms = wordnet_corpus() if wordnet is not False else None
    if wordnet and synonyms is None:
        raise MissingAsset("nltk's corpus 'wordnet' is not on this machine; fetch it with `python -m nltk.downloader "
                           "wordnet`, or leave wordnet out for METEOR without synonyms")
    said = [words(caption) for caption in captions]
    wanted = [[words(reference) for reference in texts] for texts in listed]
    rouge = _rouge(said, wanted)
    variant = METEOR_PLAIN if synonyms is None else METEOR_WORDNET
    return CaptionScores(_bleu(said, wanted), _meteor(said, wanted, synonyms), rouge["rouge1"], rouge["rouge2"],
                         rouge["rougeL"], variant, len(said))


def _as_lists(captions: Sequence[str], references: Sequence[str | Sequence[str]]) -> list[list[str]]:
    """Return the references of each caption as a list, after checking them."""
    if not len(captions) or len(captions) != len(references):
        raise BadParameter(f"got {len(captions)} captions and references for {len(references)}; give each caption one "
                           "or more references")
    listed = [[texts] if isinstance(texts, str) else list(texts) for texts in references]
    if not all(listed):
        raise BadParameter("a caption has no reference; give each one or more")
    return listed


def _bleu(said: list[list[str]], wanted: list[list[list[str]]]) -> tuple[float, ...]:
    from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

    smooth = SmoothingFunction().method1
    scores = []
    for order in range(1, ORDERS + 1):
        weights = (1 / order,) * order
        scores.append(float(corpus_bleu(wanted, said, weights=weights, smoothing_function=smooth)))
    return tuple(scores)


class _NoSynonyms:
    """Stands for WordNet where it is absent or not asked for."""

    def synsets(self, word: str) -> list[Any]:
        return []


@functools.cache
def wordnet_corpus() -> Any:
    """Return nltk's WordNet if its corpus is on this machine, else None; nothing is downloaded."""
    import nltk

    for place in ("corpora/wordnet", "corpora/wordnet.zip"):
        try:
            nltk.data.find(place)
        except LookupError:
            continue
        from nltk.corpus import wordnet

        return wordnet
    return None


def _meteor(said: list[list[str]], wanted: list[list[list[str]]], synonyms: Any) -> float:
    from nltk.translate.meteor_score import meteor_score

    total = 0.0
    for caption, texts in zip(said, wanted, strict=True):
        total += meteor_score(texts, caption, wordnet=synonyms or _NoSynonyms())
    return total / len(said)


def _rouge(said: list[list[str]], wanted: list[list[list[str]]]) -> dict[str, float]:
    """Return the mean F1 of each kind; of several references the best counts."""
    from torchmetrics.functional.text import rouge_score

    captions = [" ".join(caption) for caption in said]
    references = [[" ".join(text) for text in texts] for texts in wanted]
    scores = rouge_score(captions, references, accumulate="best", rouge_keys=ROUGE)
    return {kind: float(scores[f"{kind}_fmeasure"]) for kind in ROUGE}


def shuffled_scores(captions: Sequence[str], references: Sequence[str | Sequence[str]], *,
                    generator: torch.Generator, shuffles: int = 10, wordnet: bool | None = None) -> CaptionScores:
    """Return the mean scores of captions that are compared with the references of others: the number to beat.

    In each shuffle every caption gets references that are not its own. Where several captions have the same references,
    such as those of pictures drawn with several seeds, all of them get the same other ones.

    Args:
        captions, references, wordnet: as in `caption_scores`. generator: on the CPU. shuffles: how many.

    Raises:
        BadParameter: fewer than two different references.
    """
    listed = [tuple(texts) for texts in _as_lists(captions, references)]
    different = list(dict.fromkeys(listed))
    if len(different) < 2:
        raise BadParameter("captions of one reference alone cannot be shuffled; give two or more different references")
    place = {texts: i for i, texts in enumerate(different)}
    found = []
    for _ in range(shuffles):
        order = torch.randperm(len(different), generator=generator)
        partner = torch.empty_like(order)
        partner[order] = order.roll(1)  # a circle through all of them, in which nobody is its own partner
        others = [different[int(partner[place[texts]])] for texts in listed]
        found.append(caption_scores(captions, others, wordnet=wordnet))
    return mean_scores(found)


def nearest_captions(encoder: Any, pictures: Tensor, data: Any, *, batch_size: int = 128) -> list[str]:
    """Return the caption of the drawing of a set that looks most alike, for each picture.

    It is what a captioner could say that only looks pictures up.

    Args:
        encoder: with `.encode_image`, such as `load_clip("emoji-clip")`; it decides what looks alike.
        data: captioned pictures, those that the captioner learned from.

    Shapes:
        pictures: (B, 3, H, W) in [0, 1]
    """
    bank = []
    for rows in torch.arange(len(data)).split(batch_size):
        bank.append(encode_pictures(encoder, to_unit(data.batch(rows))))
    features = encode_pictures(encoder, pictures, batch_size=batch_size)  # (B, D)
    _, nearest = nearest_neighbour(features, torch.cat(bank))
    return [with_article(data.captions[row]) for row in nearest.tolist()]


def caption_score_rows(captions: Sequence[str], references: Sequence[str | Sequence[str]], nearest: Sequence[str], *,
                       generator: torch.Generator, shuffles: int = 10, label: str = "captions",
                       wordnet: bool | None = None) -> dict[str, dict[str, float]]:
    """Return the rows of a table: captions against their references, and the two baselines that belong beside them.

    Args:
        captions, references, wordnet: as in `caption_scores`. nearest: from `nearest_captions`, for the same pictures.
        generator, shuffles: of `shuffled_scores`. label: of the first row.

    Returns:
        `label`, `SHUFFLED_CAPTIONS` and `NEAREST_DRAWING` -> scores by name.
    """
    shuffled = shuffled_scores(captions, references, generator=generator, shuffles=shuffles, wordnet=wordnet)
    return {label: caption_scores(captions, references, wordnet=wordnet).row(), SHUFFLED_CAPTIONS: shuffled.row(),
            NEAREST_DRAWING: caption_scores(nearest, references, wordnet=wordnet).row()}


def mean_scores(scores: Sequence[CaptionScores]) -> CaptionScores:
    """Return the mean of several scores of equally many captions."""
    count = len(scores)
    bleu = tuple(sum(orders) / count for orders in zip(*[score.bleu for score in scores], strict=True))
    means = {}
    for name in ("meteor", "rouge1", "rouge2", "rouge_l"):
        means[name] = sum(getattr(score, name) for score in scores) / count
    return CaptionScores(bleu=bleu, **means, meteor_variant=scores[0].meteor_variant, n=scores[0].n)
