"""What the server is made of: runtimes, models, the gate, keys, and the work under way."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a1_sgl.conformal import Card
from a1_sgl.conformal.certificate import Standing
from a1_sgl.errors import ConfigError
from a1_sgl.evals.environment import fingerprint, packages
from a1_sgl.programs import stop_strings
from a1_sgl.serve.gate import Gates, Kind
from a1_sgl.serve.idempotency import Store
from a1_sgl.serve.job import Job
from a1_sgl.serve.keys import Keys, Owner
from a1_sgl.serve.metrics import ServerMetrics
from a1_sgl.serve.models import Models
from a1_sgl.serve.plan import Plan, plan
from a1_sgl.serve.recent import Recent
from a1_sgl.serve.refusals import Refusal
from a1_sgl.serve.requests import Defaults, Effort, Request
from a1_sgl.session import Backend

log = logging.getLogger(__name__)
SAMPLING = ("temperature", "top_p", "top_k", "min_p")
TICK = 0.5
"""Seconds between two writes of the gate's journal: a kill costs at most two of them."""


@dataclass(frozen=True)
class Settings:
    """Limits, and what holds for all requests.

    Attributes:
        requests: most completions at once; beyond, 429.
        chains: most chains of one request, all its answers together.
        tokens: most tokens of an answer's chain.
        deadline: most seconds of a request.
        body: most bytes of a request.
        upload: most seconds until a request's body is there.
        keep_alive: seconds of silence after which a stream says that it is alive.
        stall: seconds that a reader may leave a stream unread.
        linger: seconds that work with an Idempotency-Key goes on when nobody listens.
        grace: seconds that running requests have when the server is to end.
        reasoning: where reasoning ends; None goes by the chat template.
        tool_parser: how the models write calls of tools, a name of SGLang's.
        hosts: names that requests may call this server by; None takes any.
    """

    requests: int = 256
    chains: int = 64
    tokens: int = 32_768
    deadline: float = 600.0
    body: int = 1 << 20
    upload: float = 30.0
    keep_alive: float = 15.0
    stall: float = 60.0
    linger: float = 30.0
    grace: float = 30.0
    reasoning: Effort | None = None
    tool_parser: str | None = None
    hosts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("requests", "chains", "tokens", "deadline", "body", "upload", "keep_alive", "stall"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("linger", "grace"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be at least 0 s, not {getattr(self, name)}")


class Service:
    """Everything behind the routes. It lives on the project's event loop, where its runtimes' requests are.

    Attributes:
        backend: the runtimes; shared by all requests.
        gates: the gate of all requests.
        parameters, sampling, chunks: what requests are run with that say nothing: as the card was made, so that its
            scores are those of chunks like theirs.
        jobs: the work under way.
        recent: the chains that were written last.
    """

    def __init__(
        self,
        backend: Backend,
        kind: Kind | None = None,
        *,
        settings: Settings | None = None,
        keys: Keys | None = None,
        defaults: Defaults | None = None,
        state: Path | None = None,
        grader: str = "math",
        allow_mismatch: tuple[str, ...] = (),
    ) -> None:
        """
        Args:
            state: folder of the gate's state; None keeps none.
            grader: by which chains' answers are compared.
            allow_mismatch: fields in which the card may differ from these runtimes.

        Raises:
            ConfigError: a card that was made with other models, a state that cannot be used, or a tool parser that
                there is not.
        """
        kind = kind or Kind()
        self.backend, self.settings, self.grader = backend, settings or Settings(), grader
        self.keys, self.defaults = keys or Keys(), defaults or Defaults()
        if self.settings.tool_parser is not None:
            from a1_sgl.serve import tools

            tools.check(self.settings.tool_parser)
        self._protocol = _protocol(kind.card, backend, allow_mismatch)
        self.parameters: dict[str, Any] = dict(self._protocol.get("parameters", {}))
        self.sampling: dict[str, Any] = dict(self._protocol.get("sampling", {}))
        self.chunks: list[str] = list(self._protocol.get("stop", stop_strings("step")))
        self.models = Models(backend.roles)
        self._alone: dict[str, Backend] = {}
        for name in self.defaults.models:
            self.models.known(name)
        try:
            self.gates = Gates(kind, state)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.jobs: set[Job] = set()
        self.recent = Recent()
        self.metrics = ServerMetrics(self.gates, lambda: len(self.jobs), self._certified({}))
        self.store: Store[Job] = Store()
        self.draining = False
        self._ticking: asyncio.Task[None] | None = None

    # --- requests ---------------------------------------------------------------------------------------------

    def alone(self, role: str | None) -> Backend:
        """The runtime of one role by itself; the whole backend where that is None or all there is."""
        if role is None or len(self.backend.roles.all) == 1:
            return self.backend
        if role not in self._alone:
            self._alone[role] = self.backend.alone(role)
        return self._alone[role]

    async def submit(self, request: Request, owner: Owner, name: str, key: str | None) -> Job:
        """The work for a request: begun, or joined where a retry comes for it. Whoever gets it has joined it.

        Args:
            name: the request's id.
            key: its Idempotency-Key.

        Raises:
            Refusal: it cannot be honoured, or not now.
        """
        digest = hashlib.sha256(f"{type(request).__name__}{request.model_dump_json()}".encode()).hexdigest()
        if key is not None and (found := self.store.find(owner.name, key, digest)) is not None:
            found.join()
            return found
        self._room()
        owner.check()
        owner.running += 1  # before anything is waited for, so that no two are counted as one
        try:
            wanted = await plan(self, request)
            if key is not None and (found := self.store.find(owner.name, key, digest)) is not None:  # came meanwhile
                found.join()
                owner.running -= 1
                return found
            if down := [role.name for role in wanted.backend.roles.all if not role.engine.available]:
                raise Refusal(
                    503, f"the {' and the '.join(down)} cannot be reached", code="runtime_down", retry_after=5
                )  # fmt: skip
            self._room()
            if key is not None:
                self.store.room()
        except BaseException:
            owner.running -= 1
            raise
        job = Job(self, wanted, owner, name, kept=key is not None)
        self.jobs.add(job)
        job.join()
        if key is not None:
            self.store.add(owner.name, key, digest, job)
        return job

    def _room(self) -> None:
        if self.draining:
            raise Refusal(503, "the server is going down", code="going_down", retry_after=5)
        if len(self.jobs) >= self.settings.requests:
            raise Refusal(
                429, f"the server is full; requests that it runs at once: {self.settings.requests}", code="server_full",
                retry_after=2,
            )  # fmt: skip

    @property
    def ready(self) -> str | None:
        """Why no request can be taken now; None where one can."""
        if self.draining:
            return "going down"
        down = [role.name for role in self.backend.roles.all if not role.engine.available]
        return f"not reachable: {', '.join(down)}" if down else None

    def shown(self, plan: Plan) -> dict[str, Any] | None:
        """The gate as a response tells of it."""
        if plan.gate is None:
            return None
        certified = self._certified({
            "program": plan.model.program.name, "chains": plan.chains, "vote": plan.settings["vote"],
            "rate": plan.settings["rate"], "stop": plan.settings["stop"], "score": plan.gate.score,
            "parameters": {name: plan.settings[name] for name in plan.model.program.own if name in plan.settings},
            "sampling": {name: plan.settings[name] for name in SAMPLING if name in plan.settings},
        }, plan.gate.alpha)  # fmt: skip
        return plan.gate.shown() | ({} if certified is None else {"certified": certified and not plan.bounded})

    # --- life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to write the gate's journal; on the loop."""
        self._ticking = asyncio.create_task(self._tick())

    async def drain(self) -> None:
        """Takes no more requests, waits for those that run, for so long, and saves the gate."""
        self.draining = True
        until = time.monotonic() + self.settings.grace
        while self.jobs and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for job in list(self.jobs):
            job.stop(Refusal(503, "the server is going down", code="going_down", retry_after=5))
        for job in list(self.jobs):
            await job.ended()
        await self.close()

    async def close(self) -> None:
        """Saves the gate; nothing may be under way."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.wait([self._ticking])
            self._ticking = None
        self.gates.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self.gates.flush()
            self.store.sweep()

    def standing(self, changes: Mapping[str, Any] | None = None, alpha: float | None = None) -> Standing | None:
        """Whether the card's certificate speaks of requests that say nothing of their own, or of those with `changes`;
        None where there is none.

        That the questions are drawn as those it was made on is for whoever asks to know.
        """
        kind = self.gates.kind
        if kind.card is None or (certificate := kind.card.certificate) is None:
            return None
        policy = {
            **certificate.policy, "models": self._protocol["models"], "packages": packages(), "gate": kind.name,
            "bank": kind.card.sha256, "alarm": None if kind.alarm == "warn" else kind.alarm, "grader": self.grader,
            **(changes or {}),
        }  # fmt: skip
        return certificate.standing(policy, kind.alpha if alpha is None else alpha, [])

    def _certified(self, changes: Mapping[str, Any], alpha: float | None = None) -> bool | None:
        found = self.standing(changes, alpha)
        return None if found is None else found.covered


def _protocol(card: Card | None, backend: Backend, allow: tuple[str, ...]) -> dict[str, Any]:
    """How the card's scores were made, on models that are these.

    Raises:
        ConfigError: they are not.
    """
    if card is None:
        return {}
    models = {role.name: fingerprint(role.engine) for role in backend.roles.all}
    protocol = {**card.protocol, "models": models}
    card.check(protocol, [], packages=packages(), allow=allow)
    return protocol
