"""Text encoders, CLIP models and the judge, one interface for each."""

from .clip import Clip
from .clips_by_name import embedded_clips, load_clip, load_judge
from .conditions import TextCache, TextCondition, TextConditioner, batch_conditions, mix_conditions
from .emoji_clip import EmojiClip
from .text import TextEncoder, TextFeatures, load_text_encoder

__all__ = ["Clip", "EmojiClip", "TextCache", "TextCondition", "TextConditioner", "TextEncoder", "TextFeatures",
           "batch_conditions", "embedded_clips", "load_clip", "load_judge", "load_text_encoder", "mix_conditions"]
