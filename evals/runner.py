"""Runs a program over a task's questions: all chains in flight together, every finished chain kept."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from a1_sgl.arguments import StrPath, check_kind
from a1_sgl.arguments import path as as_path
from a1_sgl.conformal import (
    AUDITED,
    DEFAULT,
    FROZEN,
    KNOWN,
    AuditedGate,
    Card,
    Decider,
    Frozen,
    Gate,
    GuardedGate,
    Standing,
    TwoStage,
    find_score,
    make,
)
from a1_sgl.conformal.alarm import ACTIONS
from a1_sgl.engine import Scope, ended, stack, submit
from a1_sgl.errors import ChainAborted, ConfigError, RecordFault, told
from a1_sgl.evals.accounting import joules
from a1_sgl.evals.environment import environment, fingerprint, packages
from a1_sgl.evals.exact import NAME as EXACT
from a1_sgl.evals.grading_stage import Grading
from a1_sgl.evals.metrics import summarise
from a1_sgl.evals.tasks import Task, sha256
from a1_sgl.programs import Program, find_program, stop_strings
from a1_sgl.records import Recorder, RunFolder, discard
from a1_sgl.session import Backend, find_audit, find_rate, stoppable
from a1_sgl.telemetry import each
from a1_sgl.types import (
    AuditEvent,
    CalibrationEvent,
    ChainEvent,
    Event,
    Listener,
    LostEvent,
    Question,
    Result,
    VerdictEvent,
    unanswered,
)
from a1_sgl.voting import find_vote

log = logging.getLogger(__name__)


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
        sampling: temperature, top_p and so on, as ``run`` takes them; the task's temperature and a top_p of 1 where
            it has none.
        vote: how chains make an answer, a name in `VOTES`; None is the program's way.
        rate: how chains are rated for it, a name in `RATES`; None is the program's way.
        chunking: what ends a chunk, a name in `CHUNKINGS`; None is the task's way.
        alpha: nominal take-over rate, for a program with a gate; where a gate is optional, None leaves it out. For gate
            `AUDITED`, the level it starts from.
        card: calibration card the gate starts from; None starts from an empty bank.
        gate_kind: a name in `KNOWN`.
        epsilon, audit_rate: for gate `AUDITED`, as `make` has them.
        audit: how that gate's chunks are audited, a name in `AUDITS`; None is the task's way.
        online: whether scores join the bank during the run; None is what suits the gate.
        first: what a first stage goes by, a name in `SCORES` that needs the draft's own evidence alone; None has the
            target score every chunk.
        eta, explore: of that stage, as in `TwoStage`.
        alarm: what a drift alarm does, a name in `ACTIONS`; None sets no alarm.
        alarm_threshold: of the martingale's wealth.
        allow_mismatch: fields in which the card may differ from this set-up.
        certified: whether to refuse what the card's certificate does not speak of.
        losses: whether the record has the target's loss of every token; it changes no decision and is no part of the
            configuration.
    """

    task: Task
    split: str
    program: str
    runtime: str | None
    chains: int
    sampling: Mapping[str, Any] = field(default_factory=dict)
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
    epsilon: float | None = None
    audit_rate: float | None = None
    audit: str | None = None
    online: bool | None = None
    first: str | None = None
    eta: float = 0.05
    explore: int = 5
    alarm: str | None = None
    alarm_threshold: float = 100.0
    allow_mismatch: tuple[str, ...] = ()
    certified: bool = False
    losses: bool = False

    def __post_init__(self) -> None:
        check_kind(self.task, Task, "task", "find_task('chain')")
        check_kind(self.program, str, "program", "'a1' or 'path/to/file.py:NAME'")
        if self.card is not None:
            check_kind(self.card, Card, "card", "Card.load('card.json')")
        usual = {"temperature": self.task.temperature, "top_p": 1.0}
        object.__setattr__(self, "sampling", usual | dict(self.sampling))
        for name, value in self.arguments.items():
            self.strategy.check(name, value)
        if self.gate_kind not in KNOWN:
            raise ConfigError(f"unknown gate {self.gate_kind!r}; known: {', '.join(KNOWN)}")
        if self.certified and (self.card is None or self.card.certificate is None):
            raise ConfigError("--certified needs a card with a certificate: --calibration, from a1 certify")
        if self.audit is not None and self.gate_kind != AUDITED:
            raise ConfigError(f"gate {self.gate_kind} asks for no audits, of any kind; gate {AUDITED} does")
        if self.audit == EXACT and self.task.audit != EXACT:
            raise ConfigError(f"audit {EXACT} knows steps of generated tasks alone, not of task {self.task.name}")
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
        if self.gated and self.gate_kind == FROZEN:
            self._check_frozen()
        try:
            find_score(self.score)
            find_vote(self.voted)
            if self.rate is not None:
                find_rate(self.rate)
            find_audit(self.audited_by)
            _ = self.stop
            self.gate()
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if self.first is not None:
            self._check_first()
        if self.strategy.takes_over and self.runtime is not None:
            raise ConfigError(f"program {self.program} uses both runtimes, not the {self.runtime} alone")

    def _check_frozen(self) -> None:
        if self.card is None:
            raise ConfigError(
                f"gate {FROZEN} has the scores of a card and no others; name one with --calibration (a1 calibrate "
                "makes it), or take another gate"
            )
        if self.arguments.get("presample"):
            raise ConfigError(f"gate {FROZEN} never learns, so it takes no scores from presample; leave that out")
        if self.alarm == "recalibrate":
            raise ConfigError(f"gate {FROZEN} never learns, so it cannot recalibrate; --alarm warn or hand-over")

    def _check_first(self) -> None:
        if not self.gated:
            raise ConfigError(f"program {self.program} has no gate, so --first-stage {self.first} decides nothing")
        if find_score(self.score).by_draft:
            raise ConfigError(
                f"score {self.score} asks nothing of the target, so --first-stage {self.first} would spare nothing; "
                "name a score of the target with --set score=NAME, or leave out --first-stage"
            )
        if self.alarm is not None:
            raise ConfigError(
                "a drift alarm watches the target's scores, and a first stage leaves some of them out; leave out one "
                "of --alarm and --first-stage"
            )

    @cached_property
    def strategy(self) -> Program:
        """The program."""
        return find_program(self.program)

    @property
    def gated(self) -> bool:
        """Whether the program runs with a gate."""
        return self.strategy.gate == "required" or (self.strategy.gate == "optional" and self.alpha is not None)

    @property
    def arguments(self) -> dict[str, Any]:
        """The program's parameters: the task's defaults that it has, then the caller's."""
        names = self.strategy.own
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in self.parameters.items()}
        return {k: v for k, v in self.task.defaults.items() if k in names} | given

    @property
    def voted(self) -> str:
        """The vote that makes the answer."""
        return self.vote or self.strategy.vote

    @property
    def audited_by(self) -> str:
        """How chunks are audited that the gate draws for it."""
        return self.audit or self.task.audit

    @property
    def score(self) -> str:
        """Name of the score that the gate sees."""
        default = self.strategy.default("score") if "score" in self.strategy.own else "mean_loss"
        return str(self.arguments.get("score", default))

    @property
    def stop(self) -> list[str]:
        """Strings that end a chunk."""
        return stop_strings(self.chunking or self.task.chunking)

    @cached_property
    def asked(self) -> list[Question]:
        """The questions. Errors as in `Task.questions`."""
        return self.task.questions(self.split, self.questions, self.seed, self.levels, self.family)

    def protocol(self, backend: Backend) -> dict[str, Any]:
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
            "models": {role.name: fingerprint(role.engine) for role in backend.roles.all},
        }

    def policy(self, backend: Backend) -> dict[str, Any]:
        """All that makes an answer but the level, as a `Certificate` has it."""
        return self.protocol(backend) | {
            "packages": packages(),
            "grader": self.task.grader,
            "chains": self.chains,
            "vote": self.voted,
            "rate": self.rate or self.strategy.rate,
            "gate": self.gate_kind if self.gated else None,
            "bank": self.card.sha256 if self.card else None,
            "first": self._first,
            "alarm": None if self.alarm == "warn" else self.alarm,  # a warning changes no decision
        }

    def check_card(self, backend: Backend) -> None:
        """Refuses a card that was made for something else. Errors as in `Card.check`."""
        if self.card is not None:
            self.card.check(
                self.protocol(backend), [question.id for question in self.asked], alpha=self.alpha,
                packages=packages(), allow=self.allow_mismatch,
            )  # fmt: skip

    def standing(self, backend: Backend, questions: Iterable[str]) -> Standing | None:
        """Whether the card's certificate speaks of these questions, by their ids, run so; None where it has none.

        Raises:
            ConfigError: it does not, and `certified` asks for it.
        """
        certificate = self.card.certificate if self.card is not None else None
        if certificate is None or self.alpha is None:
            if self.certified:
                raise ConfigError("--certified needs a card with a certificate: --calibration, from a1 certify")
            return None
        found = certificate.standing(self.policy(backend), self.alpha, questions)
        if self.certified and not found.covered:
            raise ConfigError(f"{found}; with --certified that is refused")
        return found

    def configuration(self, backend: Backend) -> dict[str, Any]:
        """What ``run.json`` holds and a resumed run must equal."""
        gate = None
        if self.gated:
            audits = None
            if isinstance(made := self._made(), AuditedGate):
                audits = {"epsilon": made.audits.epsilon, "rate": made.audits.rate, "by": self.audited_by}
            gate = {
                "alpha": self.alpha, "kind": self.gate_kind, "online": self.online, "p_value": "smoothed",
                "calibration": self.card.sha256 if self.card else None,
                "alarm": {"action": self.alarm, "threshold": self.alarm_threshold} if self.alarm else None,
                "audits": audits,
                "first": self._first,
            }  # fmt: skip
        return self.protocol(backend) | {
            "split": self.split,
            "runtime": self.runtime,
            "grader": self.task.grader,
            "vote": self.voted,
            "rate": self.rate,
            "questions": len(self.asked),
            "asked": sha256(self.asked),
            "chains": self.chains,
            "seed": self.seed,
            "gate": gate,
        }

    @property
    def _first(self) -> dict[str, Any] | None:
        return {"score": self.first, "eta": self.eta, "explore": self.explore} if self.first else None

    def gate(self) -> Decider | None:
        """A fresh gate with the card's scores; None for a program without one."""
        if not self.gated:
            return None
        gate: Decider = (made := self._made())
        if self.first is not None:  # evidence is ranked among the same like as scores are
            gate = TwoStage(made, find_score(self.first), self._made().bank, eta=self.eta, explore=self.explore)
        elif self.alarm is not None:
            chains = self.chains if self.card is None else min(self.chains, self.card.chains)
            gate = GuardedGate(made, action=self.alarm, threshold=self.alarm_threshold, chains=chains)
        if self.card is not None:
            self.card.fill(gate)
        if isinstance(made, Frozen):
            made.close()
        return gate

    def _made(self) -> Gate:
        assert self.alpha is not None
        return make(
            self.gate_kind, self.alpha, chains=self.chains, online=self.online, seed=self.seed, epsilon=self.epsilon,
            audit_rate=self.audit_rate,
        )  # fmt: skip

    def run(
        self, question: Question, samples: Sequence[int], backend: Backend, gate: Decider | None, listener: Listener
    ) -> Result:
        """Runs the program on one question. Errors as in `Program.run`."""
        state = self.strategy.run(
            question=question, samples=samples, listener=listener, backend=backend, gate=gate, vote=self.vote,
            rate=self.rate, audit=self.audited_by, grader=self.task.grader, seed=self.seed, losses=self.losses,
            stop=self.stop, **self.sampling, **self.arguments,
        )  # fmt: skip
        result: Result = state.ret_value
        return result


