"""Errors that a user can act on: each names the thing, its value and the fix."""

from __future__ import annotations

import reprlib
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

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


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def told(error: BaseException) -> str:
    """An error in one line; where it came through a file of the user's, with its last line there."""
    what = f"{type(error).__name__}: {' '.join(str(error).split())}" if str(error) else type(error).__name__
    if isinstance(error, A1Error):
        return what
    if isinstance(error, SyntaxError) and error.filename:  # it says the line itself, but not the whole path
        return f"{type(error).__name__}: {error.msg} ({_shown(error.filename)}:{error.lineno})"
    frames = [(frame.f_globals.get("__name__"), frame.f_code.co_filename, line)
              for frame, line in traceback.walk_tb(error.__traceback__)]  # fmt: skip
    users = [f"{what} ({_shown(file)}:{line})" for module, file, line in frames if _is_users(str(module), file)]
    return users[-1] if users else what


def _is_users(module: str, file: str) -> bool:
    return module.partition(".")[0] != "a1_sgl" and not file.startswith(("<", *_INSTALLED))


_INSTALLED = tuple({f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _shown(file: str) -> str:
    """A path from here, if it leads down."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


_WANTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"), "finite_number": "a finite number",
    "string_type": "text", **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "dataclass_type"), "a mapping"),
    "greater_than_equal": "at least {ge:.10g}", "greater_than": "above {gt:.10g}",
    "less_than_equal": "at most {le:.10g}", "less_than": "below {lt:.10g}", "literal_error": "{expected}",
    "union_tag_invalid": "one that has {discriminator} {expected_tags}",
}  # fmt: skip
"""What a value must be, by what pydantic finds wrong with it."""
_WRONG = {
    "missing": "is missing", "extra_forbidden": "is no field that there is",
    "json_invalid": "this is no JSON: {error}",
    "too_short": "must have at least {min_length} items, not {actual_length}",
    "too_long": "must have at most {max_length} items, not {actual_length}",
    "union_tag_not_found": "has no {discriminator}", "value_error": "{error}", "assertion_error": "{error}",
}  # fmt: skip
"""What is wrong, where that is not one value."""


def wanted(found: ErrorDetails) -> str | None:
    """What a value that pydantic refuses must be, in words that follow "must be"; None where there are none."""
    words = _WANTED.get(found["type"])
    return None if words is None else words.format(**found.get("ctx", {}))


def wrong(found: ErrorDetails) -> str:
    """What is wrong with a value that pydantic, or a validator of ours, refuses, in words that follow its name."""
    if (words := _WRONG.get(found["type"])) is not None:
        return words.format(**found.get("ctx", {}))
    value = reprlib.repr(found["input"])
    words = wanted(found)
    return f"{found['msg']}, not {value}" if words is None else f"must be {words}, not {value}"


def named(found: ErrorDetails, *under: str) -> str:
    """The same after the field's name, if it has one, below `under`."""
    name = ".".join(map(str, (*under, *found["loc"])))
    return f"{name}: {wrong(found)}" if name else wrong(found)


def why(error: Exception) -> str:
    """What is wrong, in one line: of what pydantic refuses the first field, else what was raised."""
    from pydantic import ValidationError  # conformal imports this module, and does without

    return named(error.errors()[0]) if isinstance(error, ValidationError) else first_line(error)
