"""Results as one HTML file that needs no other, and as pictures."""

from a1_sgl.evals.page.figures import COLOURS, Shown, rates, swept
from a1_sgl.evals.page.write import save

__all__ = ["COLOURS", "Shown", "rates", "save", "swept"]
