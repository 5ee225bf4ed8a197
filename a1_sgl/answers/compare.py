"""Whether two answers are equal, exactly, and the one key that equal answers have.

What may be left out on either side is a name before ``=``, a unit, a base. Percent and degrees are read both ways where
only one side has them. Everything else counts: order within brackets, open and closed ends, how often an item of a list
is there, capitals.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from a1_sgl.answers.nodes import (
    Compound,
    Named,
    Node,
    Quantity,
    Relation,
    Several,
    Table,
    Tuple,
    Union,
    Words,
)
from a1_sgl.answers.parse import Unreadable, Value
from a1_sgl.answers.scan import squeezed
from a1_sgl.answers.split import asks, split
from a1_sgl.answers.values import canonical, equal, minus, near, proportion, radians, ratios, times


@dataclass(frozen=True)
class Comparison:
    """Compares what `split` makes of answers.

    Attributes:
        read: the value of an expression in LaTeX: `a1_sgl.answers.parse.expression`, or `plain`, which needs no algebra
            system and gives up where one is needed.
        tolerance: largest difference of numbers that counts as none.
    """

    read: Callable[[str], Value]
    tolerance: Fraction | None = None

    def equal(self, answer: str, gold: str) -> bool:
        """Whether two normalised answers are equal.

        Raises:
            Exception: whatever an algebra system raises at large or strange input.
        """
        if _squeezed_outside_words(answer) == _squeezed_outside_words(gold):
            return True
        return any(self.same(a, g) for a, g in _readings(answer, gold))

    def same(self, a: Node, g: Node) -> bool:
        """Whether two nodes are equal."""
        match a, g:
            case Named(), Named():
                return self._named(a, g)
            case Named(), Relation():
                return self._relations(_relation(a), g)
            case Relation(), Named():
                return self._relations(a, _relation(g))
            case Named(), _:
                return self.same(a.value, g)
            case _, Named():
                return self.same(a, g.value)
            case Several(), Several():
                return self._several(a, g)
            case Several(items=(only,)), _:
                return self.same(only, g)
            case _, Several(items=(only,)):
                return self.same(a, only)
            case Quantity(), Quantity():
                return self._quantities(a, g)
            case Tuple(), Tuple():
                return (a.left, a.right) == (g.left, g.right) and self._in_order(a.items, g.items)
            case (Tuple(left="(", right=")"), Table()) | (Table(), Tuple(left="(", right=")")):
                return self._in_order(_vector(a), _vector(g))
            case Table(), Table():
                return len(a.rows) == len(g.rows) and all(map(self._in_order, a.rows, g.rows))
            case Union(), Union():
                return self._in_any_order(a.items, g.items)
            case Relation(), Relation():
                return self._relations(a, g)
            case Relation(), _:
                return self._worked_out(a, g)
            case Quantity(), Relation():
                return self._worked_out(g, a)
            case Compound(), Compound():
                return self._in_order(a.items, g.items)
            case Words(), Words():
                return _said(a) == _said(g)
        return False

    def key(self, node: Node) -> str:
        """The same text for equal answers; without what may be left out, save a base."""
        match node:
            case Quantity():
                if node.base is not None:
                    return f"{node.latex.lower()} in base {node.base}"
                try:
                    return canonical(self.read(node.latex), node.factor)
                except Unreadable:
                    return squeezed(node.latex)
            case Named():
                return self.key(_renamed(node, "f(x)") or node.value)
            case Several():
                keys = sorted({self.key(one) for one in node.items} if node.is_set else map(self.key, node.items))
                return ", ".join(keys)
            case Tuple():
                return node.left + ", ".join(map(self.key, node.items)) + node.right
            case Union():
                return " or ".join(sorted(map(self.key, node.items)))
            case Table() if vector := _vector(node):
                return f"({', '.join(map(self.key, vector))})"
            case Table():
                return "; ".join(", ".join(map(self.key, row)) for row in node.rows)
            case Compound():
                return " ".join(f"{self.key(one)} {one.unit or ''}".strip() for one in node.items)
            case Relation():
                return self._relation_key(node)
        return _said(node)

    def _relation_key(self, node: Relation) -> str:
        """The same for an equation and its multiples; the value of one without variables that holds."""
        if len(node.signs) != 1 or node.signs[0] != "=":
            return _between(node)
        try:
            left, right = map(self.read, node.sides)
        except Unreadable:
            return _between(node)
        gap = minus(left, right)
        symbols = sorted(gap.free_symbols, key=str)
        if not symbols:
            return canonical(right) if equal(left, right) else _between(node)
        return f"equation in {', '.join(map(str, symbols))}: {', '.join(ratios(gap, symbols))}"

    # --- pairs of a kind ------------------------------------------------------------------------------------------

    def _named(self, a: Named, g: Named) -> bool:
        if a.name == g.name:
            return self.same(a.value, g.value)
        if a.name.partition("(")[0] == g.name.partition("(")[0] and (renamed := _renamed(a, g.name)) is not None:
            return self.same(renamed, g.value)
        if any(one.name == "y" and _APPLIED.fullmatch(other.name) for one, other in ((a, g), (g, a))):
            return self.same(a.value, g.value)  # y and f(x)
        if isinstance(a.value, Quantity) and isinstance(g.value, Quantity):
            return self._relations(_relation(a), _relation(g))
        return False

    def _several(self, a: Several, g: Several) -> bool:
        mine, theirs = a.items, g.items
        if a.is_set or g.is_set:
            mine, theirs = self._distinct(mine), self._distinct(theirs)
        names = [{one.name if isinstance(one, Named) else None for one in items} for items in (mine, theirs)]
        # Of x = 3, y = 5 only the order says what is what where the other side has no names.
        if any(_tell_apart(some) for some in names) and names[0] != names[1]:
            return self._in_order(mine, theirs)
        return self._in_any_order(mine, theirs)

    def _distinct(self, items: Sequence[Node]) -> tuple[Node, ...]:
        found: list[Node] = []
        for one in items:
            if not any(self.same(one, other) for other in found):
                found.append(one)
        return tuple(found)

    def _in_order(self, a: Sequence[Node], g: Sequence[Node]) -> bool:
        return len(a) == len(g) and all(map(self.same, a, g))

    def _in_any_order(self, a: Sequence[Node], g: Sequence[Node]) -> bool:
        left = list(g)
        if len(a) != len(left):
            return False
        for one in a:
            found = next((i for i, other in enumerate(left) if self.same(one, other)), None)
            if found is None:
                return False
            del left[found]
        return True

    def _quantities(self, a: Quantity, g: Quantity) -> bool:
        if a.base is not None and g.base is not None:
            return (a.base, a.latex.lower()) == (g.base, g.latex.lower())
        if a.base is not None or g.base is not None:
            return a.latex.lower() == g.latex.lower()
        if a.unit is not None and g.unit is not None and not a.unit.fits(g.unit):
            return False
        try:
            mine, theirs = (self._value(one) for one in (a, g))
        except Unreadable:
            return squeezed(a.latex) == squeezed(g.latex) and a.factor == g.factor
        if self._equal(mine, theirs):
            return True
        # said on one side alone, they may be left out, or meant
        if a.percent != g.percent:
            part = Fraction(1, 100)
            return self._equal(times(mine, part), theirs) if a.percent else self._equal(mine, times(theirs, part))
        if _degrees(a) != _degrees(g) and (a.unit is None or g.unit is None):
            return self._equal(*((radians(mine), theirs) if _degrees(a) else (mine, radians(theirs))))
        return False

    def _value(self, one: Quantity) -> Value:
        return times(self.read(one.latex), one.factor)

    def _equal(self, a: Value, g: Value) -> bool:
        return equal(a, g) or (self.tolerance is not None and near(a, g, self.tolerance))

    def _relations(self, a: Relation, g: Relation) -> bool:
        if _between(a) == _between(g):
            return True
        if len(a.signs) != 1 or len(g.signs) != 1:
            return False
        (mine, turn), (theirs, turned) = _oriented(a.signs[0]), _oriented(g.signs[0])
        if mine != theirs or mine not in ("=", "<", "\\le", "\\ne"):
            return False
        try:
            ours, gold = (minus(*map(self.read, one.sides)) for one in (a, g))
        except Unreadable:
            return False
        ratio = proportion(ours, gold)
        if ratio is None:
            return False
        return ratio != 0 if mine in ("=", "\\ne") else (ratio > 0) == (turn == turned)

    def _worked_out(self, a: Relation, g: Node) -> bool:
        """``2 + 3 = 5`` is 5, and ``m + n = 5`` may be the answer to what m + n is."""
        if set(a.signs) != {"="}:
            return False
        if asks(a.sides[0]) and a.sides[-1] != "0":
            return not re.search(r"(?<![\\A-Za-z])[A-Za-z]", a.sides[-1]) and self.same(split(a.sides[-1]), g)
        if not isinstance(g, Quantity):
            return False
        try:
            values = [self.read(side) for side in a.sides]
            return all(equal(one, values[-1]) for one in values) and self._equal(values[-1], self._value(g))
        except Unreadable:
            return False


def _degrees(one: Quantity) -> bool:
    return one.unit is not None and one.unit.powers == (("degree", 1),)


# --- texts --------------------------------------------------------------------------------------------------------


def _readings(answer: str, gold: str) -> list[tuple[Node, Node]]:
    """What they may mean: ``100,200`` is a number, and a list where the other side is one."""
    a, g = split(answer), split(gold)
    found = [(a, g)]
    if isinstance(g, Several) and isinstance(a, Quantity) and a.grouped:
        found.append((split(answer, grouped=False), g))
    if isinstance(a, Several) and isinstance(g, Quantity) and g.grouped:
        found.append((a, split(gold, grouped=False)))
    return found


def _said(words: Any) -> str:
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", words.text)
    text = re.sub(r"\s+", " ", text).strip(" .,'\"")
    if not re.search(r"[A-Za-z]{4}", text) and text.lower() not in ("yes", "no", "odd", "dne", "all"):
        return text.replace(" ", "")
    words = re.sub(r"^(?:the|an?) ", "", text.casefold()).split(" ")
    return " ".join(
        word[:-1] if len(word) > 4 and word.endswith("s") and not word.endswith("ss") else word for word in words
    )


def _squeezed_outside_words(text: str) -> str:
    words = re.findall(r"\\text\{[^{}]*\}", text)
    parts = re.split(r"\\text\{[^{}]*\}", text)
    return "".join(squeezed(part) + word for part, word in zip(parts, [*words, ""], strict=True))


def _between(one: Relation) -> str:
    return "".join(side + sign for side, sign in zip(map(squeezed, one.sides), [*one.signs, ""], strict=True))


def _relation(one: Named) -> Relation:
    value = one.value
    return Relation((one.name, value.latex if isinstance(value, Quantity) else ""), ("=",))


def _tell_apart(names: set[str | None]) -> bool:
    """Whether each of several answers has a name of its own; the indices of one letter are no names."""
    known = {re.sub(r"_.*", "", name) for name in names if name is not None}
    return None not in names and len(known) > 1


def _oriented(sign: str) -> tuple[str, bool]:
    return {">": ("<", True), "\\ge": ("\\le", True)}.get(sign, (sign, False))


def _vector(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Tuple):
        return node.items
    assert isinstance(node, Table)
    if len(node.rows) == 1:
        return node.rows[0]
    return tuple(row[0] for row in node.rows) if all(len(row) == 1 for row in node.rows) else ()


_APPLIED = re.compile(r"([A-Za-z]+(?:_\w)?)\(([A-Za-z])\)")


def _renamed(a: Named, name: str) -> Node | None:
    """``f(n) = n + 1`` as ``f(x) = x + 1``."""
    mine, theirs = _APPLIED.fullmatch(a.name), _APPLIED.fullmatch(name)
    if not mine or not theirs or not isinstance(a.value, Quantity):
        return None
    if mine[2] != theirs[2] and re.search(rf"(?<![\\A-Za-z]){theirs[2]}(?![a-z])", a.value.latex):
        return None  # where it is another letter
    if not re.search(rf"(?<![\\A-Za-z]){mine[2]}(?![a-z])", a.value.latex):  # a constant: f(1), P(A)
        return None
    latex = re.sub(rf"(?<![\\A-Za-z]){mine[2]}(?![a-z])", theirs[2], a.value.latex)
    return replace(a.value, latex=latex)
