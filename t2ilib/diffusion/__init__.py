"""Diffusion: schedules and formulas, the samplers that go from noise to a picture, and guidance by a text.

Time t runs from 0 (data) to 1 (noise): x_t = alpha(t) x_0 + sigma(t) eps, with alpha^2 + sigma^2 = 1 and the log-SNR
log(alpha^2 / sigma^2), which falls with t and is all that a schedule is (Kingma et al. 2021, "Variational diffusion
models", eq. 2 to 4). A network predicts eps, x_0, or v = alpha eps - sigma x_0 (Salimans and Ho 2022, "Progressive
distillation", eq. 11). Functions that take no schedule or target use the cosine schedule and v.
"""

from .formulas import (
                       TARGETS,
                       THRESHOLDS,
                       WEIGHTINGS,
                       diffusion_loss,
                       loss_weight,
                       posterior,
                       pseudo_huber,
                       q_sample,
                       stratified_times,
                       threshold_x0,
                       to_x0_eps,
                       training_target,
                       upper_quantile,
                       v_of_residual,
)
from .noise import check_generators, noise_for, split_generator
from .samplers import SAMPLERS, get_sampler, keep_known, sample_ancestral, sample_ddim, sample_dpm_solver
from .schedule import (
                       COSINE,
                       SCHEDULES,
                       Schedule,
                       alpha_sigma,
                       cosine_log_snr,
                       linear_log_snr,
                       per_picture,
                       resolution_shift,
)
from .text_guidance import Denoiser, null_condition, with_guidance

__all__ = ["COSINE", "SAMPLERS", "SCHEDULES", "TARGETS", "THRESHOLDS", "WEIGHTINGS", "Denoiser", "Schedule",
           "alpha_sigma", "check_generators", "cosine_log_snr", "diffusion_loss", "get_sampler", "keep_known",
           "linear_log_snr", "loss_weight", "noise_for", "null_condition", "per_picture", "posterior",
           "pseudo_huber", "q_sample", "resolution_shift", "sample_ancestral", "sample_ddim", "sample_dpm_solver",
           "split_generator", "stratified_times", "threshold_x0", "to_x0_eps", "training_target", "upper_quantile",
           "v_of_residual", "with_guidance"]
