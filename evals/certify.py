"""Certification on real runs: the target alone against a frozen policy at several levels, question by question.

A folder holds ``certification.json``, which says what is tested and was settled before the first question, and for
each batch of questions that was asked a folder of runs: ``questions-0-100/target``, ``questions-0-100/alpha-0.4``, ...
If some level passes there is ``card.json``, the card with its certificate.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from a1_sgl.compare import differences
from a1_sgl.conformal import FROZEN, Card, Certificate, Trial, questions_needed, regressions
from a1_sgl.errors import A1Error, ConfigError, first_line
from a1_sgl.evals.environment import packages
from a1_sgl.evals.metrics import chains_by_question, voted
from a1_sgl.evals.runner import Eval, Progress, evaluate
from a1_sgl.programs import PROGRAMS
from a1_sgl.records import files
from a1_sgl.session import Backend
from a1_sgl.session.roles import TARGET
from a1_sgl.types import Question

SCHEMA = 1


@dataclass(frozen=True)
class Certification:
    """What is to be certified.

    Attributes:
        plan: the policy, with a card and the gate `FROZEN`; its split and seed draw the questions, those of the card
            left out, and `Eval.questions` is how many: None is as many as suffice if none is lost. Its alpha is not
            used.
        alphas: levels; they are tested from the largest down.
        epsilon: risk allowed.
        delta: probability that a level is certified and should not be.

    Raises:
        ConfigError: another gate, the split of tests, no level, a level, epsilon or delta outside (0, 1), or too few
            questions to certify anything, named with the number needed.
    """

    plan: Eval
    alphas: tuple[float, ...]
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        for name in ("epsilon", "delta"):
            if not 0 < (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name} must lie strictly between 0 and 1, not {value:g}")
        if not self.plan.gated:
            raise ConfigError(f"program {self.plan.program} has no gate, so it has no level that could be certified")
        if self.plan.gate_kind != FROZEN:
            raise ConfigError(f"gate {self.plan.gate_kind} cannot be certified: it learns or adapts; {FROZEN} can")
        if self.plan.first is not None:
            raise ConfigError(f"first stage {self.plan.first} learns in use, so it cannot be certified; leave it out")
        if self.plan.alarm not in (None, "warn"):
            raise ConfigError(f"alarm {self.plan.alarm} changes the policy, so it cannot be certified; warn can")
        self.plan.task.check_calibration(self.plan.split)
        if not self.alphas:
            raise ConfigError("no alpha to certify")
        for alpha in self.alphas:
            replace(self.plan, alpha=alpha)
        if self.count < (need := questions_needed(self.epsilon, self.delta)):
            raise ConfigError(
                f"{self.count} questions cannot certify epsilon {self.epsilon:g} at delta {self.delta:g}, even with "
                f"none lost; --questions must be at least {need}"
            )

    @property
    def card(self) -> Card:
        """The card that the bank is made of."""
        assert self.plan.card is not None
        return self.plan.card

    @property
    def count(self) -> int:
        """How many questions there are to be in all."""
        return self.plan.questions or questions_needed(self.epsilon, self.delta)

    @cached_property
    def asked(self) -> list[Question]:
        """Split B, in the order it was drawn.

        Raises:
            ConfigError: as in `Task.sample`; or there are questions without an answer, none of which could be lost.
        """
        plan = self.plan
        drawn = plan.task.sample(
            plan.split, self.count, plan.seed, plan.levels, plan.family, but=set(self.card.questions)
        )
        if any(one.answer is None for one in drawn):
            raise ConfigError(f"task {plan.task.name} has no answers to grade by, so nothing can be certified on it")
        return drawn

    def settled(self, backend: Backend) -> dict[str, Any]:
        """What must not change once the first question is asked."""
        return {
            "schema": SCHEMA,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "alphas": sorted(set(self.alphas), reverse=True),
            "split": self.plan.split,
            "seed": self.plan.seed,
            "policy": self.plan.policy(backend),
        }


def certify(
    what: Certification, backend: Backend, out: Path, progress: Progress | None = None
) -> tuple[tuple[Trial, ...], Card | None]:
    """Tests each level from the largest down, until one is not certified, and writes ``card.json`` if any is.

    A question is lost where the target alone answers it right and the policy wrong, each by the vote of the plan. With
    more questions than before only those are asked that are new, and only of levels that have not passed.

    Returns:
        The trials, and the card with its certificate; None if no level passed.

    Raises:
        ConfigError: the card belongs to another set-up; `out` holds the certification of something else, or of more
            questions, or cannot be written; no runtime plays the target; else as in `evaluate`.
        A1Error: chains were lost or have no grade, so that there is no answer to judge.
        Interrupted: as in `evaluate`.
    """
    runs = _Runs(what, backend, backend.alone(TARGET), out, progress)
    settled = json.loads(json.dumps(what.settled(backend)))
    what.card.check(
        what.plan.protocol(backend), [one.id for one in what.asked], alpha=min(what.alphas), packages=packages()
    )
    with ExitStack() as held:
        ends = _begin(what, settled, out, held)
        batches = list(pairwise((0, *ends)))
        trials: list[Trial] = []
        for alpha in settled["alphas"]:
            losses: list[bool] = []
            for batch in batches:
                reference = runs.target(*batch)
                losses += regressions(runs.policy(alpha, *batch), reference)
                trial = Trial.of(alpha, losses, what.epsilon, what.delta)
                if trial.certified:
                    break
            trials.append(trial)
            if not trial.certified:
                break  # the sequence ends here: what is cheaper is not tested
        _write(out, settled, ends, trials)
        if not trials[0].certified:
            return tuple(trials), None
        n = max(trial.n for trial in trials)
        certificate = Certificate(
            epsilon=what.epsilon, delta=what.delta, trials=tuple(trials), policy=settled["policy"],
            calibrated=len(what.card.questions), split=what.plan.split, seed=what.plan.seed,
            questions=tuple(one.id for one in what.asked[:n]),
            right=sum(sum(runs.target(*batch)) for batch in batches if batch[1] <= n),
        )  # fmt: skip
        card = replace(what.card, certificate=certificate)
        card.save(out / "card.json")
        return tuple(trials), card


class _Runs:
    """The runs of batches of questions, each in its own folder; what was run before is read from there."""

    def __init__(
        self, what: Certification, backend: Backend, reference: Backend, out: Path, progress: Progress | None
    ) -> None:
        self._what, self._backend, self._reference, self._out, self._progress = what, backend, reference, out, progress
        self._target: dict[tuple[int, int], list[bool]] = {}

    def policy(self, alpha: float, first: int, end: int) -> list[bool]:
        """Whether the policy's vote is right, question by question."""
        # It may have a certificate from before, which says nothing of these runs.
        plan = replace(self._what.plan, alpha=alpha, card=replace(self._what.card, certificate=None))
        return self._right(plan, self._backend, f"alpha-{alpha:g}", first, end)

    def target(self, first: int, end: int) -> list[bool]:
        """Whether the target's is, alone and by the same vote."""
        if (first, end) not in self._target:
            plan, known = self._what.plan, PROGRAMS["direct"].own
            alone = replace(
                plan, program="direct", runtime=TARGET, alpha=None, card=None, alarm=None, vote=plan.voted,
                rate=plan.rate or plan.strategy.rate,
                parameters={name: value for name, value in plan.parameters.items() if name in known},
            )  # fmt: skip
            self._target[first, end] = self._right(alone, self._reference, TARGET, first, end)
        return self._target[first, end]

    def _right(self, plan: Eval, backend: Backend, name: str, first: int, end: int) -> list[bool]:
        batch = self._what.asked[first:end]
        path = self._out / f"questions-{first}-{end}" / name
        plan = replace(plan, task=plan.task.only(batch), questions=None)
        folder, summary = evaluate(plan, backend, path, self._progress)
        if summary["chains_lost"]:
            raise A1Error(
                f"{summary['chains_lost']} chains were lost in {path}, so nothing is certified; the same command runs "
                "them again"
            )
        chains = chains_by_question(folder)
        # Without this an answer that is not there would count as wrong, and of the target that favours the policy.
        if summary["chains_ungraded"] or any(not chains[question.id] for question in batch):
            raise A1Error(f"{path} has questions without a graded chain, so nothing is certified; use another --out")
        return [voted(plan.voted, chains[question.id]) for question in batch]


