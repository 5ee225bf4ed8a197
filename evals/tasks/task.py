"""A task: where questions come from, how they are prompted, chunked and graded."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from a1_sgl import answers
from a1_sgl.errors import ConfigError
from a1_sgl.types import Grade, Question

Messages = tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Levels:
    """Difficulties: what they count, and the first and last that there is."""

    name: str
    first: int
    last: int

    def parse(self, text: str | None) -> tuple[int, int]:
        """Reads ``FIRST:LAST``, or one number; None is all of them.

        Raises:
            ConfigError: it is neither, or lies outside.
        """
        if text is None:
            return self.first, self.last
        first, _, last = text.partition(":")
        last = last or first
        if not (first.isdigit() and last.isdigit()):
            raise ConfigError(f"levels are FIRST:LAST, such as {self.first}:{self.last}, not {text!r}")
        if not self.first <= int(first) <= int(last) <= self.last:
            raise ConfigError(f"{self.name} lie within {self.first} to {self.last}, not {text}")
        return int(first), int(last)


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Attributes:
        name: as the command line knows it.
        about: one line.
        source: where its rows come from, in words.
        splits: sets of questions; gates are calibrated on one and judged on another.
        levels: difficulties a question may have; None where it has none.
        chunking: what ends a chunk, a name in `CHUNKINGS`.
        defaults: program parameters that suit the task.
        temperature: at which it is usually sampled.
        families: kinds of model that it knows a prompt for, the usual one first.
        ask: ``ask(text, family)``, the chat messages for a question of that text.
        grader: how answers are graded, a name in `GRADERS`.
        audit: how accepted chunks are usually audited, a name in `AUDITS`.
        draw: ``draw(split, count, seed, levels, family)``; a count of None is all there are. A larger count extends a
            smaller one.
        in_turn: whether levels come in turn, so that what is drawn first says what comes next.
    """

    name: str
    about: str
    source: str
    splits: tuple[str, ...]
    levels: Levels | None
    chunking: str
    defaults: Mapping[str, Any]
    temperature: float
    families: tuple[str, ...]
    grader: str
    audit: str
    ask: Callable[[str, str], Messages]
    draw: Callable[[str, int | None, int, tuple[int, int] | None, str], list[Question]]
    in_turn: bool = False

    def questions(
        self, split: str, count: int | None = None, seed: int = 0, levels: str | None = None, family: str | None = None
    ) -> list[Question]:
        """Questions of `split`; where not all are asked for, `seed` draws them.

        Args:
            levels: difficulties as ``FIRST:LAST``.
            family: kind of model that the prompts are for; None is the usual one.

        Raises:
            ConfigError: no such split, level or family, no data, rows that cannot be asked, fewer questions than asked
                for, or fewer than one asked for.
        """
        if split not in self.splits:
            raise ConfigError(f"task {self.name} has no split {split!r}; it has {', '.join(self.splits)}")
        if levels is not None and self.levels is None:
            raise ConfigError(f"the questions of task {self.name} have no levels")
        self._check_family(family)
        if count is not None and count < 1:
            raise ConfigError(f"questions must be at least 1, not {count}")
        within = self.levels.parse(levels) if self.levels else None
        return self.draw(split, count, seed, within, family or self.families[0])

    def question(self, text: str, family: str | None = None) -> Question:
        """A question of one's own, asked as this task's are; its reference answer is not known.

        Raises:
            ConfigError: no prompt for models of that family.
        """
        self._check_family(family)
        asked = Question.of(text)
        return asked.model_copy(update={"messages": self.ask(text, family or self.families[0]), "task": self.name})

    def sample(
        self, split: str, count: int, seed: int = 0, levels: str | None = None, family: str | None = None,
        *, but: Collection[str] = (),
    ) -> list[Question]:  # fmt: skip
        """`count` questions of `split` that are drawn independently, in the order they were drawn.

        A test that goes through them one by one needs that. Where levels come in turn, a level is drawn for each
        question. A larger count extends a smaller one.

        Args:
            but: ids of questions to be left out.

        Raises:
            ConfigError: as in `questions`.
        """
        if count < 1:
            raise ConfigError(f"questions must be at least 1, not {count}")
        if self.in_turn:
            return self._independent(split, count, seed, levels, family, set(but))
        every = len(self.questions(split, None, seed, levels, family))
        left = [one for one in self.questions(split, every, seed, levels, family) if one.id not in but]
        if count > len(left):
            raise ConfigError(
                f"task {self.name} has {every} such questions in split {split}, {every - len(left)} of them not to be "
                f"asked again, which leaves {len(left)} and not {count}"
            )
        return left[:count]

    def check_calibration(self, split: str) -> None:
        """Refuses to calibrate on what is tested on.

        Raises:
            ConfigError: the split is the one for tests, or has questions of it.
        """
        if "test" not in self.splits or split not in self.splits:
            return
        shared = split == "test"
        if not shared and not self.in_turn:  # those of a generator are disjoint
            tested = {one.id for one in self.questions("test")}
            shared = any(one.id in tested for one in self.questions(split))
        if shared:
            raise ConfigError(
                f"split {split} of task {self.name} has the questions that gates are tested on, so none is calibrated "
                f"or certified on it; take another split or task (it has {', '.join(self.splits)})"
            )

    def only(self, questions: Sequence[Question]) -> Task:
        """The same task with just these questions, whatever is asked for."""
        return replace(self, draw=lambda *_: list(questions))

    def _check_family(self, family: str | None) -> None:
        if family not in (None, *self.families):
            raise ConfigError(f"task {self.name} has no prompt for {family!r}; it has {', '.join(self.families)}")

    def _independent(
        self, split: str, count: int, seed: int, levels: str | None, family: str | None, but: set[str]
    ) -> list[Question]:
        assert self.levels is not None
        first, last = self.levels.parse(levels)
        rng = random.Random(f"{self.name}/{split}/{seed}/independent")
        wanted = [rng.randint(first, last) for _ in range(count)]
        need = Counter(wanted)
        size = max(need.values()) * (last - first + 1) + len(but)
        while True:
            by_level: defaultdict[int, list[Question]] = defaultdict(list)
            for one in self.questions(split, size, seed, levels, family):
                if one.id not in but:
                    by_level[one.meta[self.levels.name]].append(one)
            if all(len(by_level[level]) >= number for level, number in need.items()):
                queues = {level: iter(some) for level, some in by_level.items()}
                return [next(queues[level]) for level in wanted]
            size *= 2

    def grade(self, answer: str | None, question: Question) -> Grade:
        """A chain's answer against the question's."""
        return answers.grade(self.grader, answer, question)


def sha256(questions: Sequence[Question]) -> str:
    """Short hash of all that is asked and of the reference answers."""
    return hashlib.sha256(
        json.dumps([one.model_dump(mode="json") for one in questions], sort_keys=True).encode()
    ).hexdigest()[:16]
