"""Guidance: VQGAN+CLIP from small parts that also work alone."""

from .augment import AUGMENTATIONS, Augmentations
from .config import GuidanceConfig
from .cutout_methods import CUTOUT_METHODS, CutoutMethod, draw_method
from .cutouts import CutoutParameters, apply_cutouts, draw_cutouts, warp, whole_picture
from .films import interpolate_latents, interpolate_prompts, zoom
from .latents import Basis, FreeLatents, Prior, SubspaceLatents
from .loop import Preview, Result, vqgan_clip
from .noise import noise_picture
from .objective import Guides, frozen, render
from .ops import LatentEMA, clamp_with_grad, replace_grad, resample, straight_through, total_variation, z_bounds
from .prompts import Prompt, load_prompts, parse_prompt, parse_prompts
from .speed import fast, memory_estimate
from .targets import Targets, embed_prompts, prompt_loss, spherical_distance

__all__ = [
    "AUGMENTATIONS", "Augmentations", "Basis", "CUTOUT_METHODS", "CutoutMethod", "CutoutParameters", "FreeLatents",
    "GuidanceConfig", "Guides", "LatentEMA", "Preview", "Prior", "Prompt", "Result", "SubspaceLatents", "Targets",
    "apply_cutouts", "clamp_with_grad", "draw_cutouts", "draw_method", "embed_prompts", "fast",
    "frozen", "interpolate_latents", "interpolate_prompts", "load_prompts", "memory_estimate",
    "noise_picture", "parse_prompt", "parse_prompts", "prompt_loss", "render", "replace_grad",
    "resample", "spherical_distance", "straight_through", "total_variation", "vqgan_clip", "warp", "whole_picture",
    "z_bounds", "zoom",
]
