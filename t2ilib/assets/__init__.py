"""Named weights and data: the catalogue of what there is, and a careful download into a cache."""

from .cache import find
from .catalogue import CATALOGUE, Asset, AssetFile, get
from .download import fetch

__all__ = ["CATALOGUE", "Asset", "AssetFile", "fetch", "find", "get"]
