"""Test-time scaling with a draft and a target model on SGLang, gated by conformal p-values.

Importing any part of it makes ``import sglang`` work on a machine without a GPU; see `a1_sgl.launch.cpu_engine`. In a
program of your own that uses both, import a1_sgl first.
"""

from a1_sgl.launch.cpu_engine import enable

__version__ = "0.1.0"

enable()
