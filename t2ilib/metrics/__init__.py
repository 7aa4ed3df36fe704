"""Metrics: how close pictures are to other pictures, and to their prompts."""

from .alignment import (
    bootstrap_interval,
    chance_level,
    crossed_interval,
    jackknife_interval,
    paired_similarity,
    retrieval_ranks,
    synonym_mask,
    top_k,
    wilson_interval,
)
from .composition import composition, is_shown
from .image import (
    encode_pictures,
    frechet_distance,
    gaussian_frechet,
    kid,
    mean_kernel,
    mmd2,
    mmd2_without_each,
    nearest_neighbour,
    precision_recall,
    psnr,
    ssim,
)
from .modes import class_histogram, duplicate_rate, entropy, kl_to_data, modes_covered, nearest_distances, stacked_modes
from .pairing import Paired, compare_paired
from .panel import PanelTable, panel
from .separation import Separation, auc, separation
from .shape_parser import parse_shapes

__all__ = ["Paired", "PanelTable", "Separation", "auc", "bootstrap_interval", "chance_level", "class_histogram",
           "compare_paired", "composition", "crossed_interval", "duplicate_rate", "encode_pictures", "entropy",
           "frechet_distance", "gaussian_frechet", "is_shown", "jackknife_interval", "kid", "kl_to_data", "mean_kernel",
           "mmd2", "mmd2_without_each", "modes_covered", "nearest_distances", "nearest_neighbour", "paired_similarity",
           "panel", "parse_shapes", "precision_recall", "psnr", "retrieval_ranks", "separation", "ssim",
           "stacked_modes", "synonym_mask", "top_k", "wilson_interval"]
