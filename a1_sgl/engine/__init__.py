"""Runtimes: what A1 needs of one, SGLang over HTTP, several behind one contract, and a fake for tests."""

from typing import TYPE_CHECKING

from a1_sgl.engine.codec import Codec
from a1_sgl.engine.fleet import Fleet
from a1_sgl.engine.loop import aside, ended, stack, submit, wait
from a1_sgl.engine.protocol import (
    NOWHERE,
    Capabilities,
    Engine,
    Generation,
    Identity,
    Ids,
    Limits,
    Request,
    Route,
    Scores,
    Served,
    Spent,
)
from a1_sgl.engine.scope import Scope
from a1_sgl.lazy import lazy

if TYPE_CHECKING:
    from a1_sgl.engine.sglang import SGLang
    from a1_sgl.engine.transport import Settings

lazy(__name__, {"SGLang": "sglang", "Settings": "transport"})  # they need aiohttp

__all__ = [
    "NOWHERE",
    "Capabilities",
    "Codec",
    "Engine",
    "Fleet",
    "Generation",
    "Identity",
    "Ids",
    "Limits",
    "Request",
    "Route",
    "SGLang",
    "Scope",
    "Scores",
    "Served",
    "Settings",
    "Spent",
    "aside",
    "ended",
    "stack",
    "submit",
    "wait",
]
