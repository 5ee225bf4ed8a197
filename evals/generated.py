"""What generated tasks share: splits that are disjoint by construction, and streams of distinct problems.

A problem belongs to the split that the SHA-256 of its own text names, whatever seed drew it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from typing import Literal, Protocol, TypeVar

Split = Literal["train", "calibration", "test"]
SPLITS: tuple[Split, ...] = ("train", "calibration", "test")


class Generated(Protocol):
    """A problem with an exact answer."""

    @property
    def text(self) -> str:
        """The question as a user would type it."""

    @property
    def answer(self) -> int:
        """What is right."""

    @property
    def difficulty(self) -> int:
        """Its level."""

    def __hash__(self) -> int: ...


P = TypeVar("P", bound=Generated)


def split_of(text: str) -> Split:
    """``calibration`` and ``test`` take a twentieth of all problems each, ``train`` the rest."""
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 20
    return "calibration" if bucket == 0 else "test" if bucket == 1 else "train"


def distinct(
    task: str, draw: Callable[[random.Random, int], P], split: Split, seed: int | str, levels: range
) -> Iterator[P]:
    """Distinct problems of `split`, without end: the same `seed` gives the same sequence.

    Levels come in turn, so that every prefix of the sequence is balanced over difficulty.

    Args:
        draw: makes one problem of a level, of whatever split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    rng = random.Random(f"{task}/{split}/{seed}")
    seen: set[P] = set()
    while True:
        for level in levels:
            while split_of((problem := draw(rng, level)).text) != split or problem in seen:
                pass
            if split != "train":  # training streams are too long to remember; a repeat there does no harm
                seen.add(problem)
            yield problem
