"""Data sets: pictures with captions, digits."""

from .captioned import CaptionedImages, load_captioned
from .digits import DigitImages, load_digits

__all__ = ["CaptionedImages", "DigitImages", "load_captioned", "load_digits"]
