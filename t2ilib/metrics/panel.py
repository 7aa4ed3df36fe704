"""A panel of CLIP models that score pictures; those that guided a picture are marked and do not judge it.

A CLIP that a method optimised for gives a high cosine whatever the picture shows. Other CLIPs, asked for the rank of
the prompt among other texts, are harder to please, and where they agree their answer is worth more.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .alignment import paired_similarity, retrieval_ranks
from .image import encode_pictures
from ..errors import BadParameter, check_name

COLUMNS = ("picture", "prompt", "member", "role", "cosine", "rank", "of", "weights")
NUMBERS = ("picture", "cosine", "rank", "of")  # columns that are aligned to the right
GUIDE = "guide"
JUDGE = "judge"
REPORTED = "reported"


@dataclass(frozen=True)
class PanelTable:
    """The answers of a panel: a row for each picture and member, and aggregates over the judges alone.

    There is no mean cosine over members: every CLIP has a scale of its own, and 0.3 may be much for one and little for
    another. Compare cosines within one member, ranks across members.

    Attributes:
        entries: the rows; see `rows`.
        agreement: mean Spearman correlation between two judges' orders of the texts, over all pictures and pairs of
            judges, in [-1, 1]; a judge whose scores are all equal orders nothing and agrees with nobody (0). None with
            fewer than two judges.
        agreement_n: number of correlations averaged, pictures times pairs of judges.
    """

    entries: tuple[dict[str, Any], ...]
    agreement: float | None = None
    agreement_n: int = 0

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows as dicts of plain types.

        picture (index, None for a reported number), prompt, member, role ("guide", "judge" or "reported"), cosine,
        rank (1 is best) of so many texts, weights (first digits of the weight file's SHA-256, "" if unknown).
        """
        return [dict(entry) for entry in self.entries]

    def summary(self) -> dict[str, Any]:
        """Return the aggregates over judges: median_rank, the chance_rank of random scores, and n, their number of
        ranks; judges and guides, the members' names; agreement and agreement_n. Without a judge they are None.
        """
        judged = [entry for entry in self.entries if entry["role"] == JUDGE]
        median_rank = chance_rank = None
        if judged:
            median_rank = float(statistics.median(entry["rank"] for entry in judged))
            chance_rank = statistics.fmean((entry["of"] + 1) / 2 for entry in judged)
        return {"judges": self._members(JUDGE), "guides": self._members(GUIDE), "n": len(judged),
                "median_rank": median_rank, "chance_rank": chance_rank,
                "agreement": self.agreement, "agreement_n": self.agreement_n}

    def _members(self, role: str) -> list[str]:
        names = [entry["member"] for entry in self.entries if entry["role"] == role]
        return list(dict.fromkeys(names))

    def with_reported(self, source: str, cosines: Mapping[str, float]) -> "PanelTable":
        """Return the table with numbers that somebody else published: prompt -> cosine, in no aggregate.

        Example:
            table.with_reported("a paper, ViT-B/32, 500 steps", {"a red apple": 0.4})
        """
        entries = list(self.entries)
        for prompt, cosine in cosines.items():
            entries.append({"picture": None, "prompt": prompt, "member": source, "role": REPORTED,
                            "cosine": float(cosine), "rank": None, "of": None, "weights": ""})
        return replace(self, entries=tuple(entries))

    def to_text(self, *, width: int = 40) -> str:
        """Return an aligned table followed by the aggregates; prompts and names are shortened to `width` signs."""
        columns = []
        for name in COLUMNS:
            cells = [name, *(_cell(entry[name], width) for entry in self.entries)]
            columns.append(_aligned(cells, right=name in NUMBERS))
        lines = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
        return "\n".join([*lines, "", *self.summary_lines()])

    def summary_lines(self) -> list[str]:
        """Return the aggregates as sentences."""
        summary = self.summary()
        if not summary["judges"]:
            return ["no judge: every member guided, and the guide never judges"]
        lines = [f"median rank of the judges {summary['median_rank']:g} (chance {summary['chance_rank']:g}, "
                 f"n = {summary['n']} ranks)"]
        if summary["agreement"] is None:
            lines.append("agreement of the judges: none, it takes two")
        else:
            lines.append(f"agreement of the judges {summary['agreement']:.2f} (mean Spearman correlation of their "
                         f"orders of the texts, n = {summary['agreement_n']})")
        if summary["guides"]:
            lines.append(f"left out of both, because the guide never judges: {', '.join(summary['guides'])}")
        lines.append("cosines compare within one member only: every CLIP has its own scale")
        return lines


