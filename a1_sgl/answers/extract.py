r"""Finding answers in a chain's text: ``\boxed{...}``, or a stated one where there is no box. Time is linear."""

from __future__ import annotations

import re
from typing import NamedTuple

from a1_sgl.answers.normalise import bare

_MARK = re.compile(
    r"\\(?:f?boxed|fbox)\s*\{|\\(?:f?boxed|fbox)\s*(-?\d+(?:[.,]\d+)*|[A-Za-z](?![A-Za-z])|\\[dt]?frac\s*\{[^{}]*\}\s*\{[^{}]*\})|\\.|[{}]",
    re.S,
)
_LONGEST = 2000
"""Longest box that counts, in characters; what is longer is no answer."""
_BETWEEN = re.compile(
    r"(?:\s|\$|\*|[A-Za-z](?:_\{?\w\}?)?\s*=|\\[()\[\]]|[,;&]|\\(?:q?quad|[,; ])|\band\b|\bor\b"
    r"|\\text\s*\{\s*,?\s*(?:and|or)?,?\s*\})*"
)
_JOINS = re.compile(r"[,;&]|quad|\\ |and|or")
_APART = 40
"""Characters between two boxes that are one answer, at most."""


class _Box(NamedTuple):
    content: str
    begin: int
    end: int
    closed: bool


def boxes(text: str) -> list[str]:
    r"""Contents of every complete ``\boxed{...}`` in order.

    Braces inside may nest, escaped ones (``\{``) do not count; an unclosed box is none, and neither is an empty one,
    which is how models repeat their instruction.
    """
    return [box.content for box in _boxes(text) if box.closed]


def final_answer(text: str) -> str | None:
    r"""The last box, or None; at the end of a text ``\boxed 5`` is one too.

    Boxes that stand together, as in ``\boxed{3}, \boxed{5} and \boxed{7}``, are one answer: ``3, 5, 7``.
    """
    found = _boxes(text)
    if not found:
        return None
    together, start = [found[-1].content], found[-1].begin
    for box in reversed(found[:-1]):
        between = text[box.end : start]
        if len(between) > _APART or not (_BETWEEN.fullmatch(between) and _JOINS.search(between)):
            break
        if box.content not in together:
            together.insert(0, box.content)
        start = box.begin
    return ", ".join(together)


def stated_answer(text: str) -> str | None:
    """For a text that has come to its end: the last box, else what it last says the answer is.

    What comes after the thinking counts first; of the thinking itself, a box alone.
    """
    thinking, _, said = text.rpartition("</think>")
    for find, where in ((final_answer, said), (_stated, said), (final_answer, thinking)):
        if (found := find(where)) is not None:
            return found
    return None


def _boxes(text: str) -> list[_Box]:
    found: list[_Box] = []
    opened: list[tuple[int, int]] = []  # of every brace that is open: where its box begins, or -1, and its content
    for mark in _MARK.finditer(text):
        token = mark[0]
        if token == "}":
            if not opened:
                continue
            begin, inner = opened.pop()
            content = text[inner : mark.start()].strip()
            if begin < 0 or not content or len(content) > _LONGEST:
                continue
            while found and found[-1].begin > begin:  # boxes inside it
                found.pop()
            found.append(_Box(content, begin, mark.end(), True))
        elif token.endswith("{") and token != "\\{":
            opened.append((mark.start() if len(token) > 1 else -1, mark.end()))
        elif mark[1]:
            found.append(_Box(mark[1], mark.start(), mark.end(), False))
    return found


# --- without a box ------------------------------------------------------------------------------------------------

_ANSWER = re.compile(
    r"(?<![A-Za-z])(?:answers?|(?:correct|right|final|best)\s+(?:option|choice)|answer\s+choice)(?![A-Za-z])"
    r"(?:\s+(?:to|for|of)\b[^.\n:=]{0,80}?)?[\s*_]{0,8}"
    r"(?:\b(?:is|are|equals|(?:should|would|must|will|has\s+to|have\s+to|turns?\s+out\s+to)\s+be)\b"
    r"(?:\s+(?:equal to|indeed|clearly|simply|therefore|thus|just|then|definitely|surely|probably))?|=|:)"
    r"[*_]{0,3}[:\s]{0,12}"
    r"|^[ \t]*\#{2,4}[ \t]*(?:\*\*)?(?:Final\s+)?Answer(?:\*\*)?[ \t]*$|^[ \t]*\#{4}[ \t]+(?=\S)",
    re.I | re.M,
)
_NOTHING = re.compile(
    r"(?:correct|right|wrong|incorrect|not|consistent|valid|reasonable|verified|confirmed|unique|known|unknown|below"
    r"|above|given|as follows|that|clear|obvious|easy|found|checked|in the|within|what|now|also|still)\b", re.I,
)  # fmt: skip
_REASON = re.compile(r"\.(?:\s|$)|\n|,?\s\(?(?:because|since|as|which|so|where we)\s|,\s+not\s|!\s|</?\w+>")
_DISPLAY = re.compile(r"\s*(?:\\\[(.{1,2000}?)\\\]|\$\$(.{1,2000}?)\$\$)", re.DOTALL)
_EMPTY = re.compile(r"\\f?(?:boxed|fbox|box)\s*\{\s*\}")
_TELLING = re.compile(r"[\d\\$]|^\W*[A-Za-z]\W*$")
"""What looks like a value; words alone may be a remark on one."""


def _stated(text: str) -> str | None:
    remark = None
    for said in reversed(list(_ANSWER.finditer(text))):
        rest = text[said.end() : said.end() + _LONGEST]
        if not rest.strip():
            rest = text[said.end() :].lstrip()[:_LONGEST]
        rest = rest.lstrip()
        if _NOTHING.match(rest):
            continue
        shown = _DISPLAY.match(rest)
        value = _cleaned((shown[1] or shown[2]) if shown else _REASON.split(rest, maxsplit=1)[0])
        if not value or _EMPTY.fullmatch(value):
            continue
        if _TELLING.search(value):
            return value
        remark = remark or value
    return remark


def _cleaned(value: str) -> str:
    value = value.strip().strip('*`"').strip()
    if re.fullmatch(r"__.*__|_[^_]*_", value):
        value = value.strip("_")
    if value.endswith(")") and value.count("(") < value.count(")"):
        value = value[:-1]
    return bare(value)
