"""One request at work: its answers are made side by side, and whoever joined it is told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from a1_sgl.engine import Scope
from a1_sgl.errors import ChainAborted, ConfigError, RuntimeFault, first_line
from a1_sgl.serve.answers import DONE, KEEP_ALIVE, Answer, Response, frame
from a1_sgl.serve.keys import Owner
from a1_sgl.serve.plan import Plan
from a1_sgl.serve.refusals import Refusal, broken, unreachable, wrong
from a1_sgl.serve.stream import Choice
from a1_sgl.session.context import stopping
from a1_sgl.telemetry import each
from a1_sgl.types import Question

if TYPE_CHECKING:
    from a1_sgl.serve.service import Service

log = logging.getLogger(__name__)
ENDED = 10.0
"""Seconds that aborted chains have to end before their task is cancelled."""


class Job:
    """The work for one request, apart from its connections: several may listen to it, and none has to.

    Attributes:
        id: the request's.
        plan: what is to be done.
        whole: the response, once it is there.
        failure: why there is none.
        finished: when it was over, by the monotonic clock.
    """

    def __init__(self, service: Service, plan: Plan, owner: Owner, request: str, *, kept: bool) -> None:
        """
        Args:
            kept: whether a retry may join it: then it goes on for a while when nobody listens any more.
        """
        self.id, self.plan = request, plan
        self.whole: dict[str, Any] | None = None
        self.failure: Refusal | None = None
        self.finished: float | None = None
        self._service, self._owner, self._kept = service, owner, kept
        self._response = Response(request, plan.model.id, plan.chat)
        self._frames: list[bytes] = []
        self._size = 0
        self._answers: list[Answer] = []
        self._changed = asyncio.Event()
        self._scope = Scope()
        self._listeners, self._started, self._shown = 0, time.monotonic(), False
        self._linger: asyncio.TimerHandle | None = None
        self._choices = [Choice(plan, index, partial(self._delta, index)) for index in range(plan.n)]
        self._task = asyncio.create_task(self._work())

    # --- listening --------------------------------------------------------------------------------------------

    @property
    def _told(self) -> bool:
        """Whether there is no more to tell; of what was stopped the end may yet be to come."""
        return self.finished is not None or self.failure is not None

    @property
    def failed(self) -> bool:
        """Whether it came to nothing."""
        return self.failure is not None

    @property
    def size(self) -> int:
        """Bytes that it keeps for whoever joins."""
        return self._size

    def join(self) -> None:
        """Somebody listens."""
        self._listeners += 1
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def leave(self) -> None:
        """Somebody does not any more. When nobody does, the work ends, at once or if no retry comes for it."""
        self._listeners -= 1
        if self._listeners or self.finished is not None:
            return
        gone = Refusal(408, "whoever asked is gone", code="client_gone")
        if self._kept:
            seconds = self._service.settings.linger
            self._linger = asyncio.get_running_loop().call_later(seconds, self.stop, gone)
        else:
            self.stop(gone)

    def stop(self, why: Refusal) -> None:
        """Aborts every chain on both runtimes; whoever listens is told why at once, however long that takes."""
        if self.finished is None and self.failure is None:
            self._failed(why)
            self._scope.stop()

    async def ended(self) -> None:
        """Waits until it is over."""
        with suppress(asyncio.CancelledError, Exception):
            await asyncio.shield(self._task)

    async def begun(self, seconds: float) -> None:
        """Waits until every prompt is computed, or so long: what fails at once fails before a stream begins.

        Raises:
            Refusal: it failed.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._told and not all(one.begun for one in self._choices):
                    await self._change()
        if self.failure is not None and not self._shown:
            raise self.failure

    async def result(self) -> dict[str, Any]:
        """The response in one piece.

        Raises:
            Refusal: there is none.
        """
        while not self._told:
            await self._change()
        if self.failure is not None:
            raise self.failure
        assert self.whole is not None
        return self.whole

    async def frames(self, keep_alive: float) -> AsyncIterator[bytes]:
        """The stream from its beginning, with a comment wherever there was silence for so many seconds."""
        at = 0
        while True:
            while at < len(self._frames):
                at += 1
                yield self._frames[at - 1]
            if self._told:
                return
            try:
                async with asyncio.timeout(keep_alive):
                    await self._change()
            except TimeoutError:
                yield KEEP_ALIVE

    # --- working ----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        plan, late = self.plan, None
        try:
            if plan.stream and plan.chat:
                for index in range(plan.n):
                    self._delta(index, {"role": "assistant", "content": ""}, said=False)
            late = asyncio.get_running_loop().call_later(
                plan.deadline, self.stop,
                Refusal(504, f"not finished within {plan.deadline:g} s", code="deadline_exceeded"),
            )  # fmt: skip
            with stopping(self._scope):
                await self._all([asyncio.create_task(self._answer(one)) for one in self._choices])
            if self.failure is not None:  # stopped at the last moment
                return
            gate = self._service.shown(plan)
            if plan.stream:
                if plan.usage:
                    self._put(self._response.last(self._answers, gate))
                self._put(DONE)
            else:
                self.whole = self._response.whole(self._answers, gate)
                self._size = 4 * sum(one.tokens for one in self._answers)
        except BaseException as error:
            if self.failure is None:
                self._failed(self._said(error))
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            if late is not None:
                late.cancel()
            for index in range(plan.n):
                self._service.metrics.runs.over(self._name(index))
                self._service.recent.over(self._name(index))
            self.finished = time.monotonic()
            self._choices, self._answers = [], []  # what is kept for a retry is what it is told
            self.plan = replace(plan, question=Question(id="", messages=()), tools=())
            self._owner.running -= 1
            self._service.jobs.discard(self)
            self._notify()

    async def _all(self, tasks: list[asyncio.Task[None]]) -> None:
        """Waits for all; the first that fails stops the others, and none is left behind."""
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            if not all(task.done() for task in tasks):
                self._scope.stop()
                _, left = await asyncio.wait(tasks, timeout=ENDED)
                for task in left:
                    task.cancel()
                await asyncio.wait(tasks)
        failures = [error for task in tasks if (error := task.exception()) is not None]
        if failures:  # what stopped the others, not that they were stopped
            raise min(failures, key=lambda error: isinstance(error, ChainAborted))

    async def _answer(self, choice: Choice) -> None:
        plan = self.plan
        question = plan.question.model_copy(update={"id": self._name(choice.index)})

        def hear(event: Any) -> None:
            before = choice.begun
            choice.hear(event)
            if not before and choice.begun:
                self._notify()

        # Asked for again: until its first question begins, the gate may have had to make room for others.
        gate = None if plan.gate is None else self._service.gates.at(plan.gate.score, plan.gate.alpha)
        told = self._service.recent.listener(plan.model.id, plan.chains)
        state = await plan.model.program.arun(
            question=question, samples=plan.chains, backend=plan.backend, gate=gate,
            listener=each(self._service.metrics.runs, told, hear), seed=plan.seed, seeded_by=f"answer {choice.index}",
            chain_tokens=plan.tokens, chain_stop=plan.stop, watch=choice.watch, **plan.settings,
        )  # fmt: skip
        answer = choice.finish(state.ret_value)
        self._answers.append(answer)
        if plan.stream and self.failure is None:
            self._put(self._response.delta(choice.index, {}, answer.finish, plan.usage))
            self._notify()

    def _delta(self, index: int, delta: dict[str, Any], said: bool = True) -> None:
        if not self.plan.stream or self.failure is not None:
            return
        if said and not self._shown:
            self._shown = True
            self._service.metrics.first(time.monotonic() - self._started)
        self._put(self._response.delta(index, delta, None, self.plan.usage))
        self._notify()

    def _put(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._size += len(frame)

    def _failed(self, why: Refusal) -> None:
        self.failure = why
        if self.plan.stream:
            self._put(frame(why.body))
        self._notify()

    def _said(self, error: BaseException) -> Refusal:
        if isinstance(error, Refusal):
            return error
        if isinstance(error, ConfigError) and "/" not in str(error):  # a path, perhaps
            return wrong(first_line(error))
        if isinstance(error, RuntimeFault):
            log.warning("request %s: %s", self.id, first_line(error))
            return unreachable(self.id)
        if isinstance(error, ChainAborted | asyncio.CancelledError):
            return Refusal(503, "the server is going down", code="going_down", retry_after=5)
        log.error("request %s failed", self.id, exc_info=error)
        return broken(self.id)

    def _name(self, index: int) -> str:
        return f"{self.id}/{index}"

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self) -> None:
        await self._changed.wait()