def panel(images: Tensor, prompts: Sequence[str], members: Mapping[str, Any], *, distractors: Sequence[str],
          guides: Sequence[str] = (), batch_size: int = 32) -> PanelTable:
    """Ask every member how well each picture shows its prompt, and for the prompt's rank among other texts.

    Pictures that are not square are shown whole, on the colour of their border. The rank is strict, as in
    `retrieval_ranks`: a text with the same score counts as ahead of the prompt.

    Args:
        images: pictures in [0, 1].
        prompts: one for each picture.
        members: name -> a CLIP with `encode_image` (pictures in [0, 1] of any size) and `encode_text` (list of texts).
        distractors: the other texts; those equal to the prompt but for case and outer blanks are left out. Leave out
            what means the same as a prompt.
        guides: names of the members that guided these pictures. A member with the weights of one of them is a guide
            too.
        batch_size: pictures at a time.

    Shapes:
        images (B, 3, H, W), B prompts, M members -> B x M rows

    Raises:
        BadParameter: wrong shapes, ranges or counts; no members; no distractor left for a prompt.
        UnknownName: a guide that is no member.
    """
    _check(images, prompts, members, distractors)
    guiding = _guiding(members, [guides] if isinstance(guides, str) else guides)
    candidates = [_candidates(prompt, distractors) for prompt in prompts]
    with torch.no_grad():
        views = squared(images)
        answers = {name: _ask(member, views, candidates, batch_size) for name, member in members.items()}
    entries = []
    for i, prompt in enumerate(prompts):
        for name, member in members.items():
            scores, ranks = answers[name]
            entries.append({
                "picture": i, "prompt": prompt, "member": name, "role": GUIDE if name in guiding else JUDGE,
                "cosine": scores[i][0].item(), "rank": ranks[i], "of": len(candidates[i]),
                "weights": _sha256(member)[:12]})
    judging = [scores for name, (scores, _) in answers.items() if name not in guiding]
    agreement, agreement_n = _agreement(judging)
    return PanelTable(tuple(entries), agreement, agreement_n)


def squared(images: Tensor) -> Tensor:
    """Centre pictures on a square of their longer side, filled with the median colour of their outermost pixels.

    Shapes:
        (B, C, H, W) -> (B, C, S, S), S = max(H, W)
    """
    height, width = images.shape[-2:]
    if height == width:
        return images
    side = max(height, width)
    edges = [images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]]
    colour = torch.cat(edges, dim=-1).median(dim=-1).values  # (B, C)
    canvas = colour[..., None, None].repeat(1, 1, side, side)  # (B, C, S, S)
    top = (side - height) // 2
    left = (side - width) // 2
    canvas[..., top:top + height, left:left + width] = images
    return canvas


def _check(images: Tensor, prompts: Sequence[str], members: Mapping[str, Any], distractors: Sequence[str]) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or not len(images):
        raise BadParameter(f"images: got {tuple(images.shape)} {images.dtype}, expected (B, 3, H, W) floats in [0, 1]")
    if images.min() < -1e-3 or images.max() > 1 + 1e-3:
        raise BadParameter(f"images: values from {images.min():.3g} to {images.max():.3g}, expected [0, 1]; pictures "
                           "in [-1, 1] need (x + 1) / 2")
    if isinstance(prompts, str) or isinstance(distractors, str):
        raise BadParameter("prompts and distractors are lists of texts, got a text; put it in [...]")
    if len(prompts) != len(images):
        raise BadParameter(f"{len(images)} pictures need {len(images)} prompts, got {len(prompts)}")
    if not members:
        raise BadParameter("members: got none; give at least one, as {'ViT-B-32/openai': load_clip('ViT-B-32/openai')}")