class Interrupted(Exception):
    """The run was stopped from outside; every finished chain is on disk."""


Progress = Callable[[Recorder, int], None]
Listen = Callable[[Decider | None], Listener]
Work = tuple[Question, tuple[int, ...]]
"""A question, and which of its chains are to be run."""


def evaluate(
    plan: Eval, backend: Backend, out: StrPath, progress: Progress | None = None, *, overwrite: bool = False,
    listen: Listen | None = None,
) -> tuple[RunFolder, dict[str, Any]]:  # fmt: skip
    """Runs what is missing of `plan` in folder `out` and writes the summary.

    Args:
        progress: called about twice a second with the recorder and the number of chains planned.
        overwrite: whether an earlier run in `out` is thrown away, once nothing speaks against this one.
        listen: makes, knowing the run's gate, what is told of every event of this session that is on record.

    Raises:
        ConfigError: the folder belongs to another configuration or is written to by another process, or the card to
            another set-up or to these questions; or its certificate does not speak of the run, as the plan asks.
        RecordFault: the folder cannot be written any more; what it holds is whole.
        Interrupted: Ctrl-C, after calls in flight were aborted.
    """
    out = as_path(out, "a run's folder")
    check_kind(plan, Eval, "a plan", "Eval(task=find_task('chain'), ...)")
    check_kind(backend, Backend, "a backend", "Backend.connect(draft=URL, target=URL)")
    questions = plan.asked
    plan.check_card(backend)
    standing = plan.standing(backend, [question.id for question in questions])
    together = plan.chains if plan.strategy.joint else 1
    planned, interrupted = len(questions) * plan.chains, False
    if overwrite:
        discard(out)
    with RunFolder.open(out, plan.configuration(backend), environment(backend), together=together) as folder:
        folder.ask(questions)
        folder.note("certificate", standing and {"covered": standing.covered, "says": str(standing)})
        done = folder.done()
        todo = [(q, tuple(s for s in range(plan.chains) if (q.id, s) not in done)) for q in questions]
        gate = plan.gate()
        if gate is not None:
            resume(gate, folder, {question.id: bool(samples) for question, samples in todo})
        energy = joules()

        def tick() -> None:
            if progress is not None:
                progress(recorder, planned)

        asked = {question.id: question for question in questions}
        try:
            with Grading(folder, asked, plan.task.grade, tick) as grading, Recorder(folder, grading.submit) as recorder:
                told = recorder if listen is None else each(recorder, listen(gate))
                run = _Run(plan, backend, gate, recorder, told, [work for work in todo if work[1]])
                run.watch(tick)
        except KeyboardInterrupt:  # of the chains, or a second one, or of the wait for the last grades
            interrupted = True
        if energy is not None and (now := joules()) is not None:
            folder.add_energy(now - energy)
        summary = summarise(folder)
        if isinstance(gate, GuardedGate):
            summary["alarms"] = [
                {"question": str(a.question), "statistic": a.statistic, "wealth": a.wealth, "watched": a.watched}
                for a in gate.alarms
            ]
        folder.write_summary(summary)
        if interrupted or run.aborted:  # counted now, when no chain is under way any more
            raise Interrupted(f"stopped; {len(folder.finished)} of {planned} chains are kept in {out}")
        return folder, summary


