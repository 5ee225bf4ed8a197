"""Where reasoning ends and the answer begins, in a text of which more and more is known.

The same text is split at the same place however it comes, so that an answer is the same streamed or whole.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from a1_sgl.answers import boxes
from a1_sgl.serve.requests import Effort

OPEN, CLOSE = "<think>", "</think>"
_BLANK = re.compile(r"\n[ \t]*\n\s*")
_BOX = "box"
"""What is in every paragraph that has a boxed answer; it is found faster than that."""


class Parts(NamedTuple):
    """A text's reasoning, the answer after it, and where in the text that begins; None while that is not settled."""

    reasoning: str
    content: str
    at: int | None


def split(text: str, mode: Effort, *, over: bool, cut: bool = False, thinking: bool = False) -> Parts:
    """What of `text` can be shown, and as what.

    - ``none``: all of it is the answer.
    - ``think``: what stands before ``</think>`` is reasoning, what comes after it the answer. A text that neither
      begins with ``<think>`` nor follows a prompt that ends with it (`thinking`) is all answer.
    - ``open``: the answer begins with the first paragraph that has a boxed answer in it, or else with the last one.
    - A thought that is over without ``</think>`` has its answer in its last paragraph.
    - What was `cut` off before its answer began is reasoning to its last word.

    Args:
        text: what is settled so far.
        over: whether that is all; until then a paragraph that may be the last one is held back.
        cut: whether it was cut off for want of tokens or turns.
    """
    if mode == "none":
        return Parts("", text, 0)
    if mode == "open":
        return _open(text, 0, over, cut, first=True)
    begin = len(text) - len(text.lstrip())
    lead = text[begin:]
    if lead.startswith(OPEN):
        begin += len(OPEN)
    elif not over and OPEN.startswith(lead):
        return Parts("", "", None)
    elif not thinking:
        return Parts("", text, 0)
    else:
        begin = 0
    begin += len(text[begin:]) - len(text[begin:].lstrip())
    close = text.find(CLOSE, begin)
    if close >= 0:
        at = close + len(CLOSE)
        at += len(text[at:]) - len(text[at:].lstrip())
        return Parts(text[begin:close].rstrip(), text[at:], at)
    return _open(text, begin, over, cut, first=False)


def _open(text: str, begin: int, over: bool, cut: bool, *, first: bool) -> Parts:
    """`first`: whether the first paragraph with a boxed answer begins the answer."""
    at = begin
    while first and (at := text.find(_BOX, at)) >= 0:
        start, at = _start(text, begin, at), _end(text, at)
        if boxes(text[start:at]):
            return Parts(text[begin:start].rstrip(), text[start:], start)
    last = _start(text, begin, len(text.rstrip()))
    if over and not cut:
        return Parts(text[begin:last].rstrip(), text[last:], last)
    # White space at its end, and what may turn out to be the tag, are nobody's yet.
    shown = text[begin:] if over else text[begin:last]
    return Parts(shown.rstrip(), "", len(text) if over else None)


def _start(text: str, begin: int, at: int) -> int:
    """Where the paragraph begins that `at` lies in: looked for from there, since it is asked with every few tokens."""
    while (newline := text.rfind("\n", begin, at)) >= 0:
        at = text.rfind("\n", begin, newline)
        if at >= 0 and (found := _BLANK.match(text, at)) is not None:
            return found.end()
        at = newline
    return begin


def _end(text: str, at: int) -> int:
    found = _BLANK.search(text, at)
    return len(text) if found is None else found.end()
