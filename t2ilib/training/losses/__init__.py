"""Loss functions; a loss that needs a network takes it, or its outputs, as an argument."""

from .distillation import (
                  affinity_loss,
                  contrastive_loss,
                  cosine_loss,
                  distillation_loss,
                  embedding_mse,
)
from .gan import (
                  adaptive_weight,
                  generator_score_loss,
                  gradient_penalty,
                  hinge_critic_loss,
                  logistic_critic_loss,
                  nonsaturating_generator_loss,
                  relativistic_loss,
                  saturating_generator_loss,
                  squared_gradients,
                  wasserstein_critic_loss,
                  zero_centred_penalty,
)
from .layers import EqualisedLoss, LayerLoss, load_lpips
from .perceptual import feature_loss, lite_distance

__all__ = ["EqualisedLoss", "LayerLoss", "adaptive_weight", "affinity_loss", "contrastive_loss", "cosine_loss",
           "distillation_loss", "embedding_mse", "feature_loss", "generator_score_loss", "gradient_penalty",
           "hinge_critic_loss", "lite_distance", "load_lpips", "logistic_critic_loss", "nonsaturating_generator_loss",
           "relativistic_loss", "saturating_generator_loss", "squared_gradients", "wasserstein_critic_loss",
           "zero_centred_penalty"]
