"""Runs a program over a task's questions: all chains in flight together, every finished chain kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from a1_sgl.conformal import BUDGETS, DEFAULT, GATES, Card, Decider, GuardedGate, find_score, make
from a1_sgl.conformal.alarm import ACTIONS
from a1_sgl.errors import ChainAborted, ConfigError
from a1_sgl.evals.accounting import joules
from a1_sgl.evals.environment import environment, packages
from a1_sgl.evals.metrics import summarise
from a1_sgl.evals.tasks import Task, sha256
from a1_sgl.programs import Program, find_program, stop_strings
from a1_sgl.records import Recorder, RunFolder
from a1_sgl.runtime import DraftTarget, Endpoint, find_rate
from a1_sgl.types import CalibrationEvent, Listener, LostEvent, Question, Result, VerdictEvent
from a1_sgl.voting import find_vote


@dataclass(frozen=True)
class Eval:
    """What to run. Everything here, and what the runtimes serve, is the run's configuration.

    Attributes:
        program: a name in `PROGRAMS`, or ``path/to/file.py:name``.
        runtime: the one runtime that the program runs on, ``draft`` or ``target``; None for both.
        chains: how many for each question.
        questions: how many; None is all there are.
        seed: draws the questions and the gate's smoothing numbers.
        levels: difficulties as ``FIRST:LAST``; None is all.
        family: kind of model that prompts are for, a name in ``task.families``; None is the usual one.
        parameters: the program's own parameters, where they differ from the task's defaults.
        sampling: temperature, top_p and so on, as ``run`` takes them.
        vote: how chains make an answer, a name in `VOTES`; None is the program's way.
        rate: how chains are rated for it, a name in `RATES`; None is the program's way.
        chunking: what ends a chunk, a name in `CHUNKINGS`; None is the task's way.
        alpha: nominal take-over rate, for a program with a gate; where a gate is optional, None leaves it out.
        card: calibration card the gate starts from; None starts from an empty bank.
        gate_kind: a name in `GATES` or `BUDGETS`.
        online: whether scores join the bank during the run; None is what suits the gate.
        alarm: what a drift alarm does, a name in `ACTIONS`; None sets no alarm.
        alarm_threshold: of the martingale's wealth.
        allow_mismatch: fields in which the card may differ from this set-up.
    """

    task: Task
    split: str
    program: str
    runtime: str | None
    chains: int
    sampling: Mapping[str, Any]
    questions: int | None = None
    seed: int = 0
    levels: str | None = None
    family: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    vote: str | None = None
    rate: str | None = None
    chunking: str | None = None
    alpha: float | None = None
    card: Card | None = None
    gate_kind: str = DEFAULT
    online: bool | None = None
    alarm: str | None = None
    alarm_threshold: float = 100.0
    allow_mismatch: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = self.strategy.own
        if unknown := [name for name in self.parameters if name not in names]:
            raise ConfigError(f"program {self.program} has no parameter {unknown[0]!r}; it has {', '.join(names)}")
        for name, value in self.parameters.items():
            _check_type(self.program, name, value, self.strategy.default(name))
        for name in ("vote", "rate"):
            if getattr(self, name) is not None and not self.strategy.shared(name):
                raise ConfigError(f"program {self.program} has no parameter {name!r}")
        if self.gate_kind not in (*GATES, *BUDGETS):
            raise ConfigError(f"unknown gate {self.gate_kind!r}; known: {', '.join([*GATES, *BUDGETS])}")
        if self.alarm not in (None, *ACTIONS):
            raise ConfigError(f"unknown alarm {self.alarm!r}; known: {', '.join(ACTIONS)}")
        for name in ("questions", "chains"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if self.levels is not None and self.task.levels is not None:
            self.task.levels.parse(self.levels)
        if self.gated and (self.alpha is None or not 0 < self.alpha < 1):
            raise ConfigError(
                f"alpha is the nominal take-over rate and must lie strictly between 0 and 1, not {self.alpha}"
            )
        try:
            find_score(self.score)
            find_vote(self.voted)
            if self.rate is not None:
                find_rate(self.rate)
            _ = self.stop
            self.gate()
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if self.strategy.needs_pair and self.runtime is not None:
            raise ConfigError(f"program {self.program} uses both runtimes, not the {self.runtime} alone")

    @cached_property
    def strategy(self) -> Program:
        """The program."""
        return find_program(self.program)

    @property
    def gated(self) -> bool:
        """Whether the program runs with a gate."""
        return self.strategy.needs_gate or (self.strategy.gated and self.alpha is not None)

    @property
    def arguments(self) -> dict[str, Any]:
        """The program's parameters: the task's defaults that it has, then the caller's."""
        names = self.strategy.own
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in self.parameters.items()}
        return {k: v for k, v in self.task.defaults.items() if k in names} | given

    @property
    def voted(self) -> str:
        """The vote that makes the answer."""
        return self.vote or (self.strategy.default("vote") if self.strategy.shared("vote") else "majority")

    @property
    def score(self) -> str:
        """Name of the score that the gate sees."""
        return str(self.arguments.get("score", "mean_loss"))

    @property
    def stop(self) -> list[str]:
        """Strings that end a chunk."""
        return stop_strings(self.chunking or self.task.chunking)

    @cached_property
    def asked(self) -> list[Question]:
        """The questions. Errors as in `Task.questions`."""
        return self.task.questions(self.split, self.questions, self.seed, self.levels, self.family)

    def protocol(self, backend: Endpoint | DraftTarget) -> dict[str, Any]:
        """What the scores depend on; a card holds it and is refused where it differs."""
        return {
            "task": self.task.name,
            "program": self.strategy.name,
            "source": self.strategy.source,
            "levels": list(self.task.levels.parse(self.levels)) if self.task.levels else None,
            "family": self.family or self.task.families[0],
            "parameters": self.arguments,
            "score": self.score,
            "stop": self.stop,
            "sampling": dict(self.sampling),
            "models": {runtime.name: runtime.fingerprint() for runtime in _runtimes(backend)},
        }

    def configuration(self, backend: Endpoint | DraftTarget) -> dict[str, Any]:
        """What ``run.json`` holds and a resumed run must equal."""
        gate = None
        if self.gated:
            gate = {
                "alpha": self.alpha, "kind": self.gate_kind, "online": self.online, "p_value": "smoothed",
                "calibration": self.card.sha256 if self.card else None,
                "alarm": {"action": self.alarm, "threshold": self.alarm_threshold} if self.alarm else None,
            }  # fmt: skip
        return self.protocol(backend) | {
            "split": self.split,
            "runtime": self.runtime,
            "vote": self.voted,
            "rate": self.rate,
            "questions": len(self.asked),
            "asked": sha256(self.asked),
            "chains": self.chains,
            "seed": self.seed,
            "gate": gate,
        }

    def gate(self) -> Decider | None:
        """A fresh gate with the card's scores; None for a program without one."""
        if not self.gated or self.alpha is None:
            return None
        made = make(self.gate_kind, self.alpha, chains=self.chains, online=self.online, seed=self.seed)
        gate: Decider = made
        if self.alarm is not None:
            gate = GuardedGate(made, action=self.alarm, threshold=self.alarm_threshold)
        if self.card is not None:
            self.card.fill(gate)
        return gate

    def run(
        self, question: Question, samples: Sequence[int], backend: Endpoint | DraftTarget, gate: Decider | None,
        listener: Listener,
    ) -> Result:  # fmt: skip
        """Runs the program on one question. Errors as in `run_chains`."""
        shared = {"vote": self.vote, "rate": self.rate, "gate": gate}
        given = {name: value for name, value in shared.items() if value is not None}
        if self.strategy.shared("seed"):
            given["seed"] = self.seed
        state = self.strategy.function.run(
            question=question, samples=len(samples) if self.strategy.joint else tuple(samples), listener=listener,
            backend=backend, stop=self.stop, **self.sampling, **self.arguments, **given,
        )  # fmt: skip
        result: Result = state.ret_value
        return result


