"""`a1 serve` under load: ``python -m a1_sgl.evals.benchmarks.serving --out runs/serving``.

Serves the pocket pair of `chain` and, in a process of its own, ``a1 serve`` before it, and sends requests of every kind
from so many clients for so long: answers in one piece and streamed, several of them, votes; readers who are slow, and
clients that go away before the answer or in its middle; retries with an ``Idempotency-Key``; wrong keys, and requests
that cannot be honoured. An answer that is not as it should be is an error, and its reason is printed. Memory, threads,
files and asyncio tasks are the server's own: after a few requests of every kind, in the middle, and when all is over.
What still runs then the two runtimes are asked themselves (``/v1/loads``).

Then it is measured how soon a client that goes away leaves nothing running on the two runtimes.

Counts, errors and what is left do not depend on the machine. Seconds do, and memory a little.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import numpy as np
import psutil
import typer
import yaml
from rich.console import Console
from rich.table import Table

from a1_sgl.errors import A1Error
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket import card_path, pocket_specs
from a1_sgl.launch.processes import free_port
from a1_sgl.launch.runtimes import serve
from a1_sgl.types import Question

TASK = "chain"
CHAT = "/v1/chat/completions"
STARTED, OVER = 300.0, 120.0
"""Seconds for the server to start, and for what runs at the end to come to its own."""
WARM = 20
"""Clients of the few requests of every kind before anything is measured."""
QUIET = 1.0
"""Seconds without a chain on either runtime after which none will come any more."""
console = Console(width=80, highlight=False)


class Wrong(A1Error):
    """An answer that is not as it should be."""


@dataclass(frozen=True)
class Outcome:
    """How one request went.

    Attributes:
        end: ``answered``, ``gone`` (the client went away, as it meant to), ``refused`` or ``error``.
        seconds: until it was over.
        first: until the first token was there, of a stream.
        why: of a refusal its status, of an error what was wrong.
    """

    kind: str
    end: str
    seconds: float
    first: float | None = None
    why: str = ""


@dataclass
class Clients:
    """Clients of one server: `seconds` long each sends one request after the other, of kinds drawn at random.

    Attributes:
        url: the server.
        key: that it knows.
        closed: whether it asks for one.
        outcomes: of all requests so far.
    """

    url: str
    key: str
    questions: Sequence[Question]
    seed: int = 0
    closed: bool = True
    outcomes: list[Outcome] = field(default_factory=list)

    async def run(self, count: int, seconds: float) -> None:
        """Whoever has begun a request when the time is over ends it."""
        until = time.monotonic() + seconds
        async with aiohttp.ClientSession(
            self.url, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=900)
        ) as session:
            await asyncio.gather(*(self._one(session, number, until) for number in range(count)))

    async def _one(self, session: aiohttp.ClientSession, number: int, until: float) -> None:
        rng = random.Random(f"{self.seed} {number}")
        names = list(KINDS)
        order = iter(names[number % len(names) :])  # every kind is there, however short the time
        while True:
            kind = next(order, None) or rng.choice(names)
            begun = time.monotonic()
            try:
                end, first, why = await KINDS[kind](Asking(self, session, rng))
            except Exception as error:
                end, first, why = "error", None, f"{type(error).__name__}: {error}"[:300]
            self.outcomes.append(Outcome(kind, end, time.monotonic() - begun, first, why))
            if time.monotonic() >= until:
                return
            if end == "refused":
                await asyncio.sleep(1.0)  # as whoever reads what went wrong


How = tuple[str, float | None, str]


@dataclass(frozen=True)
class Asking:
    """What a request is made with."""

    clients: Clients
    session: aiohttp.ClientSession
    rng: random.Random

    def body(self, **more: Any) -> dict[str, Any]:
        """A question of the task."""
        question = self.rng.choice(self.clients.questions)
        asked = [dict(one) for one in question.messages if one["role"] == "user"]
        return {"model": "a1", "messages": asked, "temperature": 0.6, **more}

    def post(self, body: Mapping[str, Any], **headers: str) -> Any:
        """Sends it."""
        return self.session.post(CHAT, json=body, headers={"Authorization": f"Bearer {self.clients.key}", **headers})

    async def whole(self, body: Mapping[str, Any], **headers: str) -> dict[str, Any]:
        """The answer in one piece."""
        async with self.post(body, **headers) as response:
            return _checked(await _taken(response), int(body.get("n", 1)))

    async def streamed(self, body: Mapping[str, Any]) -> float:
        """Reads a stream to its end; seconds until the first token."""
        begun, first = time.monotonic(), None
        frames = []
        async with self.post({**body, "stream": True, "stream_options": {"include_usage": True}}) as response:
            if response.status != 200:
                await _taken(response)
            async for frame in _frames(response):
                if first is None and _says(frame):
                    first = time.monotonic() - begun
                frames.append(frame)
        return _stream(frames, int(body.get("n", 1)), first)


class Refused(Exception):
    """The server has no room: that is no error."""


async def _taken(response: aiohttp.ClientResponse) -> dict[str, Any]:
    found = await response.json()
    if response.status == 429:
        await asyncio.sleep(float(response.headers["Retry-After"]))
        raise Refused("429")
    if response.status != 200:
        raise Wrong(f"{response.status} {found}")
    return dict(found)


async def _frames(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    buffer = b""
    async for piece in response.content.iter_any():
        *whole, buffer = (buffer + piece).split(b"\n\n")
        for one in whole:
            yield one.decode()
    if buffer:
        raise Wrong(f"a stream ended within a frame: {buffer[:100]!r}")


def _says(frame: str) -> bool:
    return '"reasoning_content":"' in frame or re.search(r'"content":"[^"]', frame) is not None


def _stream(frames: Sequence[str], n: int, first: float | None) -> float:
    """Checks a stream."""
    if not frames or frames[-1] != "data: [DONE]":
        raise Wrong(f"a stream ended with {frames[-1:]}")
    read = [json.loads(one[6:]) for one in frames[:-1] if one.startswith("data: ")]
    if read[-1]["choices"] or not read[-1]["usage"]["completion_tokens"]:
        raise Wrong(f"the last chunk is {read[-1]}")
    ends = [one["choices"][0] for one in read[:-1] if one["choices"][0]["finish_reason"]]
    if sorted(one["index"] for one in ends) != list(range(n)) or any(one["delta"] for one in ends):
        raise Wrong(f"{n} answers ended with {ends}")
    if first is None:
        raise Wrong("a stream said nothing")
    return first


def _checked(found: dict[str, Any], n: int) -> dict[str, Any]:
    ends = {one["finish_reason"] for one in found["choices"]}
    if len(found["choices"]) != n or not ends <= {"stop", "length"} or not found["usage"]["completion_tokens"]:
        raise Wrong(f"{n} answers came as {found}")
    return found


# --- kinds of requests ----------------------------------------------------------------------------------------


def _or_refused(kind: Callable[[Asking], Awaitable[How]]) -> Callable[[Asking], Awaitable[How]]:
    async def tried(asking: Asking) -> How:
        try:
            return await kind(asking)
        except Refused as refused:
            return "refused", None, str(refused)

    return tried


async def _in_one_piece(asking: Asking) -> How:
    await asking.whole(asking.body())
    return "answered", None, ""


async def _streamed(asking: Asking) -> How:
    return "answered", await asking.streamed(asking.body()), ""


async def _three_answers(asking: Asking) -> How:
    return "answered", await asking.streamed(asking.body(n=3)), ""


async def _vote(asking: Asking) -> How:
    return "answered", await asking.streamed(asking.body(model="a1+majority")), ""


async def _target(asking: Asking) -> How:
    await asking.whole(asking.body(model="target"))
    return "answered", None, ""


async def _slow_reader(asking: Asking) -> How:
    """Reads a few hundred bytes at a time through the smallest buffers that there are, and rests in between."""
    reader, writer = await _by_hand(
        asking, {**asking.body(), "stream": True, "stream_options": {"include_usage": True}}
    )
    begun, first, seen = time.monotonic(), None, b""
    try:
        while piece := await reader.read(400):
            seen += piece
            if first is None and _says(seen.decode(errors="replace")):
                first = time.monotonic() - begun
            await asyncio.sleep(0.05)
    finally:
        writer.transport.abort()
    head, _, text = seen.partition(b"\r\n\r\n")
    if b" 429 " in head.split(b"\r\n")[0]:
        raise Refused("429")
    return "answered", _stream([one for one in _unchunked(text).decode().split("\n\n") if one], 1, first), ""


async def _gone_before(asking: Asking) -> How:
    with suppress(TimeoutError):
        async with asyncio.timeout(asking.rng.uniform(0.01, 0.5)):
            await asking.whole(asking.body(model=asking.rng.choice(["a1", "a1+majority"])))
            return "answered", None, ""
    return "gone", None, ""


async def _gone_amid(asking: Asking) -> How:
    async with asking.post(asking.body(stream=True)) as response:
        if response.status != 200:
            await _taken(response)
        async for frame in _frames(response):
            if _says(frame):
                response.close()
                return "gone", None, ""
    raise Wrong("a stream said nothing")


async def _retry(asking: Asking) -> How:
    """Gives up, comes again twice with the same key, and is told the same."""
    body, key = asking.body(), {"Idempotency-Key": secrets.token_hex(8)}
    with suppress(TimeoutError):
        async with asyncio.timeout(asking.rng.uniform(0.05, 0.5)):
            await asking.whole(body, **key)
    first, again = [await asking.whole(body, **key) for _ in range(2)]
    if first != again:
        raise Wrong(f"a retry was told {again} after {first}")
    return "answered", None, ""


async def _wrong_key(asking: Asking) -> How:
    async with asking.post(asking.body(), Authorization=f"Bearer {secrets.token_hex(16)}") as response:
        return await _must_be(response, {401}, "invalid_api_key")


REFUSED: Sequence[Mapping[str, Any]] = (
    {"n": 0}, {"logprobs": True}, {"max_tokens": 10**6}, {"a1": {"alpha": 2}}, {"a1": {"colour": "red"}},
    {"best_of": 2}, {"response_format": {"type": "json_object"}}, {"model": "gpt-4o"}, {"messages": []}, {"stop": [""]},
)  # fmt: skip


async def _refused(asking: Asking) -> How:
    what = asking.rng.choice(REFUSED)
    async with asking.post(asking.body(stream=asking.rng.random() < 0.5, **what)) as response:
        return await _must_be(response, {400, 404}, param=next(iter(what)))


async def _must_be(
    response: aiohttp.ClientResponse, statuses: set[int], code: str | None = None, param: str | None = None
) -> How:
    found = await response.json()
    if response.status not in statuses or (code is not None and found["error"]["code"] != code):
        raise Wrong(f"{response.status} {found}")
    if param is not None and not str(found["error"]["param"]).startswith(param):
        raise Wrong(f"{param} was refused as {found}")
    return "refused", None, str(response.status)


KINDS: Mapping[str, Callable[[Asking], Awaitable[How]]] = {
    name: _or_refused(kind) for name, kind in {
        "in one piece": _in_one_piece, "streamed": _streamed, "n = 3": _three_answers,
        "a1+majority": _vote, "target": _target, "slow reader": _slow_reader, "gone before it": _gone_before,
        "gone in mid-stream": _gone_amid, "Idempotency-Key": _retry, "wrong key": _wrong_key,
        "cannot be honoured": _refused,
    }.items()
}  # fmt: skip


async def _by_hand(asking: Asking, body: Mapping[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = asking.clients.url.removeprefix("http://").partition(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=raw, limit=1024)
    content = json.dumps(body).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {asking.clients.key}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    return reader, writer


def _unchunked(text: bytes) -> bytes:
    """What came in chunks of HTTP."""
    found = b""
    while text:
        size, _, text = text.partition(b"\r\n")
        found, text = found + text[: int(size, 16)], text[int(size, 16) + 2 :]
    return found


# --- the server and the runtimes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """What the server holds at a time; of its open files, connections to the runtimes are kept for the next request."""

    memory_mib: float
    threads: int
    tasks: int
    files: int
    to_runtimes: int


@dataclass(frozen=True)
class Server:
    """``a1 serve``, and the two runtimes behind it."""

    url: str
    key: str
    process: psutil.Process
    runtimes: tuple[str, ...]

    async def gauge(self, session: aiohttp.ClientSession, name: str) -> float:
        """One of the numbers of its ``/metrics``."""
        async with session.get(f"{self.url}/metrics", headers={"Authorization": f"Bearer {self.key}"}) as response:
            found = re.search(rf"^{name} (\S+)$", await response.text(), re.MULTILINE)
        if found is None:
            raise Wrong(f"/metrics has no {name}")
        return float(found[1])

    async def held(self, session: aiohttp.ClientSession) -> Held:
        """What it holds now."""
        tasks = int(await self.gauge(session, "a1_tasks"))
        process, ports = self.process, {int(url.rpartition(":")[2]) for url in self.runtimes}
        ours = [one for one in process.net_connections() if one.raddr and one.raddr.port in ports]
        return Held(process.memory_info().rss / 2**20, process.num_threads(), tasks, process.num_fds(), len(ours))

    async def chains(self, session: aiohttp.ClientSession) -> int:
        """Requests that run or wait on the runtimes, as they say themselves."""

        async def one(url: str) -> int:
            async with session.get(f"{url}/v1/loads") as response:
                loads = (await response.json())["loads"]
            return sum(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads)

        return sum(await asyncio.gather(*map(one, self.runtimes)))

    async def settled(self, session: aiohttp.ClientSession) -> None:
        """Waits until it has no request under way; an unread answer to a retry may be made yet."""
        until = time.monotonic() + OVER
        while await self.gauge(session, "a1_requests_running"):
            if time.monotonic() > until:
                raise Wrong(f"requests were under way {OVER:g} s after the last client was gone")
            await asyncio.sleep(0.2)


@contextmanager
def served(out: Path) -> Iterator[Server]:
    """The pair, and the server before it, for the length of a ``with`` block."""
    key, port = secrets.token_hex(24), free_port()
    (system, *_) = find_task(TASK).question("?").messages
    (out / "keys.yaml").write_text(yaml.safe_dump([{"name": "load", "key": key}]))
    (out / "defaults.yaml").write_text(yaml.safe_dump({"system": system["content"], "a1": {"reasoning": "open"}}))
    with serve(pocket_specs(TASK), out / "logs") as pair, (out / "logs" / "serve.log").open("wb") as log:
        draft, target = (one.url for one in pair)
        process = subprocess.Popen(
            [Path(sys.executable).with_name("a1"), "serve", "--port", str(port), "--draft", draft, "--target", target,
             "--calibration", card_path(TASK), "--grader", "exact", "--keys", out / "keys.yaml",
             "--defaults", out / "defaults.yaml", "--gate-state", out / "gate", "--state", out / "state"],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            asyncio.run(_ready(f"http://127.0.0.1:{port}", process))
            yield Server(f"http://127.0.0.1:{port}", key, psutil.Process(process.pid), (draft, target))
            process.send_signal(signal.SIGTERM)
            if status := process.wait(60):
                raise Wrong(f"the server ended with {status}; see {log.name}")
        finally:
            process.kill()
            process.wait()


async def _ready(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + STARTED
    async with aiohttp.ClientSession() as session:
        while True:
            with suppress(aiohttp.ClientError):
                async with session.get(f"{url}/ready") as response:
                    if response.status == 200:
                        return
            if process.poll() is not None or time.monotonic() > until:
                raise Wrong("the server did not start; see its log")
            await asyncio.sleep(0.2)


@dataclass(frozen=True)
class Load:
    """What a load came to: outcomes, what the server held at three times, and the chains that were left."""

    outcomes: Sequence[Outcome]
    held: Mapping[str, Held]
    chains: Mapping[str, int]


async def load(server: Server, clients: int, seconds: float, seed: int = 0) -> Load:
    """Puts it under load."""
    questions = find_task(TASK).questions("test", 200, seed)
    async with aiohttp.ClientSession() as session:
        warm = Clients(server.url, server.key, questions, seed + 1)
        await warm.run(WARM, 0)
        await server.settled(session)
        held = {"start": await server.held(session)}
        all_ = Clients(server.url, server.key, questions, seed)
        running = asyncio.create_task(all_.run(clients, seconds))
        await asyncio.wait((running,), timeout=seconds / 2)
        held["middle"] = await server.held(session)
        chains = {"middle": await server.chains(session)}
        await running
        await server.settled(session)
        await asyncio.sleep(QUIET)
        held["end"] = await server.held(session)
        chains["end"] = await server.chains(session)
    return Load([*warm.outcomes, *all_.outcomes], held, chains)


# --- clients that go away -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gone:
    """How long something ran on a runtime after its client was gone; or, where it `stayed`, until its answer."""

    what: str
    seconds: float
    stayed: bool = False


async def gone(server: Server, tries: int, seed: int = 0) -> list[Gone]:
    """Clients that go away while their chains run, by turns of one chain and of many, streamed and not."""
    questions, found = find_task(TASK).questions("test", 50, seed + 1), []
    rng = random.Random(seed)
    kinds: dict[str, dict[str, Any]] = {
        "one chain": {"model": "a1"}, "one chain, streamed": {"model": "a1", "stream": True},
        "a vote of 16": {"model": "a1+majority", "a1": {"chains": 16}},
        "a vote of 16, streamed": {"model": "a1+majority", "a1": {"chains": 16}, "stream": True},
    }  # fmt: skip
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        clients = Clients(server.url, server.key, questions, seed)
        async with aiohttp.ClientSession(server.url) as own:
            for number in range(tries):
                what = list(kinds)[number % len(kinds)]
                # So hot that chains never come to their end by themselves.
                body = Asking(clients, own, rng).body(**{**kinds[what], "temperature": 100.0, "top_p": 1.0})
                if number < len(kinds):
                    begun = time.monotonic()
                    async with Asking(clients, own, rng).post(body) as response:
                        await response.read()
                    found.append(Gone(what, time.monotonic() - begun, stayed=True))
                while (seconds := await _left(server, session, Asking(clients, own, rng), body)) is None:
                    pass
                found.append(Gone(what, seconds))
    return found


async def _left(
    server: Server, session: aiohttp.ClientSession, asking: Asking, body: Mapping[str, Any]
) -> float | None:
    """None where the answer came before the runtimes were seen to work on it."""
    reader, writer = await _by_hand(asking, body)
    answered = asyncio.create_task(reader.read(-1))
    try:
        while not await server.chains(session):
            if answered.done():
                return None
            await asyncio.sleep(0.005)
        await asyncio.sleep(asking.rng.uniform(0, 0.2))
        if answered.done():
            return None
    finally:
        answered.cancel()
        writer.transport.abort()
    gone = last = time.monotonic()
    while time.monotonic() - last < QUIET:
        begun = time.monotonic()
        if await server.chains(session):
            last = time.monotonic()
        await asyncio.sleep(max(0.0, 0.01 - (time.monotonic() - begun)))
    return last - gone


# --- what is shown --------------------------------------------------------------------------------------------


def table(found: Load) -> Table:
    """Requests by kind."""
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("kind of request", "sent", "answered", "gone", "refused", "errors", "p50", "p95", "first", "p95"):
        shown.add_column(name, justify="left" if name == "kind of request" else "right", no_wrap=True)
    for name in (*KINDS, "all"):
        some = [one for one in found.outcomes if name in ("all", one.kind)]
        counts = [sum(one.end == end for one in some) for end in ("answered", "gone", "refused", "error")]
        taken = [one.seconds for one in some if one.end == "answered"]
        first = [one.first for one in some if one.first is not None]
        shown.add_row(name, str(len(some)), *map(str, counts), *_spread(taken), *_spread(first))
    return shown


def _spread(values: Sequence[float]) -> tuple[str, str]:
    if not values:
        return "", ""
    return f"{np.quantile(values, 0.5):.1f}", f"{np.quantile(values, 0.95):.1f}"


def server_table(found: Load) -> Table:
    """What the server held."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("server", *found.held):
        shown.add_column(name, justify="left" if name == "server" else "right")
    for name, about in (
        ("memory_mib", "memory, MiB"), ("threads", "threads"), ("tasks", "asyncio tasks"), ("files", "open files"),
        ("to_runtimes", "of these, to the runtimes"),
    ):  # fmt: skip
        shown.add_row(about, *(f"{getattr(one, name):.0f}" for one in found.held.values()))
    shown.add_row("chains on the runtimes", *(str(found.chains.get(when, "")) for when in found.held))
    return shown


