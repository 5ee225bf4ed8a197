r"""Finding answers in a chain's text: ``\boxed{...}``, or a stated one where there is no box."""

from __future__ import annotations

import re

_OPEN = re.compile(r"\\(?:f?boxed|fbox)\s*\{")
_LONGEST = 2000
"""Longest box that counts, in characters; what is longer is no answer, and an unclosed box ends here."""
_JOINED = re.compile(r"\s*(?:\$|\\[)\]])?\s*(?:,|;|,?\s*(?:and|or)\b|\\(?:quad|,))\s*(?:and|or)?\s*(?:\$|\\[(\[])?\s*")
"""What stands between boxes that are one answer."""
_SAYS = re.compile(r"[\s*]{0,8}(?:is\b|=|:)[\s*:]{0,12}")
_WRAPPED = re.compile(r"\$\$(.*)\$\$|\$(.*)\$|\\\((.*)\\\)|\\\[(.*)\\\]|\*\*(.*)\*\*|\*(.*)\*", re.S)


def boxes(text: str) -> list[str]:
    r"""Contents of every complete ``\boxed{...}`` in order.

    Braces inside may nest, escaped ones (``\{``) do not count; an unclosed box is none, and neither is an empty one,
    which is how models repeat their instruction.
    """
    return [content for content, _, _ in _boxes(text)]


def final_answer(text: str) -> str | None:
    r"""The last complete box, or None.

    Boxes that stand together, as in ``\boxed{3}, \boxed{5} and \boxed{7}``, are one answer: ``3, 5, 7``.
    """
    found = _boxes(text)
    if not found:
        return None
    together, start = [found[-1][0]], found[-1][1]
    for content, begin, end in reversed(found[:-1]):
        if start - end > 40 or not _JOINED.fullmatch(text[end:start]):
            break
        if content not in together:
            together.insert(0, content)
        start = begin
    return ", ".join(together)


def _boxes(text: str) -> list[tuple[str, int, int]]:
    """Each box's content, and where the box begins and ends."""
    found, at = [], 0
    while start := _OPEN.search(text, at):
        depth, end = 1, start.end()
        while end < min(len(text), start.end() + _LONGEST) and depth:
            if text[end] == "\\":
                end += 1
            else:
                depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        at = start.end()
        if not depth:
            if content := text[at : end - 1].strip():
                found.append((content, start.start(), end))
            at = end
    return found


def stated_answer(text: str) -> str | None:
    """For a text that has come to its end: the last box, else what it last says the answer is, outside its thinking."""
    if (boxed := final_answer(text)) is not None:
        return boxed
    for line in reversed(text.rpartition("</think>")[2].splitlines()):
        _, found, rest = line.rpartition("answer") if "answer" in line else line.rpartition("Answer")
        if found and (says := _SAYS.match(rest)):
            return bare(rest[says.end() :].partition(". ")[0]) or None
    return None


def bare(answer: str) -> str:
    """An answer without the delimiters of mathematics around it, white space at its ends and a full stop."""
    text = answer.strip().removesuffix(".").strip()
    text = text.strip("*").removesuffix(".").strip() if "**" in text else text
    while match := _WRAPPED.fullmatch(text):
        inner = next(group for group in match.groups() if group is not None)
        if "$" in inner:  # two formulas, not one in delimiters
            break
        text = inner.strip().removesuffix(".").strip()
    return text
