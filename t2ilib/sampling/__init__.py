"""Drawing codes: from logits, by networks that predict them, and from words to pictures."""

from .decoders import CodesSoFar, sample_autoregressive, sample_masked
from .guided import CausalNetwork, GuidedLogits, MaskedNetwork
from .logits import GUIDANCE_SCHEDULES, LogitSampling, draw_codes, filter_logits, log_probability
from .painter import CodePainter, CodesPreview, Painted

__all__ = ["GUIDANCE_SCHEDULES", "CausalNetwork", "CodePainter", "CodesPreview", "CodesSoFar", "GuidedLogits",
           "LogitSampling", "MaskedNetwork", "Painted", "draw_codes", "filter_logits", "log_probability",
           "sample_autoregressive", "sample_masked"]
