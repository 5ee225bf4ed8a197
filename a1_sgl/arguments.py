"""What callers in Python hand in: paths as text or as such, and things of the kind that is meant."""

from __future__ import annotations

import os
from inspect import isasyncgenfunction, iscoroutinefunction
from pathlib import Path

from a1_sgl.errors import ConfigError

StrPath = str | os.PathLike[str]
"""Where a path is meant."""


def path(given: StrPath, what: str) -> Path:
    """The path, of `what`.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(given, str | os.PathLike):
        raise ConfigError(f"{what} is a path, as text or as a pathlib.Path, not {given!r}")
    return Path(given)


def check_kind(given: object, kind: type, what: str, such: str) -> None:
    """Refuses what is no `kind`, where `such` would be one.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(given, kind):
        raise ConfigError(f"{what} is a {kind.__name__}, such as {such}, not {given!r}")


def check_listener(given: object) -> None:
    """Refuses a listener that cannot be called, or that nobody would await.

    Raises:
        ConfigError: it is one of these.
    """
    if not callable(given):
        raise ConfigError(f"a listener is a function of an event, such as print, not {given!r}")
    if any(is_(one) for is_ in (iscoroutinefunction, isasyncgenfunction) for one in (given, type(given).__call__)):
        raise ConfigError(
            f"a listener is called and not awaited, so it must not be `async`, as {given!r} is; "
            "`async for event in program.astream(...)` is for code that awaits"
        )
