"""`a1 serve`: programs behind an OpenAI-compatible server."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from a1_sgl.cli import common, complete, console, errors
from a1_sgl.cli.runtimes import Runtimes, takes_runtimes
from a1_sgl.errors import ConfigError

if TYPE_CHECKING:
    from a1_sgl.conformal import Card
    from a1_sgl.serve import Service, Settings
    from a1_sgl.serve.gate import Kind
    from a1_sgl.session import Backend

KEYS = "A1_SERVE_KEYS"
"""Environment variable with keys, commas between."""


@takes_runtimes
def serve(
    context: typer.Context,
    runtimes: Runtimes,
    host: Annotated[str, typer.Option(help="Where to listen. Others than this machine need --keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where to listen; 0 is any port that is free.", min=0, max=65535)] = 8080,
    pocket: Annotated[
        bool, typer.Option("--pocket", help="Start a pocket pair too, with its card: a laptop is enough.")
    ] = False,
    pocket_task: Annotated[str, typer.Option(help="With --pocket: whose pair, stories or chain.")] = "stories",
    keys: Annotated[
        Path | None, typer.Option(help=f"File of bearer keys and their limits; {KEYS} holds keys too.")
    ] = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Listen beyond this machine and let everybody ask.")
    ] = False,
    defaults: Annotated[Path | None, typer.Option(help="File of what requests are taken to say.")] = None,
    calibration: common.CardPath = None,
    allow_mismatch: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD", help="A field in which the card may differ from this set-up."),
    ] = None,
    gate: common.CardGate = None,
    alpha: common.CardAlpha = None,
    alarm: Annotated[
        str | None,
        typer.Option(
            help="On drift: warn, recalibrate or hand-over. [default: no alarm]", autocompletion=complete.alarms
        ),
    ] = None,
    alarm_threshold: Annotated[
        float, typer.Option(help="Wealth of the drift martingale; at most one false alarm in so many runs.")
    ] = 100.0,
    seed: Annotated[int, typer.Option(help="Of the gate's smoothing numbers.")] = 0,
    gate_state: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the gate is kept. [default: STATE/serve]")
    ] = None,
    max_requests: Annotated[int, typer.Option(help="Most completions at once; beyond, 429.")] = 256,
    max_chains: Annotated[int, typer.Option(help="Most chains of one request.")] = 64,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of one chain.")] = 32_768,
    max_body: Annotated[int, typer.Option(help="Most bytes of a request.")] = 1 << 20,
    time_limit: Annotated[float, typer.Option(help="Most seconds of a request.")] = 600.0,
    keep_alive: Annotated[
        float, typer.Option(help="Seconds of silence after which a stream says that it is alive.")
    ] = 15.0,
    grace: Annotated[float, typer.Option(help="Seconds that running requests have when the server is to end.")] = 30.0,
    reasoning: Annotated[
        str | None, typer.Option(help="Where reasoning ends: think, open or none. [default: by the chat template]")
    ] = None,
    tool_parser: Annotated[
        str | None, typer.Option(metavar="NAME", help="How the models write calls of tools; a parser of SGLang's.")
    ] = None,
    grader: Annotated[str | None, typer.Option(help="How answers are compared for votes. [default: math]")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate, for TLS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name that requests may call this server by.")
    ] = None,
) -> None:
    """Serve programs to any OpenAI client: /v1/chat/completions, /v1/completions, /v1/models, /metrics."""
    from a1_sgl.cli.launch import terminate_on_sigterm
    from a1_sgl.conformal import Card
    from a1_sgl.launch.pocket import PAIRS, card_path
    from a1_sgl.serve import Service
    from a1_sgl.serve.keys import Keys
    from a1_sgl.serve.page import routes
    from a1_sgl.serve.requests import Defaults, Options
    from a1_sgl.serve.running import running

    if (tls_cert is None) != (tls_key is None):
        raise ConfigError("--tls-cert and --tls-key go together; give both or neither")
    if not pocket:
        common.idle(context, ("pocket_task",), "pocket", "without --pocket; give that too")
    elif pocket_task not in PAIRS:
        raise ConfigError(f"--pocket-task {pocket_task}: there are pocket pairs of {', '.join(PAIRS)}")
    if alarm is None:
        common.idle(context, ("alarm_threshold",), "alarm", "without --alarm; name one")
    if calibration is None:
        common.idle(context, ("allow_mismatch",), "calibration", "without --calibration; name a card")
    settings = _settings(
        host, allow_host, requests=max_requests, chains=max_chains, tokens=max_tokens, body=max_body,
        deadline=time_limit, keep_alive=keep_alive, grace=grace, reasoning=reasoning, tool_parser=tool_parser,
    )  # fmt: skip
    taken = Keys.load(keys, os.environ.get(KEYS))
    if not _local(host) and taken.open and not without_keys:
        raise ConfigError(
            f"--host {host} lets other machines ask, and there is no key; give --keys FILE, or --without-keys if "
            "everybody may"
        )
    usual = Defaults() if defaults is None else Defaults.load(defaults)
    card: Card | None = common.card(calibration)
    if pocket:
        from a1_sgl.evals.tasks import find_task

        task = find_task(pocket_task)
        card = card or Card.load(card_path(pocket_task))
        grader = grader or task.grader
        (system, *_) = task.question("?").messages
        usual = Defaults(system=str(system["content"]), a1=Options(reasoning="open")).under(usual)
    kind = _kind(card, gate, alpha, alarm, alarm_threshold, seed)
    with (
        terminate_on_sigterm(),
        contextlib.suppress(KeyboardInterrupt),
        _backend(runtimes, pocket, pocket_task) as pair,
    ):
        service = Service(
            pair, kind, settings=settings, keys=taken, defaults=usual, state=gate_state or runtimes.state / "serve",
            grader=grader or "math", allow_mismatch=tuple(allow_mismatch or ()),
        )  # fmt: skip
        with running(service, host, port, cert=tls_cert, key=tls_key, pages=[routes(service)]) as server:
            _say(service, server.url, card)
            server.wait()
    console.print("stopped; the gate is saved")


def _local(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    from a1_sgl.serve.running import LOOPBACK

    return host in LOOPBACK or host.startswith("127.")


def _settings(host: str, allowed: list[str] | None, **limits: object) -> Settings:
    from a1_sgl.serve import Settings
    from a1_sgl.serve.running import LOOPBACK

    if limits["reasoning"] not in (None, "think", "open", "none"):
        raise ConfigError(f"--reasoning is think, open or none, not {limits['reasoning']!r}")
    known = {*LOOPBACK, host, *(allowed or ())}
    hosts = known if _local(host) or allowed else set()
    return Settings(hosts=tuple(name.lower() for name in hosts) or None, **limits)  # type: ignore[arg-type]


def _kind(
    card: Card | None, gate: str | None, alpha: float | None, alarm: str | None, threshold: float, seed: int
) -> Kind:
    from a1_sgl.conformal import GATES
    from a1_sgl.conformal.alarm import ACTIONS
    from a1_sgl.serve.gate import Kind

    name = common.gate(gate, card)
    if name not in GATES:
        raise ConfigError(
            f"--gate {name}: a server's requests have as many chains as they like and nobody audits them; there are "
            f"{', '.join(GATES)}"
        )
    if alarm not in (None, *ACTIONS):
        raise ConfigError(f"--alarm is {', '.join(ACTIONS)}, not {alarm!r}")
    score = card.score if card is not None else "mean_loss"
    return Kind(name, common.alpha(alpha, card), score, card, alarm, threshold, seed)


@contextlib.contextmanager
def _backend(runtimes: Runtimes, pocket: bool, task: str) -> Iterator[Backend]:
    """The runtimes: those that are named or launched, or a pocket pair for as long as the server lives."""
    if not pocket:
        alone = [name for name in ("draft", "target") if runtimes.given.get(name)]
        with runtimes.connect(alone[0] if len(alone) == 1 else None) as backend:
            yield backend
        return
    from a1_sgl.cli.launch import watching
    from a1_sgl.launch.pocket import pocket_specs
    from a1_sgl.launch.runtimes import serve as launched
    from a1_sgl.session import Backend

    if any(runtimes.given.values()):
        raise ConfigError("--pocket starts runtimes of its own; leave --draft, --target and --verifier out")
    with (
        watching() as progress,
        launched(pocket_specs(task), runtimes.state / "logs", progress=progress) as (draft, target),
        Backend.connect(
            draft.url, target.url, in_flight=runtimes.in_flight, deadline=runtimes.deadline, settings=runtimes.settings
        ) as pair,
    ):
        yield pair


def _say(service: Service, url: str, card: Card | None) -> None:
    """Where it is and what it has."""
    console.print(f"serving at {url}/v1, e.g. OpenAI(base_url='{url}/v1', api_key='...')", highlight=False)
    start = f"from {len(card.scores):,} scores of its card" if card is not None else common.NO_CARD
    console.print(f"what it does now: {url}/", highlight=False)
    kind = service.gates.kind
    console.print(f"gate: {kind.name} at alpha {kind.alpha:g}, {start}", highlight=False, soft_wrap=True, markup=False)
    if service.keys.open:
        errors.print("no keys: whoever reaches it may ask", highlight=False, markup=False)
