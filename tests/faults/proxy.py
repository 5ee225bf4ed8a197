"""A proxy before a real runtime that passes everything on unchanged, but for the faults it is told to inject."""

from __future__ import annotations

import asyncio
import json
import math
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

STATUSES = {
    "busy": (429, {}),
    "busy_after": (429, {"Retry-After": "0.2"}),
    "error": (500, {}),
    "unavailable": (503, {}),
}
CUTS = ("cut_before", "cut_mid", "silence", "down")
LOGPROBS = ("nan", "null", "few")  # of requests that ask for log-probabilities
ANSWERS = ("garbage", "truncated", *LOGPROBS, "queue_abort")
KINDS = (*STATUSES, *CUTS, *ANSWERS)
_PROMPT = 40  # ids that tell a question's requests from another's
_OWN = ("content-length", "transfer-encoding", "connection", "date", "server", "host")


@dataclass(frozen=True)
class Fault:
    """What is injected into which of the ``/generate`` requests.

    Attributes:
        kinds: of `KINDS`; each injection draws one.
        share: of the requests, or of the questions if `lasting`.
        lasting: all requests of a question are hit, or none.
        after: so many requests pass first.
        seconds: the fault is over so long after that.
        hold: seconds of ``silence``, after which the connection is cut.
        gateway: ``/abort_request`` and ``/server_info`` answer 404, as through SGLang's gateway.
        key: whatever comes without it is refused.
    """

    kinds: tuple[str, ...] = ()
    share: float = 0.3
    lasting: bool = False
    after: int = 0
    seconds: float = math.inf
    hold: float = 4.0
    gateway: bool = False
    key: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(f"unknown faults {sorted(unknown)}; known: {', '.join(KINDS)}")


