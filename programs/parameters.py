"""Parameters of programs: what one may be, and the one place where values are held against that.

A program says it where it says the default: ``turns: Count = 15``. Any annotation that pydantic knows will do; without
one, a value must be of the default's kind. It is the same for values from Python, ``--set``, a recipe or a task.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import ConfigDict, Field, PydanticUserError, TypeAdapter, ValidationError

from a1_sgl.errors import ConfigError, wanted, wrong

Count = Annotated[int, Field(ge=1)]
"""How many or how long, at least one."""
Number = Annotated[int, Field(ge=0)]
"""How many or how often; 0 is none."""
Share = Annotated[float, Field(ge=0, le=1)]
TakeOver = Literal["continue", "replace"]
"""What becomes of a chunk that is handed over: the target goes on after it, or writes it anew."""

_KINDS = (bool, int, float, str, tuple, list)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a program.

    Attributes:
        name: its name.
        default: what it is unless told otherwise.
        kind: its annotation, or the default's type where it has none.
    """

    name: str
    default: Any
    kind: Any

    def take(self, value: Any) -> Any:
        """The value as the program gets it: a list as its default has it, a tuple or a list.

        Raises:
            ConfigError: it is of another kind or out of range.
        """
        if isinstance(self.default, tuple | list) and isinstance(value, tuple | list):
            value = type(self.default)(value)
        try:
            return self._adapter.validate_python(value, strict=True)
        except ValidationError as error:
            found = error.errors()[0]
            place = ".".join(map(str, (self.name, *found["loc"])))
            if (words := wanted(found)) is None:
                raise ConfigError(f"{place}: {wrong(found)}") from error
            raise ConfigError(f"{place} must be {words}, such as {self.default!r}, not {value!r}") from error

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        try:
            return TypeAdapter(self.kind, config=ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True))
        except PydanticUserError:  # a model, which has a configuration of its own
            return TypeAdapter(self.kind)


def parameters(function: Callable[..., Any], names: list[str]) -> dict[str, Parameter]:
    """Those of a function's parameters that are named, in that order.

    Raises:
        ConfigError: one has no default, or an annotation that says nothing.
    """
    given = inspect.signature(function).parameters

    def own() -> None: ...

    own.__annotations__ = {
        name: given[name].annotation for name in names if given[name].annotation is not inspect.Parameter.empty
    }
    try:
        hints = get_type_hints(own, getattr(function, "__globals__", {}), include_extras=True)
    except Exception as error:  # whatever the text of an annotation raises
        raise ConfigError(f"the annotation of a parameter cannot be read: {error}") from error
    found = {}
    for name in names:
        if (default := given[name].default) is inspect.Parameter.empty:
            raise ConfigError(f"its parameter {name} needs a default")
        kind = type(default) if type(default) in _KINDS else Any
        found[name] = Parameter(name, default, hints.get(name, kind))
    return found
