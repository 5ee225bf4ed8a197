"""Test-time scaling with a draft and a target model on SGLang, gated by conformal p-values.

`a1_sgl.session` and `a1_sgl.programs`, which need SGLang, make ``import sglang`` work on a machine without a GPU; see
`a1_sgl.launch.cpu_engine`. In a program of your own that uses both, import them first.
"""

__version__ = "0.1.0"
