"""Certificates: which policies were found to lose few answers, on what, and whether that speaks of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from a1_sgl.compare import changes
from a1_sgl.conformal.risk import Trial


@dataclass(frozen=True)
class Certificate:
    """With probability at least ``1 - delta`` over the questions of split B, every certified level loses few answers.

    A question is lost where the target alone answers it right and the policy wrong, both by the same vote. The
    probability that a question drawn as those of split B is lost is at most epsilon at every certified level, if their
    losses are independent given the card; a frozen gate sees to that as far as runtimes treat each question by itself.

    Attributes:
        epsilon: risk allowed.
        delta: probability that a level is certified and should not be.
        trials: of the levels in the order they were made, from the largest down; only the last may have failed.
        policy: all that makes the policy but its level: gate, hash of the bank, chains, vote, rate, program, task,
            sampling, models, versions.
        calibrated: how many questions the card's scores come from, split A; the bank's hash holds which.
        split: where the questions of split B come from.
        seed: what drew them.
        questions: their ids, in the order they were drawn, which is that of the trials.
        right: how many of them the target alone answered right; no others can be lost.

    Raises:
        ValueError: none of the levels is certified, they are in another order or not of these questions, or epsilon
            or delta outside (0, 1).
    """

    epsilon: float
    delta: float
    trials: tuple[Trial, ...]
    policy: Mapping[str, Any]
    calibrated: int
    split: str
    seed: int
    questions: tuple[str, ...]
    right: int

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1 or not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon and delta must lie strictly between 0 and 1: {self.epsilon}, {self.delta}")
        tried = [trial.alpha for trial in self.trials]
        if tried != sorted(set(tried), reverse=True):
            raise ValueError(f"levels are tested from the largest down, each once, not {tried}")
        if not self.alphas or len(self.alphas) < len(self.trials) - 1:
            raise ValueError("a certificate holds levels that are certified, and one at most that is not, the last")
        if not len(set(self.questions)) == len(self.questions) == max(trial.n for trial in self.trials):
            raise ValueError("a certificate names each question that was asked for it, once")
        if not max(trial.lost for trial in self.trials) <= self.right <= len(self.questions):
            raise ValueError(f"counts do not fit: the target right on {self.right} of {len(self.questions)} questions")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Certificate:
        """From what `dataclasses.asdict` makes of one, read back from JSON.

        Raises:
            ValueError: it is of another form.
        """
        try:
            trials = tuple(Trial(**trial) for trial in content["trials"])
            return cls(**{**content, "trials": trials, "questions": tuple(content["questions"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"its certificate is of another form ({error}); make it anew with a1 certify") from error

    @property
    def alphas(self) -> tuple[float, ...]:
        """The certified levels, the largest first."""
        return tuple(trial.alpha for trial in takewhile(lambda trial: trial.certified, self.trials))

    @property
    def alpha(self) -> float:
        """The cheapest certified level."""
        return self.alphas[-1]

    def standing(self, policy: Mapping[str, Any], alpha: float, questions: Iterable[str]) -> Standing:
        """Whether it speaks of a run: of such a policy at that level, on those questions.

        Args:
            policy: as the attribute.
            alpha: the level.
            questions: ids of what is asked.
        """
        mine, theirs = (json.loads(json.dumps(one)) for one in (self.policy, policy))
        apart = [f"{one.field} is {_plain(one.new)}, certified is {_plain(one.old)}" for one in changes(mine, theirs)]
        if alpha not in self.alphas:
            apart.append(f"alpha is {alpha:g}, certified is {', '.join(f'{one:g}' for one in self.alphas)}")
        asked = set(questions)
        if again := [question for question in self.questions if question in asked]:
            apart.append(f"{len(again)} of the questions were asked for the certificate, {again[0]} first")
        return Standing(self, alpha, tuple(apart))


@dataclass(frozen=True)
class Standing:
    """Whether a certificate speaks of a run, and if not, why.

    Attributes:
        certificate: the certificate.
        alpha: the run's level.
        apart: what keeps it from speaking of the run, one entry a field; nothing if it does.
    """

    certificate: Certificate
    alpha: float
    apart: tuple[str, ...]

    @property
    def covered(self) -> bool:
        """Whether it does."""
        return not self.apart

    def __str__(self) -> str:
        if self.apart:
            return f"not covered by the card's certificate: {'; '.join(self.apart)}"
        found = self.certificate
        return (
            f"certified: alpha {self.alpha:g} loses at most {found.epsilon:g} of such questions (the target alone is "
            f"right and this is wrong), with probability at least {1 - found.delta:g}; "
            f"{len(found.questions)} questions of split {found.split} were asked for it"
        )


def _plain(text: str) -> str:
    return text[1:-1] if text[0] == text[-1] == '"' else text
