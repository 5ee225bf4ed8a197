"""Several runtimes of each kind, the chains that use them, and what comes of it."""

from __future__ import annotations

import random
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import simpy

from a1_sgl.errors import ConfigError
from a1_sgl.evals.simulate.costs import Pair
from a1_sgl.evals.simulate.load import Question, Request
from a1_sgl.evals.simulate.runtime import Machine, Process, Runtime, Tally

SLACK = 8
"""Requests by which a question's runtime may be busier than the least busy one before its chains go there: as the
fleets of `a1_sgl.engine` have it."""


@dataclass(frozen=True)
class Arrivals:
    """When questions come.

    Attributes:
        in_flight: most chains at once; None for any number.
        rate: questions a second, at random times (a Poisson process); None where the next question is begun whenever
            there is a place, as `a1 eval` does.
    """

    in_flight: int | None = 64
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.in_flight is not None and self.in_flight < 1:
            raise ConfigError(f"at least one chain must be in flight, not {self.in_flight}")
        if self.rate is not None and not self.rate > 0:
            raise ConfigError(f"questions arrive at a rate above 0 a second, not {self.rate:g}")
        if self.rate is None and self.in_flight is None:
            raise ConfigError("where no rate is given, questions begin as places come free, so say how many there are")


@dataclass(frozen=True)
class Outcome:
    """What a simulation came to; times in simulated seconds.

    Attributes:
        wall: from the first arrival to the last chain's end.
        ended: when each chain ended, ascending.
        latency: of each question, from its arrival to its last chain's end, ascending. Where none arrives, from
            when its first chain was admitted.
        seconds: what requests took, by role and whether they wrote, in the order in which they ended; the way there
            and back included.
        tallies: of each runtime, by role.
        busy: share of the time in which runtimes compute, be it for one sequence, by role; where questions arrive,
            until the last one has.
        kept_up: of as many questions as arrived in the second half of the arrivals, those that were answered in that
            time; None where none arrives.
        barrier: seconds that chains waited for others of their question.
    """

    wall: float
    ended: tuple[float, ...]
    latency: tuple[float, ...]
    seconds: dict[tuple[str, bool], list[float]]
    tallies: dict[str, list[Tally]]
    busy: dict[str, float]
    kept_up: float | None
    barrier: float

    def percentile(self, percent: float) -> float:
        """Of the questions' latencies, linearly in between."""
        at = (len(self.latency) - 1) * percent / 100
        low = int(at)
        high = min(low + 1, len(self.latency) - 1)
        return self.latency[low] + (at - low) * (self.latency[high] - self.latency[low])

    def batch(self, role: str) -> float:
        """Sequences in a decode step, on average."""
        return self.total("sequences", role) / max(self.total("steps", role), 1)

    def throughput(self) -> float:
        """Chains a second until three quarters of them have ended."""
        return throughput(self.ended)

    def total(self, name: str, role: str | None = None) -> float:
        """The sum of a `Tally`'s attribute over the runtimes of a role, or all."""
        of = [one for key, members in self.tallies.items() if role in (None, key) for one in members]
        return float(sum(getattr(one, name) for one in of))


