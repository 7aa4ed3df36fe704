"""Data sets: pictures with captions, digits, faces."""

from .captioned import CaptionedImages, load_captioned, load_with_validation
from .digits import DigitImages, load_digits
from .faces import load_faces

__all__ = ["CaptionedImages", "DigitImages", "load_captioned", "load_digits", "load_faces",
           "load_with_validation"]
