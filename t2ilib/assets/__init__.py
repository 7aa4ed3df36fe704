"""Named weights and data: the catalogue of what there is, a careful download into a cache, and what pip brings."""

from .cache import find
from .catalogue import CATALOGUE, Asset, AssetFile, get
from .download import fetch
from .packaged import PACKAGED, PackagedWeights, find_packaged, packaged_file
from .reach import hub_or_cache

__all__ = ["CATALOGUE", "PACKAGED", "Asset", "AssetFile", "PackagedWeights", "fetch", "find", "find_packaged", "get",
           "hub_or_cache", "packaged_file"]
