"""Looking at LaTeX from left to right, with an eye on its brackets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise


def top(text: str, width: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    """Where, outside all brackets, something begins that is so and so wide."""
    depth = at = 0
    while at < len(text):
        char = text[at]
        if char == "\\" and text[at : at + 6] == "\\text{":
            if depth == 0 and (found := width(at)):
                yield at, found
            at = text.find("}", at) + 1 or len(text)
            continue
        if depth == 0 and (found := width(at)):
            yield at, found
        if char == "\\":
            depth = max(depth + _turn(text, at), 0)
            at += 2
            continue
        depth += (char in "({[") - (char in ")}]")
        depth = max(depth, 0)
        at += 1


def commas(text: str) -> list[str]:
    """The parts between commas that stand outside all brackets."""
    edges = [-1, *(at for at, _ in top(text, lambda at: int(text[at] == ","))), len(text)]
    return [text[a + 1 : b] for a, b in pairwise(edges)]


def balanced(text: str) -> bool:
    """Whether no bracket in it closes one that stands before it."""
    depth = at = 0
    while at < len(text):
        if text[at] == "\\":
            depth += _turn(text, at)
            at += 2
        else:
            depth += (text[at] in "({[") - (text[at] in ")}]")
            at += 1
        if depth < 0:
            return False
    return depth == 0


def _turn(text: str, at: int) -> int:
    r"""How much deeper the command there leads: ``\{`` and ``\langle`` are brackets."""
    return {"\\{": 1, "\\}": -1}.get(text[at : at + 2], 0) or {"\\langle": 1, "\\rangle": -1}.get(text[at : at + 7], 0)


def stripped(text: str) -> str:
    """Without blanks, commas and braces around it."""
    text = text.strip().strip(",;").strip()
    while text.startswith("{") and text.endswith("}") and balanced(text[1:-1]):
        text = text[1:-1].strip()
    return text


def outside(text: str, left: str, right: str) -> str:
    """A matrix without brackets around it; else `text`."""
    inner = text[1:-1].strip()
    return inner if text.startswith(left) and text.endswith(right) and inner.startswith("\\begin") else text


def squeezed(text: str) -> str:
    """Without blanks, save between digits, and without braces around one character."""
    return re.sub(r"\{(\w)\}", r"\1", re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text))
