"""Whoever carries out a question's audits: beside the chains, which wait for none of them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from a1_sgl.conformal import Decider, Place
from a1_sgl.engine import Scope, stack, wait
from a1_sgl.session.account import Account
from a1_sgl.session.audits import Audit
from a1_sgl.session.chain import Chain, seeds
from a1_sgl.types import AuditEvent, Chunk

PRIORITY = -1
"""Of an audit's requests: chains go before it. A runtime heeds it with ``--enable-priority-scheduling
--default-priority-value 0``."""


class Auditor:
    """Begins audits in the background and owns them until they are over.

    An audit belongs to its decision: that its chain ends, is stopped, or gives the chunk up does not stop it, only the
    end of its question does. Each is answered once, whatever happens: told to the account, with all that it took,
    and to the gate. One that fails or is stopped counts as wrong, since what is not known is not right.
    """

    def __init__(self, by: Audit, account: Account, scope: Scope, seed: int | None) -> None:
        """
        Args:
            by: how chunks are audited.
            account: the question's.
            scope: the question's; what stops it stops its audits.
            seed: the question's.
        """
        self._by, self._account, self._scope, self._seed = by, account, scope, seed
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, chain: Chain, chunk: Chunk, gate: Decider) -> None:
        """Begins the audit of `chunk`, the last of `chain`; this returns at once."""
        place = Place(chain.question.id, chain.sample, chain.turn, chain.question.task, chain.attempt)
        context = replace(chain.context.within(Scope(self._scope)), priority=PRIORITY)
        # An account of its own collects what it does; seeds of its own leave the chain what it would have been.
        apart = chain.apart(context, Account(chain.question, None), seeds(self._seed, *place, "audit"))
        self._tasks.append(wait(_begun(stack(self._answer, apart, chunk, place, gate))))

    def finish(self) -> None:
        """Waits for all answers. Interrupted, it stops those that are under way, and waits for their end.

        Raises:
            Exception: the first one that a gate or a listener raised when it was told.
        """
        wait(self._ended())

    def _answer(self, chain: Chain, chunk: Chunk, place: Place, gate: Decider) -> None:
        error = None
        try:
            wrong = self._by.of(chain, chunk)
        except Exception as failure:  # stopped, or whatever else it met
            wrong, error = True, f"{type(failure).__name__}: {failure}"
        chain.leave()
        calls = tuple(chain.account.calls)
        try:
            self._account.tell(AuditEvent(**place._asdict(), by=self._by.name, wrong=wrong, error=error, calls=calls))
        finally:
            gate.audited(wrong, **place._asdict())

    async def _ended(self) -> None:
        interrupted: asyncio.CancelledError | None = None
        while under_way := [task for task in self._tasks if not task.done()]:
            try:
                await asyncio.wait(under_way)
            except asyncio.CancelledError as error:
                interrupted = error
                self._scope.stop()
        tasks, self._tasks = self._tasks, []
        failures = [failure for task in tasks if (failure := task.exception()) is not None]
        if interrupted is not None:
            raise interrupted
        if failures:
            raise failures[0]


async def _begun(running: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.create_task(running)