def resume(gate: Decider, folder: RunFolder, questions: Mapping[str, bool]) -> None:
    """Makes the gate as it was when the run stopped: scores and audits of finished chains come in recorded order.

    An audit that the last session did not live to answer counts as wrong.

    Args:
        questions: all that are asked, in order, and whether any chain is left to run; then the question stays begun.
    """
    # All at once: which ones are finished tells of their scores, so it must not say in what order they come.
    for question in questions:
        gate.begin(question)
    for event in folder.events:
        if isinstance(event, VerdictEvent):
            if isinstance(gate, TwoStage) and event.screening is not None:
                gate.recall(event.screening, **event.place._asdict())
            gate.observe(event.score, event.take_over, **event.place._asdict())
        elif isinstance(event, AuditEvent):
            gate.audited(event.wrong, **event.place._asdict())
        elif isinstance(event, CalibrationEvent):
            gate.calibrate(event.score, question=event.question, task=event.task)
    for verdict in unanswered(folder.events):
        gate.audited(True, **verdict.place._asdict())
    for name in folder.done():
        gate.finish(*name)
    for question, left in questions.items():
        if not left:
            gate.end(question)


class _Run:
    """The questions that are left, on the event loop; so many are begun that no place for a chain is ever empty."""

    def __init__(
        self, plan: Eval, backend: Backend, gate: Decider | None, recorder: Recorder, told: Listener,
        todo: Sequence[Work],
    ) -> None:  # fmt: skip
        self._plan, self._backend, self._gate, self._recorder, self._todo = plan, backend, gate, recorder, todo
        self._told = told
        # A question begins with its prompt, and where its chains go from step to step some of them wait: so about twice
        # as many chains are begun as have places, and never fewer than have.
        self._places = backend.admission.limit
        self._open: dict[str, set[int]] = {}
        self._ended: asyncio.Event | None = None
        self._scope = Scope()
        self._fault: Exception | None = None
        self.aborted = False

    def watch(self, tick: Callable[[], None]) -> None:
        """Runs them all, and calls `tick` about twice a second meanwhile.

        Raises:
            ConfigError: what no question would fare better with.
            RecordFault: a chain could not be recorded.
            BaseException: whatever interrupts it, when what was under way has ended.
        """
        with stoppable() as self._scope:
            running = submit(self._all())
        try:
            while not running.done():
                concurrent.futures.wait([running], timeout=0.5)
                tick()
        except BaseException:
            self._scope.stop()
            ended(running)
            raise
        running.result()
        if self._fault is not None:
            raise self._fault

    async def _all(self) -> None:
        self._ended = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()
        for question, samples in self._todo:
            while self._crowded(len(samples)):
                self._ended.clear()
                await self._ended.wait()
            if self._scope.stopped:
                break
            self._open[question.id] = set(samples)
            task = asyncio.create_task(self._one(question, samples))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks)

    def _crowded(self, more: int) -> bool:
        begun = sum(map(len, self._open.values()))
        return begun >= self._places and begun + more > 2 * self._places

    async def _one(self, question: Question, samples: tuple[int, ...]) -> None:
        try:
            await stack(self._plan.run, question, samples, self._backend, self._gate, self._hear)
        except ChainAborted:  # with the whole run, which will go on with this question
            self.aborted = True
            return
        except (ConfigError, RecordFault) as error:  # no question would fare better
            self._stop(error)
        except Exception as error:  # the prompt failed, or every chain did; the others go on
            log.debug("question %s failed", question.id, exc_info=error)
            self._lost(question, samples, told(error))
        finally:
            self._open.pop(question.id, None)
            self._one_ended()
        if self._gate is not None:
            self._gate.end(question.id)

    def _hear(self, event: Event) -> None:
        try:
            self._told(event)
        except RecordFault as fault:
            self._stop(fault)
            raise
        if isinstance(event, ChainEvent | LostEvent):
            self._open.get(event.question, set()).discard(event.sample)
            self._one_ended()

    def _lost(self, question: Question, samples: Iterable[int], error: str) -> None:
        try:
            for sample in samples:
                name = (question.id, sample)
                if name not in self._recorder.lost and not self._recorder.folder.has(*name):
                    self._told(LostEvent(question=question.id, sample=sample, error=error))
        except RecordFault as fault:
            self._stop(fault)

    def _stop(self, error: Exception) -> None:
        self._fault = self._fault or error
        self._scope.stop()

    def _one_ended(self) -> None:
        if self._ended is not None:
            self._ended.set()


