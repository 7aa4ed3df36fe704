"""Guidance: VQGAN+CLIP from small parts that also work alone."""

from .augment import AUGMENTATIONS, Augmentations
from .config import GuidanceConfig
from .cutout_methods import CUTOUT_METHODS, CutoutMethod, draw_method
from .cutout_parameters import CutoutParameters
from .cutouts import apply_cutouts, draw_cutouts, whole_picture
from .films import interpolate_latents, interpolate_prompts
from .flight import zoom
from .guides import Guides
from .latents import Basis, FreeLatents, SubspaceLatents
from .loop import Preview, Result, vqgan_clip
from .memory import memory_estimate
from .networks import frozen
from .noise import noise_picture
from .ops import LatentEMA, clamp_with_grad, slerp, total_variation, z_bounds
from .painting import Painter, render
from .prompts import Prompt, parse_prompt, parse_prompts
from .protocols import CodingNetwork, ImageTextModel, PaintingNetwork, Prior
from .speed import fast
from .targets import Targets, embed_prompts, prompt_loss, spherical_distance
from .warping import warp

__all__ = [
    "AUGMENTATIONS", "Augmentations", "Basis", "CUTOUT_METHODS", "CodingNetwork", "CutoutMethod", "CutoutParameters",
    "FreeLatents", "GuidanceConfig", "Guides", "ImageTextModel", "LatentEMA", "Painter", "PaintingNetwork", "Preview",
    "Prior", "Prompt", "Result", "SubspaceLatents", "Targets", "apply_cutouts", "clamp_with_grad", "draw_cutouts",
    "draw_method", "embed_prompts", "fast", "frozen", "interpolate_latents", "interpolate_prompts",
    "memory_estimate", "noise_picture", "parse_prompt", "parse_prompts", "prompt_loss", "render", "slerp",
    "spherical_distance", "total_variation", "vqgan_clip", "warp", "whole_picture", "z_bounds", "zoom",
]
