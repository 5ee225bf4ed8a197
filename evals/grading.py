"""Grading: whether a chain's answer equals the reference answer.

Mathematics is compared by math-verify. It runs in a worker process with a time limit, because a pathological answer
can keep a computer algebra system busy for ever; a comparison that runs out of time counts as wrong, unless the texts
are the same, and says so. The worker is spawned, so a script of yours that grades needs the usual
``if __name__ == "__main__":``.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import re
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as Late
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from functools import cache, lru_cache
from multiprocessing import resource_tracker
from typing import Any

from pebble import ProcessExpired, ProcessPool

from a1_sgl.answers import bare
from a1_sgl.errors import ConfigError
from a1_sgl.types import Grade, Question

SECONDS = 10.0
"""Longest that one comparison may take."""


def exact(answer: str, gold: str, meta: Mapping[str, Any]) -> Grade:
    """The same text, but for white space at its ends."""
    return Grade(answer.strip() == gold.strip(), answer.strip())


def choice(answer: str, gold: str, meta: Mapping[str, Any]) -> Grade:
    r"""The same option: ``B``, ``(b)``, ``B. 12 m``, ``\text{B}`` and ``option B`` are all B; two options are none."""
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf|boldsymbol)\s*\{([^{}]*)\}", r"\1", bare(answer))
    found = _CHOICE.fullmatch(text)
    letter = found[1].upper() if found and not _ANOTHER.match(found[2] or "") else None
    return Grade(letter == gold.strip().upper(), letter or answer.strip())


_CHOICE = re.compile(
    r"(?:(?:the\s+)?(?:option|choice|answer)(?:\s+is)?\s*:?\s*)?[(\[]?\s*([A-J])\s*((?:[)\].:(-]|,\s).*)?", re.S | re.I
)
_ANOTHER = re.compile(r"\W*(?:and|or)?\W*\b[A-J]\b(?!\s*[a-z])")


def number(answer: str, gold: str, meta: Mapping[str, Any]) -> Grade:
    """The same number: 27 is 27.0, ``$1,234`` is 1234; what is no plain number goes to `math`."""
    mine, theirs = _decimal(answer), _decimal(gold)
    if mine is not None and theirs is not None:
        return Grade(mine == theirs, f"{mine.normalize():f}")
    return math(answer, gold, meta)


def math(answer: str, gold: str, meta: Mapping[str, Any]) -> Grade:
    """Equal as mathematics, by math-verify; within ``meta["tolerance"]`` where the question gives one.

    A number's unit or ordinal is left out where the reference has none: ``12 cm`` and ``12th grade`` are 12.
    """
    if _decimal(gold) is not None and (counted := _COUNTED.fullmatch(bare(answer))):
        unit = counted[2] or counted[3] or ""
        if _NO_UNIT.search(unit):  # math-verify leaves out whatever words there are
            return Grade(False, bare(answer))
        answer = counted[1]
    return _compare(bare(answer), bare(gold), meta.get("tolerance"))


_COUNTED = re.compile(
    r"(-?\d[\d.,]*)\s*(?:\^?\s*\{?\s*(?:\\(?:text|mathrm|textrm)\s*\{\s*)?(?:st|nd|rd|th)\b\s*\}{0,2})?"
    r"\s*(?:\\?[ ,;!]\s*)*(?:\\(?:text|mathrm|textrm)\s*\{([^{}]*)\}|([A-Za-z]{2,}(?:\s+[A-Za-z]{2,})*))?"
)
"""A number, its ordinal ending, and words."""
_NO_UNIT = re.compile(
    r"\b(?:pi|sqrt|over|less|more|than|times|plus|minus|and|or|to|half|dozen|hundred|thousand|million|billion"
    r"|trillion|squared|cubed|base|mod)\b",
    re.I,
)
"""Words that change the number before them."""


GRADERS: dict[str, Callable[[str, str, Mapping[str, Any]], Grade]] = {
    "exact": exact, "number": number, "math": math, "choice": choice,
}  # fmt: skip


def grade(name: str, answer: str | None, question: Question) -> Grade:
    """The grade of a chain's answer; no answer, or no reference to hold it against, is wrong."""
    if answer is None or question.answer is None:
        return Grade(False)
    return GRADERS[name](answer, question.answer, question.meta)


