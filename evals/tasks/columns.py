"""What a row must hold to be asked: checked once, when its benchmark is loaded and before any model runs."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from a1_sgl.errors import ConfigError, wrong
from a1_sgl.evals.tasks.rows import Row

LETTERS = "ABCDEFGHIJ"
"""What options are named by; graders know these."""
_SHOWN = 10
"""So many bad rows are named at most."""


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Fields(_Declared):
    """Columns of a row. A question's id, where no column holds one, is a hash of its text."""

    question: Annotated[tuple[str, ...], Field(min_length=1)] = ("problem", "question")
    """Names that the question's column may have; the first that there is."""
    answer: str | None = "answer"
    """None where there is nothing to grade by."""
    id: str | None = None
    level: str | None = None
    wrong: Annotated[tuple[str, ...], Field(max_length=len(LETTERS) - 1)] = ()
    """Columns of a multiple-choice question's wrong answers; `answer` is the right one's."""
    tolerance: str | None = None
    """Column of the largest absolute error that counts as right, where it holds one."""
    keep: tuple[str, ...] = ()
    """Columns to keep beside the question."""

    def asked(self, values: Mapping[str, Any]) -> str | None:
        """The question's column; None where there is none."""
        return next((one for one in self.question if one in values), None)


class LevelRange(_Declared):
    """Difficulties: what they count, the first and the last."""

    name: str
    first: int
    last: int

    @model_validator(mode="after")
    def _ordered(self) -> LevelRange:
        if self.first > self.last:
            raise ValueError(f"the first level must not be above the last, {self.first} above {self.last}")
        return self


@dataclass(frozen=True)
class Rules:
    """What a declaration asks of its rows beside their columns: levels, and what an answer comes after."""

    levels: LevelRange | None = None
    answer_after: str | None = None