def _candidates(prompt: str, distractors: Sequence[str]) -> list[str]:
    """Return the prompt and the texts that compete with it, each once but for case and outer blanks."""
    others = {_plain(text): text for text in distractors}
    others.pop(_plain(prompt), None)
    if not others:
        raise BadParameter(f"distractors: none is left for {prompt!r}; a rank needs at least one other text")
    return [prompt, *others.values()]


def _plain(text: str) -> str:
    return text.strip().casefold()


def _sha256(member: Any) -> str:
    """Return the hash of a member's weights, "" where it does not know it."""
    return getattr(member, "sha256", "") or ""


def _guiding(members: Mapping[str, Any], guides: Sequence[str]) -> set[str]:
    """Return the guides' names and those of members that are the same network, or hold the same weights."""
    for name in guides:
        check_name("guide on the panel", name, members)
    networks = {id(members[name]) for name in guides}
    weights = {_sha256(members[name]) for name in guides} - {""}
    guiding = set()
    for name, member in members.items():
        if id(member) in networks or _sha256(member) in weights:
            guiding.add(name)
    return guiding


def _ask(member: Any, views: Tensor, candidates: list[list[str]], batch_size: int) -> tuple[list[Tensor], list[int]]:
    """Return for each picture its cosines to its candidates, of which the first is its prompt, and the prompt's rank.

    Shapes:
        views: (B, 3, S, S), B lists of candidates
    """
    texts: dict[str, None] = {}  # as an ordered set: a member reads each text once
    for competing in candidates:
        texts.update(dict.fromkeys(competing))
    text_features = dict(zip(texts, member.encode_text(list(texts)).float().cpu(), strict=True))
    image_features = encode_pictures(member, views, batch_size=batch_size)
    scores = []
    ranks = []
    for picture, competing in zip(image_features[:, None], candidates, strict=True):
        features = torch.stack([text_features[text] for text in competing])  # (number of candidates, D)
        scores.append(paired_similarity(picture, features))
        ranks.append(int(retrieval_ranks(picture, features, [0])))
    return scores, ranks


def _agreement(judges: list[list[Tensor]]) -> tuple[float | None, int]:
    """Return the mean Spearman correlation between judges, each a list of scores per picture, and its n."""
    correlations = []
    for one, other in combinations(judges, 2):
        for a, b in zip(one, other, strict=True):
            correlations.append(float(_centred_ranks(a) @ _centred_ranks(b)))
    if not correlations:
        return None, 0
    return statistics.fmean(correlations), len(correlations)


def _centred_ranks(scores: Tensor) -> Tensor:
    """Return ranks, equal scores sharing their mean rank, with mean 0 and norm 1: products are Spearman correlations.

    Scores that are not numbers rank last.
    """
    _, place, count = scores.double().nan_to_num(nan=-2.0).unique(return_inverse=True, return_counts=True)
    mean_ranks = count.cumsum(0) - (count - 1) / 2  # of each different score
    ranks = mean_ranks[place].double()
    return F.normalize(ranks - ranks.mean(), dim=0)


def _aligned(cells: list[str], *, right: bool) -> list[str]:
    """Return the cells of a column, padded to the widest."""
    width = max(map(len, cells))
    return [cell.rjust(width) if right else cell.ljust(width) for cell in cells]


def _cell(value: Any, width: int) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    text = " ".join(str(value).split())
    return text if len(text) <= width else text[:width - 1] + "…"
