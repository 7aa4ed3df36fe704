"""Metrics: how close pictures are to other pictures, and to their prompts."""

from .alignment import (bootstrap_interval, chance_level, mean_reciprocal_rank, paired_similarity, retrieval_ranks,
                        synonym_mask, top_k)
from .image import kid, mmd2, nearest_neighbour, psnr, ssim
from .panel import PanelTable, panel

__all__ = ["PanelTable", "bootstrap_interval", "chance_level", "kid", "mean_reciprocal_rank", "mmd2",
           "nearest_neighbour", "paired_similarity", "panel", "psnr", "retrieval_ranks", "ssim", "synonym_mask",
           "top_k"]
