"""Test-time scaling with a draft and a target model on SGLang, gated by conformal p-values."""

__version__ = "0.1.0"
