"""The playground: a panel of widgets that draws pictures for a prompt, shows them as they come, and remembers them."""

from .controls import split_options
from .history import Drawn
from .panel import Playground

__all__ = ["Drawn", "Playground", "split_options"]
