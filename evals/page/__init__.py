"""Results as one HTML file that needs no other, and as pictures."""

from a1_sgl.evals.page.figures import COLOURS, Draw, Shown, labels, legend, look, rates, sheet, swept
from a1_sgl.evals.page.write import save

__all__ = ["COLOURS", "Draw", "Shown", "labels", "legend", "look", "rates", "save", "sheet", "swept"]
