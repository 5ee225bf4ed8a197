"""Errors that a user can act on: each names the thing, its value and the fix."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from a1_sgl.engine.protocol import Spent


class A1Error(Exception):
    """Base of all errors raised on purpose here. The command line prints it on stderr and exits with status 2."""


class ConfigError(A1Error, ValueError):
    """An option, file or argument that cannot be used."""


class RuntimeFault(A1Error, RuntimeError):
    """A runtime could not be reached, refused a request or answered without what was asked for."""


class RecordFault(A1Error):
    """A run's folder could not be written: the disk is full, say. What it held before is whole."""


class ChainAborted(A1Error):
    """A chain was stopped from outside before its end.

    `spent` is what the runtime accounted for the request that was under way, if it answered.
    """

    def __init__(self, message: str, spent: Spent | None = None) -> None:
        super().__init__(message)
        self.spent = spent


def why(error: Exception) -> str:
    """What is wrong, in one line: of what pydantic refuses the first field, else what was raised."""
    from pydantic import ValidationError  # conformal imports this module, and does without

    if not isinstance(error, ValidationError):
        return (str(error).splitlines() or [type(error).__name__])[0]
    first = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
