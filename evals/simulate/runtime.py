"""One runtime: requests that wait, steps that compute several of them at once, and a prefix cache.

It schedules as SGLang does: whatever waits and fits is read in prefill steps before the next decode step, first come
first served; a request that only scores ends with its prefill, and any other has its first token from it and one of
each decode step that follows. An event is a step, whatever the number of its sequences.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Generator, Hashable
from dataclasses import dataclass
from itertools import count
from typing import Any

import simpy

from a1_sgl.errors import ConfigError
from a1_sgl.evals.simulate.costs import Worker
from a1_sgl.evals.simulate.load import Request

Process = Generator[simpy.Event, Any, Any]


class Cache:
    """A prefix cache: of each question its prompt, and of each chain what comes after that.

    What no request uses is given up when room is wanted, the least recently used first, from its end, and only as much
    of it as is wanted. A chain whose prompt was given up has nothing. What a dropped chunk held is free at once.
    """

    def __init__(self, capacity: int) -> None:
        self.free = capacity
        self._idle: OrderedDict[Hashable, None] = OrderedDict()
        self._spare = 0  # what these hold together
        self._tokens: dict[Hashable, int] = {}
        self._users: dict[Hashable, int] = {}

    def held(self, key: Hashable) -> int:
        """Tokens that it has of a prompt or a chain."""
        return self._tokens.get(key, 0)

    def use(self, key: Hashable) -> None:
        """A request holds on to it."""
        self._users[key] = self._users.get(key, 0) + 1
        if key in self._idle:
            del self._idle[key]
            self._spare -= self.held(key)

    def leave(self, key: Hashable) -> None:
        """A request lets it go; now it is the last to be given up."""
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self._idle[key] = None
            self._spare += self.held(key)

    def resize(self, key: Hashable, tokens: int) -> None:
        """It has so many tokens of it now; somebody uses it, and there is room."""
        self.free -= tokens - self.held(key)
        self._tokens[key] = tokens

    def make_room(self, tokens: int) -> bool:
        """Gives up what is needed to have room for `tokens`; False if all of it were not enough, and then nothing."""
        if tokens <= self.free:
            return True
        if tokens > self.free + self._spare:
            return False
        while tokens > self.free:
            key = next(iter(self._idle))
            given = min(self.held(key), tokens - self.free)
            self.free += given
            self._spare -= given
            self._tokens[key] -= given
            if not self._tokens[key]:
                del self._idle[key], self._tokens[key]
        return True


@dataclass(slots=True)
class Job:
    """A request at a runtime.

    Attributes:
        chain: whose it is; None for a prompt alone.
        shared: tokens of its question's prompt.
        unread: tokens still to be computed before it can write.
    """

    request: Request
    question: Hashable
    chain: Hashable | None
    shared: int
    done: simpy.Event
    unread: int = 0


@dataclass
class Tally:
    """What a runtime did.

    Attributes:
        busy: seconds in steps.
        read, written: tokens computed in prefill, and written.
        again: of those read, the ones that it had computed before and given up since.
        steps: decode steps, and `sequences` in all of them together.
    """

    busy: float = 0.0
    read: int = 0
    written: int = 0
    again: int = 0
    steps: int = 0
    sequences: int = 0


class Machine:
    """What runtimes may share: a step is slower while workers of another role compute beside it."""

    def __init__(self, contention: float) -> None:
        self.contention = contention
        self._busy: dict[str, int] = {}
        self._workers: dict[str, int] = {}

    def join(self, role: str) -> None:
        """One more worker of that role."""
        self._workers[role] = self._workers.get(role, 0) + 1

    def begin(self, role: str) -> float:
        """A step begins; how many times as long as alone it takes. With several workers, the share of those of the
        other role that compute at that moment counts."""
        busy = sum(self._busy.get(other, 0) / of for other, of in self._workers.items() if other != role)
        self._busy[role] = self._busy.get(role, 0) + 1
        return 1 + self.contention * busy

    def end(self, role: str) -> None:
        """It ends."""
        self._busy[role] -= 1


class Runtime:
    """A simulated runtime. `serve` is what a request waits for; it never loses one."""

    def __init__(self, env: simpy.Environment, role: str, worker: Worker, machine: Machine) -> None:
        self.role, self.tally = role, Tally()
        self._env, self._worker, self._machine = env, worker, machine
        self._cache = Cache(worker.capacity)
        self._waiting: deque[Job] = deque()
        self._reading: deque[Job] = deque()
        self._writing: list[tuple[int, int, Job]] = []
        self._order = count()
        self._context = 0
        self._awake = env.event()
        machine.join(role)
        env.process(self._run())

    def serve(self, request: Request, question: Hashable, chain: Hashable | None, shared: int) -> simpy.Event:
        """The event of its end.

        Args:
            shared: tokens of the question's prompt, which its chains have in common.

        Raises:
            ConfigError: it needs more than the runtime holds.
        """
        if request.prompt + request.write > self._worker.capacity:
            raise ConfigError(
                f"a request of {request.prompt + request.write:,} tokens needs more than the {self.role}'s capacity of "
                f"{self._worker.capacity:,}"
            )
        job = Job(request, question, chain, min(shared, request.prompt), self._env.event())
        self._waiting.append(job)
        if not self._awake.triggered:
            self._awake.succeed()
        return job.done

    # --- inside -----------------------------------------------------------------------------------------------

    def _run(self) -> Process:
        while True:
            self._admit()
            if self._reading:
                yield from self._read()
            elif self._writing:
                yield from self._write()
            else:
                self._awake = self._env.event()
                yield self._awake

    def _admit(self) -> None:
        """Takes what waits, in order, as far as there are places and room."""
        budget = self._worker.prefill - sum(job.unread for job in self._reading)
        while self._waiting and budget > 0:
            if len(self._writing) + len(self._reading) >= self._worker.running or not self._place(self._waiting[0]):
                return
            job = self._waiting.popleft()
            self._reading.append(job)
            budget -= job.unread

    def _place(self, job: Job) -> bool:
        """Room in the cache for all that a request will hold, so that none is ever put back; False if there is none."""
        cache, asked = self._cache, job.request
        prompt, own = (job.question, "prompt"), job.chain
        cache.use(prompt)
        if own is not None:
            cache.use(own)
        there = min(cache.held(prompt), job.shared)
        rest = cache.held(own) if own is not None and there == job.shared else 0
        found = min(there + rest, asked.seen, asked.prompt - 1)  # the last token is always computed
        wanted = asked.prompt - job.shared + asked.write
        more = job.shared - cache.held(prompt) + (wanted - (cache.held(own) if own is not None else 0))
        if not cache.make_room(max(0, more)):
            if own is not None:
                cache.leave(own)
            cache.leave(prompt)
            return False
        cache.resize(prompt, max(job.shared, cache.held(prompt)))
        if own is not None:
            cache.resize(own, wanted)
        job.unread = asked.prompt - found
        self.tally.again += max(0, min(asked.seen, asked.prompt - 1) - found)
        return True

    def _read(self) -> Process:
        """A prefill step."""
        left, requests, pairs = self._worker.prefill, 0, 0.0
        ended: list[Job] = []
        while self._reading and left > 0:
            job = self._reading[0]
            tokens = min(job.unread, left)
            pairs += tokens * (job.request.prompt - job.unread + tokens / 2)
            job.unread -= tokens
            left -= tokens
            requests += 1
            if job.unread:
                break
            ended.append(self._reading.popleft())
        tokens = self._worker.prefill - left
        self.tally.read += tokens
        yield from self._step(self._worker.prefill_scale * self._worker.costs.prefill_step(requests, tokens, pairs))
        for job in ended:
            if job.request.write > 1:
                heapq.heappush(self._writing, (self.tally.steps + job.request.write - 1, next(self._order), job))
                self._context += job.request.prompt + 1
            else:
                self._over(job)

    def _write(self) -> Process:
        """A decode step."""
        batch = len(self._writing)
        self.tally.steps += 1
        self.tally.sequences += batch
        yield from self._step(self._worker.decode_scale * self._worker.costs.decode_step(batch, self._context))
        self._context += batch
        while self._writing and self._writing[0][0] <= self.tally.steps:
            job = heapq.heappop(self._writing)[2]
            self._context -= job.request.prompt + job.request.write
            self._over(job)

    def _step(self, seconds: float) -> Process:
        seconds *= self._machine.begin(self.role)
        yield self._env.timeout(seconds)
        self._machine.end(self.role)
        self.tally.busy += seconds

    def _over(self, job: Job) -> None:
        self.tally.written += job.request.write
        if job.chain is not None:
            # The token written last is not computed before it is sent again.
            self._cache.resize(job.chain, job.request.prompt - job.shared + max(job.request.write - 1, 0))
            self._cache.leave(job.chain)
        self._cache.leave((job.question, "prompt"))
        job.done.succeed()
