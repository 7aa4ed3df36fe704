"""Data sets: pictures with captions, digits."""

from t2ilib.data.captioned import CaptionedImages, load_captioned
from t2ilib.data.digits import DigitImages, load_digits

__all__ = ["CaptionedImages", "DigitImages", "load_captioned", "load_digits"]
