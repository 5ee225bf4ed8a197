"""The library's programs."""

from __future__ import annotations

from importlib import import_module

from a1_sgl.programs import NAMES
from a1_sgl.programs.contract import Program

PROGRAMS: dict[str, Program] = {name: getattr(import_module(f"a1_sgl.programs.{name}"), name) for name in NAMES}
"""The library's programs by name."""
