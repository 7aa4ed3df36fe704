"""Helpers around a training loop that stays visible: steps, Fabric, batches, averages, rates, resuming, trackers."""

from .adversarial import GanRule, critic_step, gan_step, generator_step, gradient_norm
from .averaging import EMA, recalibrate_batch_norm
from .batches import Batches
from .diffusion_step import DiffusionBatch, DiffusionTraining, draw_diffusion_batch
from .fabric import average_gradients, make_fabric
from .history import History
from .schedule import Every, cosine_lr, set_lr
from .shipping import checkpoint_home, keep_previous
from .state import load_training, save_training
from .trackers import make_tracker

__all__ = ["EMA", "Batches", "DiffusionBatch", "DiffusionTraining", "Every", "GanRule", "History", "average_gradients",
           "checkpoint_home", "cosine_lr", "critic_step", "draw_diffusion_batch", "gan_step", "generator_step",
           "gradient_norm", "keep_previous", "load_training", "make_fabric", "make_tracker", "recalibrate_batch_norm",
           "save_training", "set_lr"]
