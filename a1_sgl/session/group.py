"""A question's chains: one prompt, computed once on each runtime, of which every chain is a fork."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self, TypeVar

from sglang.lang.interpreter import ProgramState

from a1_sgl import answers
from a1_sgl.engine import Codec, Route, Scope, wait
from a1_sgl.errors import A1Error, ChainAborted, ConfigError, RuntimeFault, told
from a1_sgl.session.account import Account
from a1_sgl.session.auditor import Auditor
from a1_sgl.session.audits import find_audit
from a1_sgl.session.branch import Branch
from a1_sgl.session.chain import Chain, seeds
from a1_sgl.session.context import Context, enclosing, stopping
from a1_sgl.session.frontend import Backend
from a1_sgl.session.query import Query
from a1_sgl.session.rating import find_rate
from a1_sgl.session.transcript import Transcript
from a1_sgl.types import (
    AnswerEvent,
    CalibrationEvent,
    ChainEvent,
    DropReason,
    Event,
    LostEvent,
    PromptEvent,
    Question,
    Result,
    calls_of,
)
from a1_sgl.voting import RATED

log = logging.getLogger(__name__)
T = TypeVar("T")
Until = Callable[[Sequence[ChainEvent]], bool]


class Group:
    """What every program shares: prompt, a prefill of it on each runtime, forks, admission, the vote, the account.

    A program whose chains go their own ways calls `run`; one whose chains wait for each other calls `each` for every
    step and `finish` at the end. Use it in a ``with`` block: it owns every chain, every fork and every audit, and
    whatever of them is left at the end is stopped and given back. A result waits for the audits, no chain does.

    Attributes:
        query: what is asked.
        chains: its chains, in order of their numbers; a chain's branch is made when it takes its first step.
    """

    def __init__(self, s: ProgramState, query: Query) -> None:
        """
        Args:
            s: the program's state, empty; its backend says which runtimes there are.

        Raises:
            ConfigError: the program runs on another backend than a `Backend`.
            RuntimeFault: the prompt could not be computed.
        """
        backend = s.stream_executor.backend
        if not isinstance(backend, Backend):
            raise ConfigError(f"a program of chains runs on a1_sgl.session.Backend, not on {type(backend).__name__}")
        self.query, self._state, self._backend = query, s, backend
        self._account = Account(query.question, query.listener)
        outer = enclosing()
        self._scope = Scope(backend.scope) if outer is None else Scope(backend.scope, outer)
        self._forks: set[Chain] = set()
        self._keys: dict[int, asyncio.Task[str]] = {}
        self._auditor = Auditor(find_audit(query.audit), self._account, self._scope, query.seed)
        self._context = Context(
            self._scope, Route(query.question.id), query.question.images, logprobs=query.logprobs, losses=query.losses,
            tokens=query.chain_tokens, stop=query.chain_stop, watch=query.watch,
        )  # fmt: skip
        self._prompt = Transcript()
        self._begin()
        self.chains = tuple(self._chain(number, self._account, number) for number in query.samples)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._forks or exc[0] is not None:
            self._scope.stop()
        for chain in (*self._forks, *self.chains):
            self._give_back(chain, "rolled back")
        try:
            self._auditor.finish()
        except Exception:
            if exc[0] is None:  # else that is what is wrong
                raise

    # --- steps ------------------------------------------------------------------------------------------------

    def each(self, step: Callable[[Chain], T], chains: Sequence[Chain] | None = None) -> list[T]:
        """One step of every chain, each once it is admitted; waits for all of them.

        Raises:
            Exception: the first one that a step raised; the chains depend on each other, so none goes on alone.
        """

        def attempt(chain: Chain) -> T | Exception:
            try:
                return step(chain)
            except Exception as error:
                return error

        results: list[T] = []
        for outcome in self._admit(attempt, self.chains if chains is None else chains):
            if isinstance(outcome, Exception):
                raise outcome
            results.append(outcome)
        return results

    def run(self, body: Callable[[Chain], Any], *, until: Until | None = None) -> Result:
        """Runs every chain from where it is to its end, each once it is admitted; none waits for another.

        Args:
            body: writes one chain to its end.
            until: asked about the finished chains, in order of their numbers, whenever one has finished; when it says
                that the question is decided, the others are stopped.

        Raises:
            A1Error: every chain broke off; the first one's error. A chain that breaks off beside others that do not is
                reported in `Result.lost`.
            ChainAborted: the backend was aborted, or all of the question's chains were.
        """
        finished: list[ChainEvent] = []
        failures: list[Exception] = []
        aborted: list[ChainAborted] = []
        decided = False

        def follow(chain: Chain) -> ChainEvent | LostEvent | None:
            nonlocal decided
            late = self._deadline(chain)
            try:
                if not decided:
                    body(chain)
                    self._rated(chain)
                stopped = chain.context.scope.stopped
                if stopped and not decided:  # from outside, at the last moment: its body may have been cut short
                    raise ChainAborted(f"chain {chain.sample}: stopped")
                event = chain.finish(stopped)
                self._count(event)
                if until is None or decided:
                    finished.append(event)
                    return event
                finished.append(self._counted([event])[0])
                if not decided and until(sorted(finished, key=lambda one: one.sample)):
                    decided = True
                    self._stop(but=finished)
                return event
            except Exception as error:  # one chain's trouble must not end the others
                if isinstance(error, ChainAborted):
                    if decided:  # the question was decided without it
                        return chain.finish(stopped=True)
                    if late is None or not late.passed:
                        aborted.append(error)
                        return None
                    error = RuntimeFault(f"not finished within {self._backend.deadline:g} s")
                failures.append(error)
                log.debug("question %s: chain %d failed", self.query.question.id, chain.sample, exc_info=error)
                chain.discard("lost")
                lost = LostEvent(question=self.query.question.id, sample=chain.sample, error=told(error))
                self._account.tell(lost)
                return lost
            finally:
                if late is not None:
                    late.cancel()
                chain.leave()

        outcomes = self._admit(follow, self.chains)
        if aborted:  # only now, when no chain is under way any more
            raise aborted[0]
        chains = tuple(event for event in outcomes if isinstance(event, ChainEvent))
        if failures and not chains:
            if isinstance(failures[0], A1Error):
                raise failures[0]
            raise A1Error(f"every chain failed: {told(failures[0])}") from failures[0]
        return self._result(chains, tuple(event for event in outcomes if isinstance(event, LostEvent)))

    def finish(self) -> Result:
        """Closes all chains, which have gone from step to step together.

        Raises:
            ChainAborted: the question was stopped; else as `each`.
        """
        self.each(self._rated)
        stopped = [chain.context.scope.stopped for chain in self.chains]
        self._scope.check()
        finished = tuple(chain.finish(alone) for chain, alone in zip(self.chains, stopped, strict=True))
        for event in finished:
            self._count(event)
        return self._result(finished, ())

    def rehearse(self, body: Callable[[Chain], Any], count: int) -> None:
        """Writes `count` chains that only fill a gate's bank (`Chain.calibrate`) and are thrown away.

        One that fails is left out.

        Raises:
            ChainAborted: the backend was aborted.
        """

        def try_out(number: int) -> ChainAborted | None:
            written: list[Event] = []

            def hear(event: Event) -> None:  # what it wrote is accounted to its score; it has no chain of its own
                if isinstance(event, CalibrationEvent):
                    self._account.tell(event.model_copy(update={"calls": (*calls_of(written), *event.calls)}))
                else:
                    written.append(event)

            chain = self._chain(0, Account(self.query.question, hear), f"rehearsal {number}")
            try:
                body(chain)
            except ChainAborted as error:
                return error
            except Exception as error:
                log.warning("question %s: rehearsal %d failed: %s", self.query.question.id, number, error)
            finally:
                chain.leave()
            return None

        for error in self._admit(try_out, range(count)):
            if error is not None:
                raise error

    # --- inside -----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Renders the prompt for every runtime and has it computed there, all at once."""
        roles, question = self._backend.roles, self.query.question
        codecs = {role.engine.codec.key: role.engine.codec for role in roles.all}
        texts = {key: prompt(codec, question) for key, codec in codecs.items()}
        self._state += texts[roles.writer.engine.codec.key]
        known = {key: codec.encode(texts[key], first=True) for key, codec in codecs.items()}
        self._prompt = Transcript().plus(self._state.text(), known)

        async def prefill() -> list[Any]:
            return await asyncio.gather(
                *(
                    role.engine.prefill(self._context.request(role.engine, self._prompt.ids(role.engine.codec)))
                    for role in roles.all
                ),
                return_exceptions=True,
            )

        image_tokens: dict[str, int] = {}
        failure: BaseException | None = None
        for role, spent in zip(roles.all, wait(prefill()), strict=True):
            if isinstance(spent, BaseException):
                failure = failure or spent
                continue
            made = self._account.call(spent, role.name, "prefill")
            self._account.tell(PromptEvent(question=self.query.question.id, call=made))
            codec = role.engine.codec
            image_tokens[codec.key] = spent.prompt_tokens - self._prompt.tokens(codec)
        if failure is not None:
            raise failure
        if self._context.images:
            self._context = replace(self._context, image_tokens=image_tokens)

    def _chain(self, number: int, account: Account, name: object) -> Chain:
        context = self._context.within(Scope(self._scope), str(name))
        if account is not self._account:  # written for the gate alone
            context = replace(context, watch=None)
        return Chain(
            self.query.question, number, self._backend.roles, context, account,
            lambda: Branch(self._state, self._prompt), len(self._prompt.pieces),
            seeds(self.query.seed, self.query.seeded_by or self.query.question.id, name), self._forks, self._auditor,
        )  # fmt: skip

    def _admit(self, body: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        def within(item: Any) -> T:  # whatever stops the chain stops a program that it runs itself
            with stopping(scope(item)):
                return body(item)

        def scope(item: Any) -> Scope:
            return item.context.scope if isinstance(item, Chain) else self._scope

        return wait(self._backend.admission.each(within, items, self._scope.stop, scope))

    def _deadline(self, chain: Chain) -> _Late | None:
        return None if self._backend.deadline is None else _Late(chain, self._backend.deadline)

    def _rated(self, chain: Chain) -> None:
        vote = self.query.vote
        by = self.query.rate or ("target" if vote in RATED and chain.rating is None else None)
        if by is not None and chain.text:
            chain.rated(by, *find_rate(by).of(chain))
        elif chain.rating is None and vote in RATED:
            chain.rating = 0.0  # it says nothing

    def _stop(self, but: Sequence[ChainEvent]) -> None:
        done = {event.sample for event in but}
        for chain in self.chains:
            if chain.sample not in done:
                chain.stop()

    def _give_back(self, chain: Chain, reason: DropReason) -> None:
        if chain in self._forks:
            chain.discard(reason)
        else:
            chain.leave()

    def _count(self, event: ChainEvent) -> None:
        """Begins to work out what its answer counts as. No chain waits for that, save where a rule asks for it."""
        if event.answer is not None:
            work = asyncio.to_thread(answers.key, self.query.grader, event.answer)
            self._keys[event.sample] = asyncio.ensure_future(work)

    def _counted(self, events: Sequence[ChainEvent]) -> tuple[ChainEvent, ...]:
        """The events with their keys."""

        async def keys() -> list[str]:
            return await asyncio.gather(*(self._keys[event.sample] for event in events if event.answer is not None))

        found = iter(wait(keys()))
        return tuple(
            event if event.answer is None else event.model_copy(update={"key": next(found)}) for event in events
        )  # fmt: skip

    def _result(self, chains: tuple[ChainEvent, ...], lost: tuple[LostEvent, ...]) -> Result:
        self._auditor.finish()
        for fork in tuple(self._forks):  # nobody goes on as one of them any more
            fork.discard()
        result = Result(self.query.question, self._counted(chains), lost, self._account.usage, self.query.vote)
        self._account.tell(
            AnswerEvent(
                question=self.query.question.id, answer=result.answer, vote=self.query.vote, support=result.support
            )
        )
        return result


def prompt(codec: Codec, question: Question) -> str:
    """What a model is sent of a question.

    Raises:
        ConfigError: as `Codec.render`.
    """
    if question.prompt is not None:
        return codec.begun(question.prompt)
    return codec.render(question.messages, question.tools)


class _Late:
    """Stops a chain that is not finished in time."""

    def __init__(self, chain: Chain, seconds: float) -> None:
        self.passed = False
        self._chain = chain
        self._handle = asyncio.get_running_loop().call_later(seconds, self._stop)

    def _stop(self) -> None:
        self.passed = True
        self._chain.stop()

    def cancel(self) -> None:
        """It is over."""
        self._handle.cancel()


def run_chains(
    s: ProgramState, query: Query, body: Callable[[Chain], Any], *, until: Until | None = None
) -> Result:  # fmt: skip
    """A `Group` whose chains go their own ways: every one is `body`. Errors as there."""
    with Group(s, query) as group:
        return group.run(body, until=until)
