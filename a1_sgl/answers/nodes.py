"""What an answer may be made of. Expressions stay LaTeX."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from a1_sgl.answers.units import Unit


@dataclass(frozen=True)
class Quantity:
    """A number or an expression, as LaTeX, and what is said with it.

    Attributes:
        latex: the expression.
        factor: by which words multiply it, as in ``5 million``.
        unit: None where it has none.
        percent: whether ``%`` follows it.
        base: that of ``204_5``; its digits are then `latex`.
        grouped: whether commas in `latex` were taken for separators of thousands.
    """

    latex: str
    factor: Fraction = Fraction(1)
    unit: Unit | None = None
    percent: bool = False
    base: int | None = None
    grouped: bool = False


@dataclass(frozen=True)
class Words:
    """What is said in words, or cannot be read."""

    text: str


@dataclass(frozen=True)
class Named:
    """A value with a name before it, which may be left out."""

    name: str
    value: Node


@dataclass(frozen=True)
class Several:
    """Answers whose order is free. A set's are distinct, those of a list need not be."""

    items: tuple[Node, ...]
    is_set: bool = False


@dataclass(frozen=True)
class Tuple:
    """Answers in order within brackets: a point, or an interval with its ends."""

    left: str
    right: str
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Union:
    """Intervals and sets joined."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Relation:
    """An equation or inequality that gives no value to a name: sides as LaTeX, and what stands between them."""

    sides: tuple[str, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A matrix."""

    rows: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Compound:
    """A quantity in several units, such as 5 hours 30 minutes."""

    items: tuple[Quantity, ...]


Node = Quantity | Words | Named | Several | Tuple | Union | Relation | Table | Compound


def describe(node: Node) -> str:
    """A node in words, for people."""
    match node:
        case Quantity():
            said = [node.latex if node.base is None else f"{node.latex} in base {node.base}"]
            said += [f"times {node.factor}"] if node.factor != 1 else []
            said += ["percent"] if node.percent else []
            return ", ".join([*said, f"counted in {node.unit}"] if node.unit else said)
        case Named():
            return f"named {node.name}: {describe(node.value)}"
        case Several():
            return f"{'set' if node.is_set else 'list'} of " + " | ".join(map(describe, node.items))
        case Tuple():
            return f"{node.left} {' | '.join(map(describe, node.items))} {node.right}"
        case Union():
            return "union of " + " | ".join(map(describe, node.items))
        case Relation():
            return "relation " + " ".join(a + b for a, b in zip(node.sides, [*node.signs, ""], strict=True))
        case Table():
            return "matrix " + "; ".join(" | ".join(map(describe, row)) for row in node.rows)
        case Compound():
            return " and ".join(map(describe, node.items))
        case Words():
            return f"words: {node.text}"
