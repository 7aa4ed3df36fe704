"""What a notebook shows: figures, contact sheets, tables, and widgets with a static fallback."""

from .diagrams import diagram
from .figures import clouds, compare, curves, film, grid, read_metrics, save, scatter
from .tables import Table, deviations, over_seeds
from .widgets import Live, gallery, slider
from ..media import contact_sheet, to_pil

__all__ = ["Live", "Table", "clouds", "compare", "contact_sheet", "curves", "deviations", "diagram", "film", "gallery",
           "grid", "over_seeds", "read_metrics", "save", "scatter", "slider", "to_pil"]
