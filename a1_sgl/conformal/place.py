"""Places and categories: which chunk a score belongs to, and which chunks are alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Any, NamedTuple, cast


class Place(NamedTuple):
    """The name of a chunk: its question, chain (`sample`), turn and task, and which of the turn's draws it is.

    Samples, turns and attempts count from 0.
    """

    question: Hashable
    sample: int
    turn: int
    task: Hashable = ""
    attempt: int = 0


def hashable(place: Place) -> Place:
    """The place, or ValueError if it cannot name a chunk."""
    try:
        hash(place)
    except TypeError:
        raise ValueError(
            f"question, chain, turn and task of a chunk must be hashable, such as text or numbers, not {tuple(place)}"
        ) from None
    return place


Key = Callable[[Place], Hashable]
Category = str | tuple[str, ...] | Key


def key(category: Category) -> Key:
    """The function behind a category: ``"turn"``, ``("question", "turn")``, or any function of a `Place`.

    Raises:
        ValueError: a name that is no field of `Place`, or no name at all.
    """
    if callable(category):
        return category
    names = (category,) if isinstance(category, str) else tuple(category)
    if not names or any(name not in Place._fields for name in names):
        raise ValueError(
            f"unknown category {category!r}; it is made of {', '.join(Place._fields)}, or a function of a Place"
        )
    return attrgetter(*names)


class Passing:
    """The values of a category that belong to one question and go with it.

    A category that is no matter of questions, such as ``"turn"``, has none; nor has one that is a function, of which
    this cannot be known.
    """

    def __init__(self, category: Category) -> None:
        names = () if callable(category) else (category,) if isinstance(category, str) else tuple(category)
        self._at = names.index("question") if "question" in names else None
        self._alone = len(names) == 1
        self._of: dict[Hashable, set[Hashable]] = {}

    def note(self, value: Hashable) -> None:
        """A value that has come up."""
        if self._at is not None:
            question = value if self._alone else cast(tuple[Hashable, ...], value)[self._at]
            self._of.setdefault(question, set()).add(value)

    def forget(self, question: Hashable) -> set[Hashable]:
        """The question's values, which are noted no more."""
        return self._of.pop(question, set())


def to_json(value: Hashable) -> Any:
    """A category's value as JSON; tuples become lists."""
    if isinstance(value, tuple):
        return [to_json(one) for one in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a category's value must be text, a number or a tuple of these to be saved, not {value!r}")


def from_json(value: Any) -> Hashable:
    """The inverse of `to_json`."""
    return tuple(from_json(one) for one in value) if isinstance(value, list) else cast(Hashable, value)
