"""Drawing codes: from logits, by networks that predict them, and from words to pictures."""

from .decoders import CodesSoFar, sample_autoregressive, sample_masked
from .evidence import CodeEvidence
from .gan_painter import LOOKUP_NOISE, GanPainter
from .guided import CausalNetwork, GuidedLogits, MaskedNetwork
from .logits import GUIDANCE_SCHEDULES, LogitSampling, draw_codes, filter_logits, log_probability
from .one_pass import ANY_STYLE, LOOKUP_SHARPNESS, OnePassPainter
from .painter import CodePainter, CodesPreview, Painted

__all__ = ["ANY_STYLE", "GUIDANCE_SCHEDULES", "CausalNetwork", "CodeEvidence", "CodePainter", "CodesPreview",
           "CodesSoFar", "GanPainter", "GuidedLogits", "LOOKUP_NOISE", "LOOKUP_SHARPNESS", "LogitSampling",
           "MaskedNetwork", "OnePassPainter", "Painted", "draw_codes", "filter_logits", "log_probability",
           "sample_autoregressive", "sample_masked"]
