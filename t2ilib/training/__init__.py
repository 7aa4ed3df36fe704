"""Helpers around a training loop that stays visible: steps, Fabric, batches, averages, rates, resuming, trackers."""

from .adversarial import GanRule, critic_step, gan_step, generator_step, gradient_norm
from .autoencoder_step import VQVAETraining
from .averaging import EMA, recalibrate_batch_norm
from .batches import Batches
from .code_step import CodeBatch, CodeTraining, bits_per_code, draw_code_batch
from .copies import Copies
from .diffusion_step import DiffusionBatch, DiffusionTraining, draw_diffusion_batch
from .fabric import average_gradients, make_fabric
from .feed_forward_step import CodeGeneratorTraining, GeneratorBatch, draw_generator_batch
from .guided_generator import GuidedBatch, GuidedTerms, GuidedTraining, embedding_distance, random_views
from .history import History
from .loop import TrainingLoop
from .network_training import NetworkTraining
from .schedule import Every, cosine_lr, set_lr
from .shipping import (
    check_trained_on,
    checkpoint_home,
    keep_previous,
    peak_rate,
    pictures_seen,
    seen_before,
    take_weights,
    training_folder,
)
from .state import load_training, save_training
from .trackers import make_tracker

__all__ = ["EMA", "Batches", "CodeBatch", "CodeGeneratorTraining", "CodeTraining", "Copies", "DiffusionBatch",
           "DiffusionTraining", "Every", "GanRule", "GeneratorBatch", "GuidedBatch", "GuidedTerms", "GuidedTraining",
           "History", "NetworkTraining", "TrainingLoop", "VQVAETraining", "average_gradients", "bits_per_code",
           "check_trained_on", "checkpoint_home", "cosine_lr", "critic_step", "draw_code_batch", "draw_diffusion_batch",
           "draw_generator_batch", "embedding_distance", "gan_step", "generator_step", "gradient_norm", "keep_previous",
           "load_training", "make_fabric", "make_tracker", "peak_rate", "pictures_seen", "random_views",
           "recalibrate_batch_norm", "save_training", "seen_before", "set_lr", "take_weights", "training_folder"]
