"""A laboratory for text-to-image generation: models, guidance, kernels and the notebooks that teach them."""

__version__ = "0.1.0"
