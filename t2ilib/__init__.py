"""A laboratory for text-to-image generation: models, guidance, kernels and the notebooks that teach them.

Example:
    import t2ilib
    t2ilib.generate("a red heart")[0].save("heart.png")
"""

from typing import Any

from .waiting import choose_waiting

__version__ = "0.1.0"
__all__ = ["generate"]

choose_waiting()  # before anything imports torch


def __getattr__(name: str) -> Any:
    if name == "generate":  # imported when it is first asked for
        from .methods import generate

        return generate
    raise AttributeError(f"module 't2ilib' has no attribute {name!r}")