def throughput(ended: Sequence[float]) -> float:
    """Chains a second until three quarters of them have ended, before the tail in which places stay empty."""
    count = max(1, len(ended) * 3 // 4)
    return count / sorted(ended)[count - 1]


class Fleet:
    """Runtimes of one role. A question goes to the least busy one, and its chains with it, as far as `SLACK` lets."""

    def __init__(self, members: Sequence[Runtime]) -> None:
        self.members = members
        self._load = [0] * len(members)
        self._homes: dict[Hashable, int] = {}

    def place(self, question: Hashable, chain: Hashable | None) -> int:
        """The runtime of a request, by number."""
        key = question if chain is None else chain
        home = self._homes.get(key)
        if home is None:
            least = min(range(len(self.members)), key=self._load.__getitem__)
            home = self._homes.get(question, least)
            if self._load[home] > self._load[least] + SLACK:
                home = least
            self._homes[key] = home
        return home

    def serve(self, request: Request, question: Hashable, chain: Hashable | None, shared: int) -> Process:
        """Waits for one of them to answer it."""
        at = self.place(question, chain)
        self._load[at] += 1
        yield self.members[at].serve(request, question, chain, shared)
        self._load[at] -= 1


@dataclass
class _Simulation:
    """A run of it, under way."""

    env: simpy.Environment
    fleets: dict[str, Fleet]
    network: float
    places: simpy.Resource | None
    ended: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    seconds: dict[tuple[str, bool], list[float]] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=dict)
    half: int | None = None
    kept_up: float | None = None
    barrier: float = 0.0
    begun: int = 0
    over: simpy.Event | None = None

    def arrive(self, questions: Sequence[Question], arrivals: Arrivals, seed: int) -> Process:
        """Begins every question when it is its turn."""
        drawn = random.Random(seed)
        for number, question in enumerate(questions):
            if arrivals.rate is not None:
                yield self.env.timeout(drawn.expovariate(arrivals.rate))
                if number == len(questions) // 2:
                    self.half = len(self.latency)
            else:
                limit, more = arrivals.in_flight or 1, len(question.chains)
                while self.begun >= limit and self.begun + more > 2 * limit:  # as evals.runner does
                    self.over = self.env.event()
                    yield self.over
            self.begun += len(question.chains)
            self.env.process(self._question(number, question, arrivals.rate is not None))
        if arrivals.rate is not None:
            self.busy = self.busy_by_now()
            came = len(questions) - len(questions) // 2
            self.kept_up = (len(self.latency) - (self.half or 0)) / came

    def busy_by_now(self) -> dict[str, float]:
        """Share of the time in which runtimes computed, by role."""
        return {
            role: statistics.fmean(one.tally.busy for one in fleet.members) / self.env.now if self.env.now else 0.0
            for role, fleet in self.fleets.items()
        }

    def _question(self, number: int, question: Question, arrives: bool) -> Process:
        came = self.env.now
        if question.prompt:
            yield self.env.all_of(
                [self.env.process(self._ask(one, number, None, one.prompt)) for one in question.prompt]
            )
        first: list[float] = []
        if question.together:
            yield from self._together(number, question, first)
        else:
            yield self.env.all_of(
                [
                    self.env.process(self._chain(number, i, chain.requests, question, first, True))
                    for i, chain in enumerate(question.chains)
                ]
            )
        self.latency.append(self.env.now - (came if arrives else min(first, default=came)))

    def _together(self, number: int, question: Question, first: list[float]) -> Process:
        for phase in range(max(len(chain.phases) for chain in question.chains)):
            going = [
                (i, chain.phases[phase])
                for i, chain in enumerate(question.chains)
                if len(chain.phases) > phase and chain.phases[phase]
            ]
            ends = [self.env.process(self._chain(number, i, requests, question, first, False)) for i, requests in going]
            if ends:
                found = yield self.env.all_of(ends)
                self.barrier += sum(self.env.now - at for at in found.values())
        for _ in question.chains:
            self._chain_ended()

    def _chain(
        self, number: int, sample: int, requests: Sequence[Request], question: Question, first: list[float], ends: bool
    ) -> Process:
        """Requests of a chain, one after the other, in one place; returns when it has ended."""
        place = self.places.request() if self.places is not None else None
        if place is not None:
            yield place
        first.append(self.env.now)
        shared = question.prompts
        for one in requests:
            yield from self._ask(one, number, (number, sample), shared.get(one.role, 0))
        if place is not None and self.places is not None:
            self.places.release(place)
        if ends:
            self._chain_ended()
        return self.env.now

    def _ask(self, request: Request, question: Hashable, chain: Hashable | None, shared: int) -> Process:
        began = self.env.now
        if self.network:
            yield self.env.timeout(self.network / 2)
        yield from self.fleets[request.role].serve(request, question, chain, shared)
        if self.network:
            yield self.env.timeout(self.network / 2)
        self.seconds.setdefault((request.role, request.write > 0), []).append(self.env.now - began)

    def _chain_ended(self) -> None:
        self.ended.append(self.env.now)
        self.begun -= 1
        if self.over is not None and not self.over.triggered:
            self.over.succeed()


def simulate(
    questions: Sequence[Question],
    pair: Pair,
    arrivals: Arrivals,
    *,
    drafts: int = 1,
    targets: int = 1,
    seed: int = 0,
) -> Outcome:
    """Runs the questions on so many runtimes; the same arguments give the same outcome.

    Args:
        seed: of the times of arrival.

    Raises:
        ConfigError: no runtime, no question, or a request that is larger than a runtime's capacity.
    """
    if not questions:
        raise ConfigError("there is no question to simulate")
    wanted = {one.role for question in questions for one in _requests(question)}
    sizes = {role: count for role, count in (("draft", drafts), ("target", targets)) if role in wanted}
    if any(count < 1 for count in sizes.values()):
        raise ConfigError(f"at least one draft and one target are needed, not {drafts} and {targets}")
    env, machine = simpy.Environment(), Machine(pair.contention)
    fleets = {
        role: Fleet([Runtime(env, role, getattr(pair, role), machine) for _ in range(count)])
        for role, count in sizes.items()
    }
    places = simpy.Resource(env, arrivals.in_flight) if arrivals.in_flight is not None else None
    run = _Simulation(env, fleets, pair.network, places)
    env.process(run.arrive(questions, arrivals, seed))
    env.run()
    return Outcome(
        wall=max(run.ended), ended=tuple(sorted(run.ended)), latency=tuple(sorted(run.latency)), seconds=run.seconds,
        tallies={role: [one.tally for one in fleet.members] for role, fleet in fleets.items()},
        busy=run.busy or run.busy_by_now(), kept_up=run.kept_up, barrier=run.barrier,
    )  # fmt: skip


def _requests(question: Question) -> list[Request]:
    return [*question.prompt, *(one for chain in question.chains for one in chain.requests)]