def _decimal(text: str) -> Decimal | None:
    plain = re.sub(r"^(?:\\?\$|USD)\s*|(?<=\d)(?:,|\{,\}|\\,|,\\!\s*)(?=\d{3}(?!\d))|\\?%$", "", bare(text))
    try:
        value = Decimal(plain)
    except InvalidOperation:
        return None
    return value if value.is_finite() and abs(value.adjusted()) < 100 else None


@lru_cache(maxsize=65536)
def _compare(answer: str, gold: str, tolerance: float | None) -> Grade:
    same = answer == gold
    if len(answer) > 10 * len(gold) + 200:  # an essay is no answer, and parsing one takes for ever
        return Grade(same, answer, f"an answer of {len(answer)} characters")
    try:
        equal, key = _worker().schedule(compare, args=(answer, gold, tolerance), timeout=SECONDS).result()
    except Late:
        return Grade(same, answer, f"comparison not finished within {SECONDS:g} s")
    except BrokenProcessPool as error:
        raise ConfigError(
            "grading starts a process of its own, so a script that grades needs `if __name__ == '__main__':`, and "
            "cannot be read from standard input"
        ) from error
    except (ProcessExpired, MemoryError, RecursionError) as error:
        return Grade(same, answer, f"comparison failed: {type(error).__name__}")
    if key is None or (same and not equal):
        return Grade(same, answer, "not read as mathematics")
    bases = [re.search(r"_\{?(\d+)\}?$", text) for text in (answer, gold)]
    if bases[0] and bases[1] and bases[0][1] != bases[1][1]:  # math-verify reads no base
        equal = False
    return Grade(equal, key + (f" in base {bases[0][1]}" if bases[0] else ""))


@cache
def _worker() -> ProcessPool:
    pool = ProcessPool(max_workers=1, context=multiprocessing.get_context("spawn"), initializer=_quiet)
    # The first task starts the pool's threads, and these its processes, now and whenever one has to be replaced. What
    # is blocked here is blocked in all of them, so that a Ctrl-C cannot end one that has not come to ignoring it.
    resource_tracker.ensure_running()  # which, where it is not, would unblock it again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        pool.schedule(_quiet)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    atexit.register(_stop, pool)
    return pool


def _quiet() -> None:
    logging.disable(logging.WARNING)  # math-verify warns at every call that its time limit is off


def _stop(pool: ProcessPool) -> None:
    pool.stop()
    pool.join(5)


def compare(answer: str, gold: str, tolerance: float | None = None) -> tuple[bool, str | None]:
    """Whether math-verify holds the two for equal, and how it reads the answer, if it can.

    There is no time limit here: `math` has one. Text that is identical is not taken for equal unless math-verify does.
    """
    from math_verify import parse, verify

    # Its own time limits are signals, which work in a main thread alone.
    theirs, mine = (parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer))
    key = _key(mine[0]) if mine else None
    if not mine or not theirs:
        return False, key
    # Six decimals, its default, would make 0.000067 of 0.0000672.
    if verify(theirs, mine, float_rounding=12, timeout_seconds=None):
        return True, key
    if tolerance is not None:
        with suppress(TypeError, ValueError):
            return abs(float(mine[0]) - float(theirs[0])) <= tolerance, key
    return False, key


def _key(parsed: Any) -> str:
    """One text for an expression however it is written: ``x = 5`` is 5, powers and roots are worked out."""
    import sympy

    value = parsed.rhs if isinstance(parsed, sympy.Eq) and parsed.lhs.is_Symbol else parsed
    return str(sympy.simplify(sympy.expand(value)) if isinstance(value, sympy.Expr) else value)
