"""Named weights and data: the catalogue, a careful download into a cache, and what pip or a bundle brings."""

from .bundled import BUNDLED, BundledWeights, bundled_file, bundled_in_place, find_bundled
from .cache import find
from .catalogue import CATALOGUE, Asset, AssetFile, get
from .download import fetch
from .packaged import PACKAGED, PackagedWeights, find_packaged, packaged_file
from .reach import hub_or_cache

__all__ = ["BUNDLED", "CATALOGUE", "PACKAGED", "Asset", "AssetFile", "BundledWeights", "PackagedWeights",
           "bundled_file", "bundled_in_place", "fetch", "find", "find_bundled", "find_packaged", "get", "hub_or_cache",
           "packaged_file"]
