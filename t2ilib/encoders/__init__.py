"""Text encoders, CLIP models, the judge, and eyes that have seen photographs: one interface for each."""

from .blip import Blip, load_blip
from .clip import Clip
from .clips_by_name import embedded_clips, load_clip, load_judge
from .conditions import TextCache, TextCondition, TextConditioner, batch_conditions, mix_conditions
from .efficientnet_lite import EfficientNetLite, load_efficientnet_lite
from .emoji_clip import EmojiClip
from .perceptual import PerceptualNetwork, load_perceptual, perceptual_networks
from .photo_clip import PhotoClip
from .student_clip import StudentClip
from .text import TextEncoder, TextFeatures
from .texts_by_name import load_text_encoder

__all__ = ["Blip", "Clip", "EfficientNetLite", "EmojiClip", "PerceptualNetwork", "PhotoClip", "StudentClip",
           "TextCache", "TextCondition", "TextConditioner", "TextEncoder", "TextFeatures", "batch_conditions",
           "embedded_clips", "load_blip", "load_clip", "load_efficientnet_lite", "load_judge", "load_perceptual",
           "load_text_encoder", "mix_conditions", "perceptual_networks"]
