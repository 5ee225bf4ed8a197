"""What a file of programs declares, read from its text and not run, since importing SGLang takes seconds."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from a1_sgl.errors import ConfigError
from a1_sgl.programs import NAMES
from a1_sgl.registry import headline


@dataclass(frozen=True)
class Outline:
    """What `Program` says of itself: its name, a line about it, its own parameters, whether it needs a pair,
    and whether its chains depend on each other."""

    name: str
    about: str
    own: tuple[str, ...]
    takes_over: bool
    joint: bool


def library() -> list[Outline]:
    """The library's programs."""
    return [one for name in NAMES for one in outlines(Path(__file__).with_name(f"{name}.py"))]


def outlines(file: Path) -> list[Outline]:
    """The programs that `file` declares with ``@program(...)``.

    Raises:
        ConfigError: it cannot be read, or is no Python.
    """
    found = []
    for function, call in _decorated(file, "program"):
        given = {one.arg: getattr(one.value, "value", None) for one in call.keywords}
        arguments = [one.arg for one in (*function.args.args, *function.args.kwonlyargs)]
        about = headline(ast.get_docstring(function))
        own = arguments[2 if given.get("gate", "none") == "none" else 3 :]
        flags = (given.get(name) is True for name in ("takes_over", "joint"))
        found.append(Outline(function.name, about, tuple(own), *flags))
    return found


def registered(file: Path, kind: str) -> list[str]:
    """The names that `file` gives with ``@score("name", ...)`` or another decorator of that `kind`. Errors as above."""
    names = [
        call.args[0].value for _, call in _decorated(file, kind) if call.args and isinstance(call.args[0], ast.Constant)
    ]
    return [name for name in names if isinstance(name, str)]


def _decorated(file: Path, by: str) -> list[tuple[ast.FunctionDef, ast.Call]]:
    """Its functions below a call of that name, and the call."""
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{file}:{getattr(error, 'lineno', None) or 1} is no Python: {error}") from error
    return [
        (function, call)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for call in function.decorator_list
        if isinstance(call, ast.Call) and (getattr(call.func, "id", None) or getattr(call.func, "attr", None)) == by
    ]