def _begin(what: Certification, settled: dict[str, Any], out: Path, held: ExitStack) -> list[int]:
    """Takes the folder, and says where its batches end: those that were asked before, and the new one."""
    path = out / "certification.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        held.callback(files.Lock(out).release)
        found = files.load(path, files.Mapped).root if path.exists() else None
        if found is None and any(one.name not in (files.Lock.NAME, f"{path.name}.tmp") for one in out.iterdir()):
            raise ConfigError(f"{out} is not empty and holds no certification.json; use another --out")
        if found is not None and (apart := differences({name: found.get(name) for name in settled}, settled)):
            raise ConfigError(
                f"{out} holds the certification of something else:\n  " + "\n  ".join(apart)
                + "\nwhat is certified is settled before the first question is asked, since to choose it by what was "
                "lost would void the promise; --questions may grow. Another --out with another --seed begins anew"
            )  # fmt: skip
        ends: list[int] = [] if found is None else found["ends"]
        if ends and what.count < ends[-1]:
            raise ConfigError(
                f"{out} has asked {ends[-1]} questions, and all of them count; --questions cannot be {what.count}"
            )
        if not ends or what.count > ends[-1]:
            ends.append(what.count)
            _write(out, settled, ends, ())
        return ends
    except (OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{out} cannot be used: {first_line(error)}") from error


def _write(out: Path, settled: dict[str, Any], ends: Sequence[int], trials: Sequence[Trial]) -> None:
    content = settled | {"ends": list(ends), "trials": [asdict(trial) for trial in trials]}
    path = out / "certification.json"
    try:
        files.replace(path, (json.dumps(content, indent=1) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {first_line(error)}; the same command goes on") from error
