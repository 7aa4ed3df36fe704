"""A panel of CLIP models: what each says of a picture, with the ones that guided it marked and kept from judging.

A CLIP that a method climbed on answers with a high cosine whatever the picture shows; other CLIPs, asked for the rank
of the prompt among other texts, are harder to please, and say more where they agree.
"""

import csv
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .alignment import paired_similarity, retrieval_ranks
from ..errors import BadParameter, check_name

COLUMNS = ("picture", "prompt", "member", "role", "cosine", "rank", "of", "weights")
GUIDE, JUDGE, REPORTED = "guide", "judge", "reported"


@dataclass(frozen=True)
class PanelTable:
    """What a panel said: a row for each picture and member, and aggregates over the judges alone.

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
        names = {role: list(dict.fromkeys(e["member"] for e in self.entries if e["role"] == role))
                 for role in (JUDGE, GUIDE)}
        return {"judges": names[JUDGE], "guides": names[GUIDE], "n": len(judged),
                "median_rank": float(statistics.median(e["rank"] for e in judged)) if judged else None,
                "chance_rank": statistics.fmean((e["of"] + 1) / 2 for e in judged) if judged else None,
                "agreement": self.agreement, "agreement_n": self.agreement_n}

    def with_reported(self, source: str, cosines: Mapping[str, float]) -> "PanelTable":
        """Return the table with numbers that somebody else published: prompt -> cosine, in no aggregate.

        Example:
            table.with_reported("a paper, ViT-B/32, 500 steps", {"a red apple": 0.4})
        """
        blank = dict.fromkeys(COLUMNS) | {"member": source, "role": REPORTED, "weights": ""}
        added = tuple(blank | {"prompt": prompt, "cosine": float(cosine)} for prompt, cosine in cosines.items())
        return replace(self, entries=self.entries + added)

    def to_text(self, *, width: int = 40) -> str:
        """Return an aligned table followed by the aggregates; prompts and names are shortened to `width` signs."""
        lines = [[_cell(entry[column], width) for column in COLUMNS] for entry in self.entries]
        lines.insert(0, list(COLUMNS))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        right = {"picture", "cosine", "rank", "of"}
        table = ["  ".join(cell.rjust(w) if name in right else cell.ljust(w) for cell, w, name in
                           zip(line, widths, COLUMNS, strict=True)).rstrip() for line in lines]
        return "\n".join([*table, "", *self._closing()])

    def _closing(self) -> list[str]:
        s = self.summary()
        if not s["judges"]:
            return ["no judge: every member guided, and the guide never judges"]
        lines = [f"median rank of the judges {s['median_rank']:g} (chance {s['chance_rank']:g}, n = {s['n']} ranks)"]
        if s["agreement"] is None:
            lines.append("agreement of the judges: none, it takes two")
        else:
            lines.append(f"agreement of the judges {s['agreement']:.2f} (mean Spearman correlation of their orders of "
                         f"the texts, n = {s['agreement_n']})")
        if s["guides"]:
            lines.append(f"left out of both, because the guide never judges: {', '.join(s['guides'])}")
        return [*lines, "cosines compare within one member only: every CLIP has its own scale"]

    def to_csv(self, path: str | Path) -> Path:
        """Write the rows as CSV, with a header, and return the path; missing values are empty."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as f:
            writer = csv.DictWriter(f, COLUMNS)
            writer.writeheader()
            writer.writerows(self.entries)
        return path


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
    others = list({_plain(text): text for text in distractors}.values())
    candidates = {p: [p, *(text for text in others if _plain(text) != _plain(p))] for p in prompts}
    if lonely := [p for p, texts in candidates.items() if len(texts) == 1]:
        raise BadParameter(f"distractors: none is left for {lonely[0]!r}; a rank needs at least one other text")
    with torch.no_grad():
        views = squared(images)
        said = {name: _ask(member, views, [candidates[p] for p in prompts], batch_size)
                for name, member in members.items()}
    entries = tuple(
        {"picture": i, "prompt": prompt, "member": name, "role": GUIDE if name in guiding else JUDGE,
         "cosine": scores[i][0].item(), "rank": ranks[i], "of": len(candidates[prompt]),
         "weights": (getattr(members[name], "sha256", "") or "")[:12]}
        for i, prompt in enumerate(prompts) for name, (scores, ranks) in said.items())
    return PanelTable(entries, *_agreement([scores for name, (scores, _) in said.items() if name not in guiding]))


def squared(images: Tensor) -> Tensor:
    """Centre pictures on a square of their longer side, filled with the median colour of their outermost pixels.

    Shapes:
        (B, C, H, W) -> (B, C, S, S), S = max(H, W)
    """
    (height, width), side = images.shape[-2:], max(images.shape[-2:])
    if height == width:
        return images
    edges = [images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]]
    colour = torch.cat(edges, dim=-1).median(dim=-1).values
    canvas = colour[..., None, None].repeat(1, 1, side, side)
    top, left = (side - height) // 2, (side - width) // 2
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


def _plain(text: str) -> str:
    return text.strip().casefold()


def _guiding(members: Mapping[str, Any], guides: Sequence[str]) -> set[str]:
    """Return the guides' names and those of members that are the same network, or hold the same weights."""
    for name in guides:
        check_name("guide on the panel", name, members)
    objects = {id(members[name]) for name in guides}
    weights = {sha for name in guides if (sha := getattr(members[name], "sha256", ""))}
    return {name for name, m in members.items() if id(m) in objects or getattr(m, "sha256", "") in weights}


def _ask(member: Any, views: Tensor, candidates: list[list[str]], batch_size: int) -> tuple[list[Tensor], list[int]]:
    """Return for each picture its cosines to its candidates, the first of which is its prompt, and that one's rank."""
    texts = list(dict.fromkeys(text for listed in candidates for text in listed))
    said = dict(zip(texts, member.encode_text(texts).float().cpu(), strict=True))
    seen = torch.cat([member.encode_image(part).float().cpu() for part in views.split(batch_size)])
    scores, ranks = [], []
    for picture, listed in zip(seen[:, None], candidates, strict=True):
        features = torch.stack([said[text] for text in listed])
        scores.append(paired_similarity(picture, features))
        ranks.append(int(retrieval_ranks(picture, features, [0])))
    return scores, ranks


def _agreement(judges: list[list[Tensor]]) -> tuple[float | None, int]:
    """Return the mean Spearman correlation between judges, each a list of scores per picture, and its n."""
    orders = [[_centred_ranks(scores) for scores in judge] for judge in judges]
    found = [float(a @ b) for one, other in combinations(orders, 2) for a, b in zip(one, other, strict=True)]
    return (statistics.fmean(found), len(found)) if found else (None, 0)


def _centred_ranks(scores: Tensor) -> Tensor:
    """Return ranks, equal scores sharing their mean rank, with mean 0 and norm 1: products are Spearman correlations.

    Scores that are not numbers rank last.
    """
    _, place, count = scores.double().nan_to_num(nan=-2.0).unique(return_inverse=True, return_counts=True)
    ranks = (count.cumsum(0) - (count - 1) / 2)[place].double()
    return F.normalize(ranks - ranks.mean(), dim=0)


def _cell(value: Any, width: int) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    text = " ".join(str(value).split())
    return text if len(text) <= width else text[:width - 1] + "…"
