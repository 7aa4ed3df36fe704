"""Candidates: several pictures of one text, of which CLIPs that guide choose the best."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .clip import Clip


class GuideScore:
    """The mean similarity of pictures to their texts by several guides, by which candidates are chosen.

    Args:
        guides: CLIPs that may guide. batch_size: pictures that they see at a time.

    Attributes:
        scores: (M,) of the M pictures that were asked for last, on the CPU; empty before.
    """

    def __init__(self, guides: Sequence[Clip], batch_size: int):
        self.guides = guides
        self.batch_size = batch_size
        self.scores = torch.zeros(0)

    def __call__(self, pictures: Tensor, texts: list[Any]) -> Tensor:
        similarities = []
        for guide in self.guides:
            similarities.append(guide.similarity(pictures, texts, batch_size=self.batch_size).cpu())
        self.scores = torch.stack(similarities).mean(0)
        return self.scores


def best_candidates(pictures: Tensor, scores: Tensor, candidates: int) -> Tensor:
    """Return of each text the picture with the highest score: (B * candidates, ...), (B * candidates,) -> (B, ...)."""
    scores = scores.view(-1, candidates).to(pictures.device)  # (B, candidates)
    first_rows = candidates * torch.arange(len(scores), device=pictures.device)
    return pictures[first_rows + scores.argmax(1)]