def gone_table(found: Sequence[Gone]) -> Table:
    """Clients that went away."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("gone while", "tries", "runs on, s: median", "most", "had it stayed"):
        shown.add_column(name, justify="left" if name == "gone while" else "right")
    for what in dict.fromkeys(one.what for one in found):
        left = [one.seconds for one in found if one.what == what and not one.stayed]
        stayed = [one.seconds for one in found if one.what == what and one.stayed]
        shown.add_row(what, str(len(left)), f"{np.median(left):.2f}", f"{max(left):.2f}", f"{max(stayed):.1f}")
    return shown


def main(
    out: Annotated[Path, typer.Option(help="Folder for logs and results.")],
    clients: Annotated[int, typer.Option(help="Clients at once; 0 leaves the load out.", min=0)] = 200,
    seconds: Annotated[float, typer.Option(help="How long they send.")] = 120.0,
    tries: Annotated[int, typer.Option(help="Clients that go away while their chains are watched.")] = 20,
    seed: Annotated[int, typer.Option(help="Of questions and kinds.")] = 0,
) -> None:
    """Requests by kind, what the server holds before and after, and what goes on for clients that are gone."""
    (out / "logs").mkdir(parents=True, exist_ok=True)
    with served(out) as server:
        found = asyncio.run(load(server, clients, seconds, seed)) if clients else Load([], {}, {})
        left = asyncio.run(gone(server, tries, seed))
    (out / "serving.json").write_text(json.dumps({
        "outcomes": [asdict(one) for one in found.outcomes], "held": {k: asdict(v) for k, v in found.held.items()},
        "chains": dict(found.chains), "gone": [asdict(one) for one in left],
    }))  # fmt: skip
    for why in dict.fromkeys(one.why for one in found.outcomes if one.end == "error"):
        console.print(f"error: {why}", style="red", markup=False)
    if clients:
        console.print(f"{clients} clients, {seconds:g} s, and {WARM} before; seconds until the answer and first token")
    for one in (*((table(found), server_table(found)) if clients else ()), gone_table(left)):
        console.print(one)
        console.print()


if __name__ == "__main__":
    typer.run(main)