class Proxy:
    """Listens while its ``with`` block lasts, on a thread of its own.

    Attributes:
        requests, injected: counts by path and by kind.
        refused: requests that came without the key.
        touched: beginnings of the questions that a lasting fault hits.
        open: requests that the runtime has not answered.
    """

    def __init__(self, upstream: str, fault: Fault | None = None) -> None:
        self.upstream, self.fault, self.url, self.open = upstream, fault or Fault(), "", 0
        self.requests: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self.refused = 0
        self.touched: set[tuple[int, ...]] = set()
        self._known: set[tuple[int, ...]] = set()
        self._began = 0.0
        self._random = random.Random(self.fault.seed)
        self._going: set[asyncio.Task[bytes]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _start(self) -> None:
        # A connection is used once: the runtime closes idle ones, which would be a fault of the proxy's own.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None)
        self._client = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # A client that goes away takes its request with it, and SGLang's five seconds of idleness hold here as well.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, keepalive_timeout=5.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, shutdown_timeout=1.0, backlog=4096).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        for task in self._going:
            task.cancel()
        await self._runner.cleanup()
        await self._client.close()

    def _kind(self, path: str, asked: dict[str, Any]) -> str | None:
        fault = self.fault
        if not fault.kinds or self.requests["/generate"] <= fault.after:
            return None
        self._began = self._began or time.monotonic()
        if time.monotonic() - self._began > fault.seconds:
            return None
        if path != "/generate":
            return "down" if fault.kinds == ("down",) else None
        kinds = [kind for kind in fault.kinds if kind not in LOGPROBS or asked.get("return_logprob")]
        hit = self._lasting(asked) if fault.lasting else self._random.random() < fault.share
        return self._random.choice(kinds) if kinds and hit else None

    def _lasting(self, asked: dict[str, Any]) -> bool:
        question = tuple(asked["input_ids"][:_PROMPT])
        if question not in self._known:
            self._known.add(question)
            if int(len(self._known) * self.fault.share) > int((len(self._known) - 1) * self.fault.share):
                self.touched.add(question)
        return question in self.touched

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path, body = request.path, await request.read()
        self.requests[path] += 1
        if self.fault.key is not None and request.headers.get("Authorization") != f"Bearer {self.fault.key}":
            self.refused += 1
            return web.json_response({"error": {"message": "Unauthorized"}}, status=401)
        if self.fault.gateway and path in ("/abort_request", "/server_info"):
            return web.json_response({"detail": "Not Found"}, status=404)
        asked = json.loads(body) if path == "/generate" else {}
        kind, stream = self._kind(path, asked), bool(asked.get("stream"))
        if kind is None:
            return await self._pass(request, body)
        self.injected[kind] += 1
        if kind == "error" and stream:  # SGLang has sent its status by then
            return _events([b'{"error": {"message": "injected"}}'])
        if kind in STATUSES:
            status, headers = STATUSES[kind]
            return web.json_response({"error": {"message": "injected"}}, status=status, headers=headers)
        if kind in ("cut_before", "silence"):
            self._ask(request, body)
            await asyncio.sleep(self.fault.hold if kind == "silence" else 0.02)
        if kind == "cut_mid":
            return await self._pass(request, body, cut=True)
        if kind in CUTS:
            return _hang_up(request)
        answer = _in_queue(asked) if kind == "queue_abort" else await self._ask(request, body)
        if not stream:
            return web.Response(body=_spoil(kind, answer), content_type="application/json")
        events = [line[6:] for line in answer.splitlines() if line.startswith(b"data: {")] or [answer]
        return _events([*events[:-1], _spoil(kind, events[-1])])

    async def _pass(self, request: web.Request, body: bytes, cut: bool = False) -> web.StreamResponse:
        """Hands the answer on as it comes; with `cut` half of it, or of its second piece, and the runtime goes on."""
        pieces: asyncio.Queue[Any] = asyncio.Queue()
        task = self._ask(request, body, pieces)
        try:
            if not (head := await pieces.get()):
                return _hang_up(request)
            response = web.StreamResponse(status=head.status, reason=head.reason)
            response.headers.extend((name, value) for name, value in head.headers.items() if name.lower() not in _OWN)
            response.content_length, first = head.content_length, True
            await response.prepare(request)
            while piece := await pieces.get():
                if cut and (not first or head.content_length):
                    await response.write(piece[: len(piece) // 2])
                    break
                await response.write(piece)
                first = False
            if cut or not await asyncio.wait([task]) or task.exception():
                return _hang_up(request)
            await response.write_eof()
            return response
        finally:
            if not cut:
                task.cancel()

    def _ask(self, request: web.Request, body: bytes, pieces: asyncio.Queue[Any] | None = None) -> asyncio.Task[bytes]:
        """Asks the runtime, whatever becomes of the client; into `pieces` go the head, the pieces and None."""
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN}

        async def ask() -> bytes:
            found, tell = b"", pieces.put_nowait if pieces else lambda _: None
            self.open += 1
            try:
                url = f"{self.upstream}{request.rel_url}"
                async with self._client.request(request.method, url, data=body, headers=headers) as response:
                    tell(response)
                    async for piece in response.content.iter_any():
                        tell(piece)
                        found += piece
            finally:
                self.open -= 1
                tell(None)
            return found

        task = asyncio.ensure_future(ask())
        self._going.add(task)
        task.add_done_callback(lambda done: (self._going.discard(done), done.cancelled() or done.exception()))
        return task


def _hang_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def _events(events: list[bytes]) -> web.Response:
    body = b"".join(b"data: " + event + b"\n\n" for event in [*events, b"[DONE]"])
    return web.Response(body=body, content_type="text/event-stream")


def _spoil(kind: str, body: bytes) -> bytes:
    if kind in ("garbage", "truncated"):
        return b"<html>502 Bad Gateway</html>" if kind == "garbage" else body[: len(body) // 2]
    if kind == "queue_abort":
        return body
    meta = (answer := json.loads(body)).get("meta_info", {})
    plain = [meta.get(name) for name in ("input_token_logprobs", "output_token_logprobs")]
    for entries in filter(None, [*plain, *(meta.get("output_token_ids_logprobs") or [])]):
        last = entries.pop()
        if kind != "few":
            entries.append([math.nan if kind == "nan" else None, *last[1:]])
    return json.dumps(answer).encode()


def _in_queue(asked: dict[str, Any]) -> bytes:
    """What SGLang answers for a request that was aborted while it waited."""
    reason = {"type": "abort", "message": "Abort in waiting queue"}
    meta = {"id": asked.get("rid"), "finish_reason": reason, "weight_version": "default", "e2e_latency": 0.01}
    meta |= {"input_token_logprobs": [], "output_token_logprobs": []} if asked.get("return_logprob") else {}
    return json.dumps({"text": "", "output_ids": [], "meta_info": meta | {"completion_tokens": 0}}).encode()