def _text(value: Any, wanted: str = "text") -> str:
    if value is None:
        raise ValueError("there is none (it is missing or null or, in CSV, an empty cell, NA or None)")
    if not isinstance(value, str):
        raise ValueError(f"must be {wanted}, not {_short(value)}")
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _plain(value: Any) -> str:
    """Text, or a number as text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"must be a finite number, not {value}")
        return str(value)
    return _text(value, "text or a number").strip()


def _answer(value: Any) -> str:
    """One, or a list of those that are the answer together."""
    if isinstance(value, list) and value:
        return ", ".join(map(_plain, value))
    return _plain(None if value == [] else value)


def _number(value: Any) -> float:
    """A number, perhaps in text and after a word: MATH has ``Level 3``."""
    text = _plain(value)
    try:
        number = float(re.sub(r"^[A-Za-z ]+(?=[-+.\d])", "", text))
    except ValueError as error:
        raise ValueError(f"is no number: {_short(value)}") from error
    if not math.isfinite(number):
        raise ValueError(f"must be a finite number, not {_short(value)}")
    return number


def _level(value: Any) -> int:
    number = _number(value)
    if not number.is_integer():
        raise ValueError(f"must be a whole number, not {_short(value)}")
    return int(number)


def _tolerance(value: Any) -> float | None:
    """The largest, where there are several."""
    if value in (None, ""):
        return None
    found = [_number(one) for one in re.split(r"[,;\s]+", _plain(value))]
    if min(found) < 0:
        raise ValueError(f"must not be negative, as it is in {_short(value)}")
    return max(found)


class Checked(BaseModel):
    """A row that can be asked."""

    question: Annotated[str, BeforeValidator(_text)]
    answer: Annotated[str | None, BeforeValidator(_answer)] = None
    id: Annotated[str | None, BeforeValidator(_plain)] = None
    level: Annotated[int | None, BeforeValidator(_level)] = None
    wrong: tuple[Annotated[str, BeforeValidator(_plain)], ...] = ()
    tolerance: Annotated[float | None, BeforeValidator(_tolerance)] = None
    keep: Mapping[str, Any]

    @field_validator("answer")
    @classmethod
    def _after(cls, answer: str | None, info: ValidationInfo[Rules]) -> str | None:
        rules = info.context
        if answer is None or not rules.answer_after:
            return answer
        _, found, rest = answer.rpartition(rules.answer_after)
        if not found:
            raise ValueError(f"has no {rules.answer_after!r}")
        if not rest.strip():
            raise ValueError(f"has nothing after its last {rules.answer_after!r}")
        return rest.strip()

    @field_validator("level")
    @classmethod
    def _within(cls, level: int | None, info: ValidationInfo[Rules]) -> int | None:
        levels = info.context.levels
        if level is not None and levels is not None and not levels.first <= level <= levels.last:
            raise ValueError(f"must lie within {levels.first} to {levels.last}, not {level}")
        return level

    @field_validator("wrong")
    @classmethod
    def _distinct(cls, wrong: tuple[str, ...], info: ValidationInfo[Rules]) -> tuple[str, ...]:
        options = [info.data.get("answer"), *wrong]
        if twice := [one for one in wrong if options.count(one) > 1]:
            raise ValueError(f"two options are the same, {_short(twice[0])}")
        return wrong


def check(name: str, found: Sequence[Row], fields: Fields, rules: Rules) -> list[tuple[str, Checked]]:
    """The rows of task `name`, each with its place.

    Raises:
        ConfigError: a column is in none of them; or some cannot be asked, and each is named with its place, its column,
            and what is wrong.
    """
    rows = [row for row in found if row.wrong is None]
    there = {column for row in rows for column in row.values}
    wanted = {fields.asked(dict.fromkeys(there)) or fields.question[0], *fields.wrong, *fields.keep}
    wanted |= {one for one in (fields.answer, fields.id, fields.level, fields.tolerance) if one}
    if rows and (missing := sorted(wanted - there)):
        head = (
            f"task {name}: rows of {rows[0].place.rpartition(', ')[0]} have no {', '.join(missing)}; they have "
            f"{', '.join(sorted(there))}"
        )
        raise ConfigError(_listed(head, [f"{row.place}: {row.wrong}" for row in found if row.wrong is not None]))
    checked: list[tuple[str, Checked]] = []
    bad: list[str] = []
    for row in found:
        try:
            if row.wrong is not None:
                bad.append(f"{row.place}: {row.wrong}")
            else:
                checked.append((row.place, Checked.model_validate(_parts(row.values, fields), context=rules)))
        except ValidationError as error:
            bad.append(f"{row.place}: {'; '.join(_told(row.values, fields, one) for one in error.errors())}")
    if bad:
        raise ConfigError(_listed(f"task {name} has rows that cannot be asked", bad))
    return checked


def _listed(head: str, bad: Sequence[str]) -> str:
    """So many of them at most, a line each."""
    more = [f"and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
    return "\n  ".join([head, *bad[:_SHOWN], *more])


def _parts(values: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    columns = {part: column for part in ("answer", "id", "level", "tolerance") if (column := getattr(fields, part))}
    return {
        "question": values.get(fields.asked(values) or ""),
        **{part: values.get(column) for part, column in columns.items()},
        "wrong": tuple(values.get(column) for column in fields.wrong),
        "keep": {column: values.get(column) for column in fields.keep},
    }


def _short(value: Any) -> str:
    return reprlib.repr(value)


def _told(values: Mapping[str, Any], fields: Fields, error: ErrorDetails) -> str:
    part, *index = error["loc"]
    if part == "question":
        column = fields.asked(values) or " or ".join(fields.question)
    elif part == "wrong":
        column = ", ".join(fields.wrong[int(i)] for i in index) or ", ".join(
            filter(None, (fields.answer, *fields.wrong))
        )
    else:
        column = getattr(fields, str(part))
    return f"{column}: {wrong(error)}"
