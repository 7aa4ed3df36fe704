"""A cascade of text-conditional diffusion networks in pixels: a small picture first, then larger ones from it.

Ho et al. 2022, "Cascaded diffusion models"; Saharia et al. 2022, "Photorealistic text-to-image diffusion models"
(Imagen). A super-resolution network sees the smaller picture enlarged and noised, so that it also mends what the stage
before got wrong: `low_resolution_condition` is that step, in training and in sampling.
"""

from .cascade import Cascade, CascadePreview
from .clip_guidance import ClipGuidance
from .latents import LatentSpace
from .pictures import (
                       downsample,
                       draw_low_resolution_condition,
                       enlarge,
                       low_resolution_condition,
                       random_crop_pairs,
)
from .sampling import Sampling
from .stage import Stage
from ..encoders import TextCondition, mix_conditions

__all__ = ["Cascade", "CascadePreview", "ClipGuidance", "LatentSpace", "Sampling", "Stage", "TextCondition",
           "downsample", "draw_low_resolution_condition", "enlarge", "low_resolution_condition",
           "mix_conditions", "random_crop_pairs"]