def _runtimes(backend: Endpoint | DraftTarget) -> list[Endpoint]:
    return [backend.draft, backend.target] if isinstance(backend, DraftTarget) else [backend]


def _check_type(program: str, name: str, value: Any, default: Any) -> None:
    """Refuses a parameter that is not of its default's kind."""
    kinds: dict[type, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), tuple: (list, tuple)}
    wanted = kinds.get(type(default))
    if wanted is None or (isinstance(value, wanted) and isinstance(value, bool) == isinstance(default, bool)):
        return
    what = {int: "a whole number", float: "a number", str: "text", tuple: "a list"}[type(default)]
    raise ConfigError(f"program {program}: {name} must be {what}, such as {default!r}, not {value!r}")


class Interrupted(Exception):
    """The run was stopped from outside; every finished chain is on disk."""


Progress = Callable[[Recorder, int], None]


def evaluate(
    plan: Eval, backend: Endpoint | DraftTarget, out: Path, progress: Progress | None = None
) -> tuple[RunFolder, dict[str, Any]]:
    """Runs what is missing of `plan` in folder `out` and writes the summary.

    Args:
        progress: called about twice a second with the recorder and the number of chains planned.

    Raises:
        ConfigError: the folder belongs to another configuration, or the card to another set-up or to these questions.
        Interrupted: Ctrl-C, after calls in flight were aborted.
    """
    questions = plan.asked
    if plan.card is not None:
        plan.card.check(
            plan.protocol(backend), [question.id for question in questions], alpha=plan.alpha, packages=packages(),
            allow=plan.allow_mismatch,
        )  # fmt: skip
    together = plan.chains if plan.strategy.joint else 1
    folder = RunFolder.open(out, plan.configuration(backend), environment(_runtimes(backend)), together=together)
    folder.ask(questions)
    recorder = Recorder(folder, {question.id: question for question in questions}, plan.task.grade)
    gate = plan.gate()
    if gate is not None:  # as it was when the run stopped: scores of finished chains join in recorded order
        for event in folder.events:
            if isinstance(event, VerdictEvent):
                gate.observe(event.score, event.take_over, **event.place._asdict())
            elif isinstance(event, CalibrationEvent):
                gate.calibrate(event.score, question=event.question, task=event.task)
        for name in folder.done():
            gate.finish(*name)
    done = folder.done()
    todo = [(q, tuple(s for s in range(plan.chains) if (q.id, s) not in done)) for q in questions]
    todo = [(question, samples) for question, samples in todo if samples]
    halt = threading.Event()
    unusable: list[ConfigError] = []

    def solve(question: Question, samples: tuple[int, ...]) -> None:
        if halt.is_set():
            return
        try:
            plan.run(question, samples, backend, gate, recorder)
        except ChainAborted:
            pass
        except ConfigError as error:  # no question would fare better
            unusable.append(error)
            halt.set()
        except Exception as error:  # the prompt failed, or every chain did; the others go on
            for sample in samples:
                if (question.id, sample) not in recorder.lost:
                    recorder(LostEvent(question=question.id, sample=sample, error=f"{type(error).__name__}: {error}"))

    # A program waits for its chains, and each unfinished one has a chain in a lane or waiting for one: with a thread a
    # lane, no lane is ever empty while questions remain.
    pool = ThreadPoolExecutor(backend.lanes.limit, thread_name_prefix="question")
    energy = joules()
    planned = len(questions) * plan.chains
    try:
        pending: set[Future[None]] = {pool.submit(solve, question, samples) for question, samples in todo}
        while pending:
            _, pending = wait(pending, timeout=0.5)
            if progress is not None:
                progress(recorder, planned)
    except KeyboardInterrupt:
        halt.set()
        backend.abort()
    finally:
        pool.shutdown(cancel_futures=True)
        lost = {name: why for name, why in recorder.lost.items() if name not in folder.done()}
        if energy is not None and (now := joules()) is not None:
            folder.add_energy(now - energy)
        summary = summarise(folder, len(lost), recorder.errors())
        if isinstance(gate, GuardedGate):
            summary["alarms"] = [
                {"question": str(a.place.question), "wealth": a.wealth, "watched": a.watched} for a in gate.alarms
            ]
        folder.write_summary(summary)
    if unusable:
        raise unusable[0]
    if halt.is_set():  # counted now, when no chain is under way any more
        raise Interrupted(f"stopped; {len(folder.chains)} of {planned} chains are kept in {out}")
    return folder, summary


def calibrate(
    plan: Eval, backend: DraftTarget | Endpoint, out: Path, progress: Progress | None = None
) -> tuple[Card, dict[str, Any]]:
    """Runs `plan` with a gate that starts empty and makes a card of all its scores.

    Draft chunks after a take-over differ from those before, so the scores are collected under the policy they are
    meant for.

    Raises:
        ConfigError: the program has no gate; else as in `evaluate`.
    """
    if not plan.gated:
        raise ConfigError(f"program {plan.program} has no gate, so there is nothing to calibrate")
    folder, summary = evaluate(plan, backend, out, progress)
    verdicts = [event for event in folder.events if isinstance(event, VerdictEvent)]
    questions = sorted({chain.question for chain in folder.chains})
    index = {question: i for i, question in enumerate(questions)}
    card = Card(
        score=plan.score,
        scores=tuple(event.score for event in verdicts),
        places=tuple((index[event.question], event.sample, event.turn) for event in verdicts),
        questions=tuple(questions),
        task=plan.task.name,
        alpha=plan.alpha or 0.0,
        protocol=plan.protocol(backend),
        packages=packages(),
    )
    return card, summary
