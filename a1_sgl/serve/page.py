"""The live page at ``/``, and what it is told at ``/live``.

The page is one file without anything from elsewhere; its policy lets nothing run but its own script, by hash, and
nothing be asked but this server. It says how much was written and by whom, and no word of what.
"""

from __future__ import annotations

import base64
import hashlib
import math
import time
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, JSONResponse

from a1_sgl import __version__
from a1_sgl.conformal import GuardedGate
from a1_sgl.conformal.rates import exact_interval
from a1_sgl.serve.gate import TURNS, Level
from a1_sgl.serve.recent import CHAINS, WINDOW
from a1_sgl.serve.service import Service

HERE = Path(__file__).parent
FRESH = 0.5
"""Seconds for which what was told once is told again: many open pages cost as much as one."""


def routes(service: Service) -> APIRouter:
    """The page's routes, for `create_app`."""
    router, page, live = APIRouter(), _page(), Live(service)

    @router.get("/", response_class=HTMLResponse)
    async def shown() -> HTMLResponse:
        """What the server does now, for people."""
        return page

    @router.get("/live")
    async def told() -> JSONResponse:
        """What the page shows."""
        return JSONResponse(live.now(), headers={"Cache-Control": "no-store"})

    return router


class Live:
    """What the page is told; on the event loop, where all of it changes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        exact_interval(0, 1)  # scipy.stats takes a while to import, for which the loop would stand still later
        self._told: dict[str, Any] = {}
        self._at = -math.inf
        self._rates: dict[tuple[str, float], tuple[tuple[int, int], dict[str, Any]]] = {}

    def now(self) -> dict[str, Any]:
        """All of it, as JSON."""
        if time.monotonic() - self._at >= FRESH:
            self._told, self._at = self._look(), time.monotonic()
        return self._told

    def _look(self) -> dict[str, Any]:
        service = self._service
        levels = service.gates.levels
        self._rates = {key: one for key, one in self._rates.items() if key in {(o.score, o.alpha) for o in levels}}
        return {
            "server": {
                "version": __version__, "now": time.time(), "since": service.recent.since, "not_ready": service.ready,
                "running": len(service.jobs), "most": service.settings.requests,
                "chains": service.metrics.runs.chains_in_flight,
            },
            "gates": [self._gate(level) for level in levels],
            "card": service.gates.kind.card is not None, "certificate": self._certificate,
            "runtimes": self._runtimes(),
            "window": WINDOW,
            "requests": self._requests(),
            "first_token": _first(service.metrics.first_tokens),
            "chains": service.recent.chains(), "most_chains": CHAINS,
        }  # fmt: skip

    def _gate(self, level: Level) -> dict[str, Any]:
        counts, gate = level.counts, level.gate
        key, state = (level.score, level.alpha), (counts.decisions, len(counts.open))
        if (known := self._rates.get(key)) is None or known[0] != state:  # of ten thousand questions it takes a while
            rate = counts.rate
            low, high = rate.interval()
            turns = [
                {"turn": turn, "rate": hits / n, "low": low, "high": high, "take_overs": hits, "decisions": n}
                for turn, (hits, n) in sorted(counts.turns.items())
                for low, high in [exact_interval(hits, n)]
            ]
            known = self._rates[key] = state, {
                "rate": rate.realised, "low": low, "high": high, "decisions": rate.n,
                "questions": len(counts.recent) + len(counts.open), "turns": turns,
            }  # fmt: skip
        alarm = None
        if isinstance(gate, GuardedGate):
            alarm = {
                "action": gate.action, "count": level.alarms, "handing_over": gate.handing_over,
                "log_wealth": _finite(gate.log_wealth), "threshold": _finite(gate.threshold), "watched": gate.watched,
            }  # fmt: skip
        return {
            "gate": self._service.gates.kind.name, "score": level.score, "alpha": level.alpha, **known[1],
            "last_turn": TURNS, "all_decisions": counts.decisions, "all_take_overs": counts.take_overs,
            "scores": level.scores, "alarm": alarm,
        }  # fmt: skip

    @cached_property
    def _certificate(self) -> dict[str, Any] | None:
        """Which fields keep it from speaking of the default, without their values: some are paths."""
        if (standing := self._service.standing()) is None:
            return None
        found = standing.certificate
        return {
            "covered": standing.covered, "apart": [one.partition(" is ")[0] for one in standing.apart],
            "epsilon": found.epsilon, "delta": found.delta, "alphas": list(found.alphas),
        }  # fmt: skip

    def _runtimes(self) -> list[dict[str, Any]]:
        found, pace = [], self._service.recent.tokens_a_second()
        for engine in self._service.backend.engines:
            names = [role.name for role in self._service.backend.roles.all if role.engine is engine]
            for one in getattr(engine, "members", (engine,)):
                load = getattr(one, "load", None)  # an engine of somebody's own may not tell
                found.append({
                    "name": one.name, "roles": names, "up": one.available,
                    "under_way": load and load.under_way, "waiting": load and load.waiting, "most": load and load.most,
                    "tokens_a_second": pace.get(one.name, 0.0),
                })  # fmt: skip
        return found

    def _requests(self) -> dict[str, int]:
        """By status; those for a look at the server itself, this page's among them, are left out."""
        found: Counter[str] = Counter()
        for (route, status), count in self._service.metrics.requests.items():
            if route.startswith("/v1/"):
                found[status] += count
        return dict(sorted(found.items()))


def _finite(value: float) -> float | None:
    """JSON has no other numbers: a threshold that is never reached is None."""
    return value if math.isfinite(value) else None


def _first(seconds: Sequence[float]) -> dict[str, Any]:
    """Quantiles of what was seen: of so many, the one at that rank."""
    ordered = sorted(seconds)

    def at(share: float) -> float | None:
        return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None

    return {"streams": len(ordered), "p50": at(0.5), "p95": at(0.95)}


def _page() -> HTMLResponse:
    parts = {name: (HERE / f"page.{name}").read_text() for name in ("html", "css", "js")}
    # As they stand between their tags, to the last line break, which is what browsers take the hash of.
    hashes = {name: base64.b64encode(hashlib.sha256(parts[name].encode()).digest()).decode() for name in ("css", "js")}
    policy = {
        "default-src": "'none'", "script-src": f"'sha256-{hashes['js']}'", "style-src": f"'sha256-{hashes['css']}'",
        "connect-src": "'self'", "img-src": "data:", "base-uri": "'none'", "form-action": "'none'",
        "frame-ancestors": "'none'", "require-trusted-types-for": "'script'",
    }  # fmt: skip
    text = parts["html"].replace("{{ style }}", parts["css"]).replace("{{ script }}", parts["js"])
    return HTMLResponse(text, headers={
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache",
        "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
    })  # fmt: skip
