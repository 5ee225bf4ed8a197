"""Names for things of one kind, such as scores, votes, ratings and audits, and what is said of them."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


class Registry(dict[str, T]):
    """Things of one `kind` by their names, in the order they were added."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def add(self, name: str, thing: T) -> None:
        """Gives `thing` a name.

        Raises:
            ValueError: the name is taken.
        """
        if name in self:
            raise ValueError(f"the {self.kind} {name!r} is there already")
        self[name] = thing

    def find(self, name: str) -> T:
        """The thing of that name.

        Raises:
            ValueError: there is none; the known ones are named.
        """
        if name not in self:
            raise ValueError(f"unknown {self.kind} {name!r}; known: {', '.join(self)}")
        return self[name]


def headline(docstring: str | None) -> str:
    """A docstring's first line as lists show it, to people: without the marks that set code apart."""
    return (docstring or "").strip().partition("\n")[0].replace("`", "")
