"""Deep compression (Han et al. 2016, arXiv:1510.00149): pruning, shared weights, Huffman codes, and a file of them."""

from . import huffman
from .packed import Sizes, load_packed, pack, packed_sizes, read_packed, save_packed
from .pruning import Pruning, compressible, gradual_sparsity, magnitude_masks
from .shared_weights import SharedTensor, SharedWeights, kmeans_1d, share

__all__ = ["Pruning", "SharedTensor", "SharedWeights", "Sizes", "compressible", "gradual_sparsity", "huffman",
           "kmeans_1d",
           "load_packed", "magnitude_masks", "pack", "packed_sizes", "read_packed", "save_packed", "share"]
