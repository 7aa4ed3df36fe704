"""Every method on the same prompts and seeds, under one judge: what notebook 10 measures and shows.

`PromptSet` says what is drawn, `draw_entry` draws it and goes on where it was interrupted, `Scorer` makes a row of
numbers of it, and `places` says which rows can be told apart.
"""

from .baselines import Baselines, NearestNames
from .cost import Cost, measure_cost
from .entries import Drawn, Entry, draw_entry
from .places import paired_differences, places
from .prompts import FREE, ORIGINAL, PromptSet
from .scores import Scorer

__all__ = ["FREE", "ORIGINAL", "Baselines", "Cost", "Drawn", "Entry", "NearestNames", "PromptSet", "Scorer",
           "draw_entry", "measure_cost", "paired_differences", "places"]