def calibrate(
    plan: Eval, backend: Backend, out: StrPath, progress: Progress | None = None, *, overwrite: bool = False
) -> tuple[Card, dict[str, Any]]:
    """Runs `plan` with a gate that starts empty and makes a card of all its scores.

    Draft chunks after a take-over differ from those before, so the scores are collected under the policy they are
    meant for. With a first stage that only watches (eta 0) the card also has its evidence.

    Raises:
        ConfigError: the questions are those of tests; the program has no gate, or a first stage that accepts chunks
            unseen; else as in `evaluate`.
    """
    check_kind(plan, Eval, "a plan", "Eval(task=find_task('chain'), ...)")
    if plan.first is not None and plan.eta:
        raise ConfigError(f"a card needs every chunk's score; calibrate with eta 0, not {plan.eta:g}")
    if not plan.gated:
        raise ConfigError(f"program {plan.program} has no gate, so there is nothing to calibrate")
    plan.task.check_calibration(plan.split)
    folder, summary = evaluate(plan, backend, out, progress, overwrite=overwrite)
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
        evidence=_evidence(plan, verdicts),
    )
    return card, summary


def _evidence(plan: Eval, verdicts: Sequence[VerdictEvent]) -> dict[str, list[float]]:
    """What a first stage that watched saw of each chunk; nothing where a program had some of them scored at once."""
    found = [verdict.screening.score for verdict in verdicts if verdict.screening is not None]
    return {plan.first: found} if plan.first is not None and len(found) == len(verdicts) else {}
