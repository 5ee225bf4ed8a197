"""The transport against a small server that fails in every way it is told to."""

import asyncio
import concurrent.futures
import email.utils
import gc
import json
import logging
import shutil
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr

from a1_sgl.engine import answers
from a1_sgl.engine.loop import submit, wait
from a1_sgl.engine.scope import Scope
from a1_sgl.engine.transport import Limit, Settings, Transport, _after
from a1_sgl.errors import ChainAborted, ConfigError, RuntimeFault

LONG = 30.0
"""Seconds after which a test gives up; nothing is expected to take nearly as long."""


def answer(text="done", **reason):
    meta = {"finish_reason": {"type": "stop", **reason}, "prompt_tokens": 2, "cached_tokens": 1, "completion_tokens": 1}
    return {"text": text, "output_ids": [7], "meta_info": meta}


def until(reached):
    """Waits until `reached`."""
    last = time.monotonic() + LONG
    while not reached():
        assert time.monotonic() < last, "it never came to that"
        time.sleep(0.005)


class Server:
    """A runtime in a thread of its own. Each request takes the next of `script`, or is answered well."""

    def __init__(self, host="127.0.0.1", tls=None):
        self.host, self.tls, self.port = host, tls, 0
        self.script, self.seen, self.aborts, self.headers, self.paths = [], [], [], [], []
        self.running = {}
        self.abort_answers = []  # statuses; then 200
        self.ignored = 0  # so many aborts are answered with 200 and forgotten
        self.health = 200
        self.workers = None
        self.barrier = None
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.start()

    def _do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(LONG)

    @property
    def url(self):
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def start(self):
        async def start():
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self._answer)
            self.runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
            await self.runner.setup()
            site = web.TCPSite(self.runner, self.host, self.port, ssl_context=self.tls)
            await site.start()
            self.port = self.runner.addresses[0][1]

        self._do(start())

    def stop(self):
        self._do(self.runner.cleanup())

    def close(self):
        self.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(LONG)
        self.loop.close()

    async def _answer(self, request):
        self.headers.append(dict(request.headers))
        self.paths.append(request.path)
        if request.path == "/generate":
            payload = await request.json()
            self.seen.append(payload)
            step = self.script.pop(0) if self.script else well
            self.running[payload["rid"]] = aborted = asyncio.Event()
            try:
                return await step(request, SimpleNamespace(payload=payload, aborted=aborted, server=self))
            finally:
                self.running.pop(payload["rid"], None)
        if request.path == "/abort_request":
            rid = (await request.json())["rid"]
            self.aborts.append(rid)
            if self.barrier is not None:
                await self.barrier.wait()
            if self.abort_answers and (status := self.abort_answers.pop(0)) != 200:
                return web.Response(status=status)
            if self.ignored:
                self.ignored -= 1
            elif rid in self.running:
                self.running[rid].set()
            return web.Response()
        if request.path == "/health":
            return web.Response(status=self.health)
        if request.path in (self.workers or {}):
            return web.json_response(self.workers[request.path])
        if request.path == "/get_model_info":
            return web.json_response({"model_path": "m"})
        return web.Response(status=404, text="no such thing")


async def well(request, now):
    return web.json_response(answer())


async def until_aborted(request, now):
    await now.aborted.wait()
    return web.json_response(answer("so far", type="abort", message="Abort in waiting queue"))


async def deaf(request, now):
    await asyncio.sleep(3600)


async def cut_before(request, now):
    request.transport.close()
    return web.Response()


async def cut_within(request, now):
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"text": "do')
    request.transport.close()
    return response


def status(code, body="", **headers):
    async def step(request, now):
        return web.Response(status=code, text=body, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return step


def says(body):
    async def step(request, now):
        return web.Response(body=body, content_type="application/json")

    return step


def pieces(*texts, pause=0.0, done=True, error=None):
    """A stream; a text is a piece's answer, and bytes are all of its data."""

    async def step(request, now):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for text in texts:
            data = text if isinstance(text, bytes) else json.dumps(answer(text)).encode()
            await response.write(b"data: " + data + b"\n\n")
            await asyncio.sleep(pause)
        if error is not None:
            await response.write(f"data: {json.dumps({'error': error})}\n\n".encode())
        if done:
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    return step


def refusal(code):
    """A piece that tells of a refusal, as SGLang does once it has answered 200."""
    reason = {"type": "abort", "message": "The queue is full", "status_code": code, "err_type": None}
    return json.dumps({"text": "", "output_ids": [], "meta_info": {"finish_reason": reason}}).encode()


@pytest.fixture
def server():
    one = Server()
    yield one
    one.close()


@pytest.fixture
def connect():
    """Makes transports and closes them."""
    made = []

    def connect(url, **settings):
        wanted = {"silence": LONG, "pause": 0.01, "longest_pause": 0.05, "patience": LONG} | settings
        made.append(Transport(url if isinstance(url, str) else url.url, "target", Settings(**wanted)))
        return made[-1]

    yield connect
    for one in made:
        wait(one.close())


def call(transport, scope=None, streamed=False):
    payload = {"input_ids": [1, 2], "sampling_params": {}} | ({"stream": True} if streamed else {})
    return transport.call(payload, scope or Scope(), answers.read)


def told(transport, scope=None, streamed=False):
    """The text of an answer."""
    return wait(call(transport, scope, streamed))[0].text


# --- what passes ----------------------------------------------------------------------------------------------


def test_a_call_is_answered(server, connect):
    assert told(connect(server)) == "done"
    assert len(server.seen) == 1
    assert server.seen[0]["input_ids"] == [1, 2]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        cut_before,
        cut_within,
        status(429),
        status(429, Retry_After="0.01"),
        status(503, Retry_After=email.utils.formatdate(usegmt=True)),
        status(503, Retry_After="soon"),
        status(500, '{"error": "oh"}'),
        status(502),
        status(504),
        says(b"<html>"),
        says(json.dumps(answer()).encode()[:-9]),
        says(b'{"text": "x", "meta_info": {"finish_reason": {"type": "stop"}, "completion_tokens": NaN}}'),
        says(b"[]"),
        says(b""),
    ],
)
def test_a_fault_that_passes_is_repeated_under_another_id(server, connect, fault, streamed):
    server.script = [fault, fault, pieces("do", "done") if streamed else well]
    assert told(connect(server), streamed=streamed) == "done"
    assert len({one["rid"] for one in server.seen}) == 3


def test_what_may_still_run_is_aborted_before_it_is_forgotten(server, connect):
    server.script = [cut_before]
    transport = connect(server)
    assert told(transport) == "done"
    wait(transport.close())
    assert set(server.aborts) == {server.seen[0]["rid"]}


def test_silence_is_a_fault(server, connect):
    server.script = [deaf]
    transport = connect(server, silence=0.3)
    assert told(transport) == "done"
    wait(transport.close())
    assert server.seen[0]["rid"] in server.aborts


def test_a_runtime_that_does_not_even_take_the_request_is_silent(connect):
    with socket.create_server(("127.0.0.1", 0)) as nobody:  # connections are made, and nothing is ever read
        transport = connect(f"http://127.0.0.1:{nobody.getsockname()[1]}", silence=0.2, attempts=1)
        with pytest.raises(RuntimeFault, match=r"no answer within 0\.2 s"):
            wait(transport.call({"input_ids": [1], "text": "x" * (32 << 20)}, Scope(), answers.read))
        wait(_let_go(transport))


async def _let_go(transport):
    """Nobody answers the abort either; the test does not wait for that."""
    for task in list(transport._tasks):
        task.cancel()


def test_attempts_are_bounded(server, connect):
    server.script = [status(500, '{"error": {"message": "out of\\nluck"}}')] * 50
    with pytest.raises(RuntimeFault, match=r"target runtime http://127.*answered 500: out of luck"):
        told(connect(server, attempts=5))
    assert len(server.seen) == 5


def test_garbage_is_bounded_too(server, connect):
    server.script = [says(b"garbage")] * 50
    with pytest.raises(RuntimeFault, match="not JSON: 'garbage'"):
        told(connect(server, attempts=3))
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    "fault", [status(429), status(503), status(502), cut_before, status(500, X_SMG_Error_Code="call_upstream_request")]
)
def test_what_is_no_bad_answer_is_bounded_by_patience_alone(server, connect, fault):
    server.script = [fault] * 6
    assert told(connect(server, attempts=2)) == "done"
    server.script = [fault] * 10_000
    with pytest.raises(RuntimeFault, match=server.url):
        told(connect(server, patience=0.3))


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
def test_a_refusal_is_final(server, connect, code):
    server.script = [status(code, "too long\nby far")]
    with pytest.raises(RuntimeFault, match="too long by far") as caught:
        told(connect(server))
    assert len(server.seen) == 1
    assert ("API key" in str(caught.value)) == (code in (401, 403))


def test_an_address_that_has_moved_is_named(server, connect):
    server.script = [status(307, Location="https://elsewhere:1/generate")]
    with pytest.raises(RuntimeFault, match="/generate is at https://elsewhere:1/generate; give that address"):
        told(connect(server))


def test_a_request_is_not_kept_while_it_waits_for_its_answer(server, connect, instances):
    """Beside thousands of long prompts in flight, what was sent would weigh the most."""
    server.script, scope, transport = [until_aborted], Scope(), connect(server)
    kept = instances(aiohttp.BytesPayload)
    payload = {"input_ids": [1], "sampling_params": {}, "much": "x" * 654_321}
    calling = submit(transport.call(payload, scope, answers.read))
    until(lambda: server.seen)
    assert [one.size for one in kept if one.size > 654_321]  # it is there, and knows what it was
    assert all(len(one._value) < 654_321 for one in kept)
    scope.stop()
    calling.result(LONG)


def test_what_retry_after_asks_for():
    assert _after(None) is None
    assert _after("2") == 2.0
    assert _after("-1") == 0.0
    assert _after("1e9") == 60.0
    assert [_after(odd) for odd in ("", "soon", "nan", "inf")] == [None] * 4
    assert 0.0 < _after(email.utils.formatdate(time.time() + 30, usegmt=True)) <= 30.0
    assert _after(email.utils.formatdate(time.time() - 30, usegmt=True)) == 0.0


def test_a_long_retry_after_does_not_outlast_the_patience(server, connect):
    server.script = [status(503, Retry_After="60")] * 3
    with pytest.raises(RuntimeFault, match="answered 503"):
        told(connect(server, patience=0.2))


# --- a runtime that is down -----------------------------------------------------------------------------------


def test_the_circuit_opens_and_closes(server, connect, caplog):
    caplog.set_level(logging.WARNING)
    transport = connect(server)
    assert transport.available
    server.stop()
    waiting = [submit(call(transport)) for _ in range(20)]
    until(lambda: not transport.available)
    waiting.append(submit(call(transport)))
    server.start()
    assert {one.result(LONG)[0].text for one in waiting} == {"done"}
    assert transport.available
    assert len(server.seen) == 21
    assert [("is down" in one.message, "is back" in one.message) for one in caplog.records][:1] == [(True, False)]


def test_a_runtime_that_still_loads_is_not_back(server, connect):
    transport = connect(server)
    server.health = 503
    server.stop()
    waiting = submit(call(transport))
    until(lambda: not transport.available)
    server.start()
    until(lambda: server.paths.count("/health") > 3)
    assert not server.seen
    server.health = 200
    assert waiting.result(LONG)[0].text == "done"


def test_patience_ends(server, connect):
    transport = connect(server, patience=0.4)
    server.stop()
    waiting = [submit(call(transport)) for _ in range(3)]
    until(lambda: not transport.available)
    waiting.append(submit(call(transport)))  # comes late and waits no longer than the others
    for one in waiting:
        with pytest.raises(RuntimeFault, match=server.url):
            one.result(LONG)
    server.start()
    assert told(transport) == "done"


def test_a_stopped_request_does_not_wait_for_a_runtime(server, connect):
    transport, scope = connect(server), Scope()
    server.stop()
    waiting = submit(call(transport, scope))
    until(lambda: not transport.available)
    scope.stop()
    with pytest.raises(ChainAborted):
        waiting.result(LONG)
    server.start()


@pytest.mark.parametrize("url", ["127.0.0.1:30000", "http://", "ftp://x", "http://x:port", "http://[::1", ""])
def test_a_url_that_is_none(url):
    with pytest.raises(ConfigError, match="must look like"):
        Transport(url, "target", Settings())


def test_a_password_in_a_url_is_refused_and_not_shown():
    with pytest.raises(ConfigError) as caught:
        Transport("http://me:secret@127.0.0.1:1", "target", Settings())
    assert "secret" not in str(caught.value)


def test_questions_about_the_runtime(server, connect):
    transport = connect(server)
    assert wait(transport.get("/get_model_info")) == {"model_path": "m"}
    with pytest.raises(RuntimeFault, match="/nothing answered 404: no such thing"):
        wait(transport.get("/nothing"))
    server.stop()
    with pytest.raises(RuntimeFault, match=f"{server.url}: /get_model_info failed.*is the runtime up") as failed:
        wait(transport.get("/get_model_info"))
    assert "ssl:" not in str(failed.value)
    server.start()


# --- aborts ---------------------------------------------------------------------------------------------------


def test_a_stopped_scope_aborts_and_returns_what_there_is(server, connect):
    server.script = [until_aborted]
    transport, scope = connect(server), Scope()
    running = submit(call(transport, scope))
    until(lambda: server.running)
    scope.stop()
    found = running.result(LONG)[0]
    assert (found.aborted, found.text) == (True, "so far")
    assert set(server.aborts) == {server.seen[0]["rid"]}
    with pytest.raises(ChainAborted):
        told(transport, scope)
    assert len(server.seen) == 1


@pytest.mark.parametrize("refusals", [[500], [503, 500, 429]])
def test_an_abort_is_repeated_until_it_helps(server, connect, refusals):
    server.script, server.abort_answers, server.ignored = [until_aborted], refusals, 2
    transport, scope = connect(server), Scope()
    running = submit(call(transport, scope))
    until(lambda: server.running)
    scope.stop()
    assert running.result(LONG)[0].aborted
    assert len(server.aborts) >= len(refusals) + 3


def test_a_request_that_no_abort_ends_is_let_go_of(server, connect):
    server.script, server.abort_answers = [deaf], [404] * 10
    transport, scope = connect(server), Scope()
    running = submit(call(transport, scope))
    until(lambda: server.running)
    scope.stop()
    with pytest.raises(ChainAborted):
        running.result(LONG)
    until(lambda: not server.running)  # its connection was cut
    assert transport.limit.busy == 0


@pytest.mark.parametrize(
    "listed",
    [
        lambda url: {"/workers": {"workers": [{"id": "1", "url": url, "worker_type": "regular"}], "total": 1}},
        lambda url: {"/workers": {"workers": [{"id": "1", "url": f"{url}@0"}, {"id": "2", "url": f"{url}@1"}]}},
        lambda url: {"/list_workers": {"urls": [f"{url}/"]}},
    ],
    ids=["workers", "ranks", "list"],
)
def test_the_workers_behind_a_gateway_are_told(server, connect, listed):
    worker = Server()
    try:
        worker.script = [until_aborted] * 8

        async def passed_on(request, now):
            import aiohttp

            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{worker.url}/generate", json=now.payload) as response,
            ):
                return web.Response(body=await response.read(), content_type="application/json")

        server.script, server.abort_answers = [passed_on] * 8, [404] * 1000
        server.workers = listed(worker.url)
        transport, scope = connect(server), Scope()
        running = [submit(call(transport, scope)) for _ in range(8)]
        until(lambda: len(worker.running) == 8)
        scope.stop()
        assert all(one.result(LONG)[0].aborted for one in running)
        assert set(worker.aborts) == {one["rid"] for one in server.seen}
        assert sum(path in ("/workers", "/list_workers") for path in server.paths) <= 2  # asked once, for all
    finally:
        worker.close()


def test_many_aborts_at_once(server, connect):
    server.script, server.barrier = [until_aborted] * 50, asyncio.Barrier(50)
    transport, scope = connect(server), Scope()
    running = [submit(call(transport, scope)) for _ in range(50)]
    until(lambda: len(server.running) == 50)
    scope.stop()
    until(lambda: len(server.aborts) >= 50)  # each waits there for all the others
    assert all(one.result(LONG)[0].aborted for one in running)


def test_cancelling_who_awaits_aborts(server, connect):
    server.script, before = [until_aborted], wait(_tasks())
    transport = connect(server)
    running = submit(call(transport))
    until(lambda: server.running)
    running.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        running.result(LONG)
    until(lambda: not server.running)
    until(lambda: server.seen[-1]["rid"] in server.aborts)
    assert transport.limit.busy == 0
    wait(transport.close())
    until(lambda: wait(_tasks()) <= before)


async def _tasks():
    return len(asyncio.all_tasks())


@pytest.mark.parametrize("step", [until_aborted, deaf])
def test_close_ends_requests_under_way(server, connect, step):
    server.script = [step] * 4
    before = wait(_tasks())
    transport = connect(server, in_flight=4)
    running = [submit(call(transport)) for _ in range(6)]  # two of them wait for a place
    until(lambda: len(server.running) == 4)
    wait(transport.close())
    for one in running[:4]:
        assert isinstance(one.exception(LONG), ChainAborted) if step is deaf else one.result(LONG)[0].aborted
    for one in running[4:]:
        assert isinstance(one.exception(LONG), ChainAborted)
    until(lambda: not server.running)
    until(lambda: wait(_tasks()) <= before)
    assert len(server.seen) == 4
    with pytest.raises(RuntimeFault, match="closed"):
        told(transport)
    with pytest.raises(RuntimeFault, match="closed"):
        wait(transport.get("/health"))
    wait(transport.close())


def test_close_while_the_runtime_is_down(server, connect):
    before = wait(_tasks())
    transport = connect(server)
    server.stop()
    running = submit(call(transport))
    until(lambda: not transport.available)
    wait(transport.close())
    with pytest.raises(ChainAborted):
        running.result(LONG)
    until(lambda: wait(_tasks()) <= before)
    server.start()


# --- streams --------------------------------------------------------------------------------------------------


def test_progress_is_a_sign_of_life(server, connect):
    server.script = [pieces(*"abcdef", pause=0.25)]  # longer than the silence, all together
    assert told(connect(server, silence=1.0), streamed=True) == "f"
    assert len(server.seen) == 1
    assert server.seen[0]["stream"] is True


@pytest.mark.parametrize(
    "fault",
    [
        pieces("a", "b", done=False),
        pieces(done=False),
        pieces(),
        pieces("a", error={"message": "oh", "code": 500}),
        pieces("a", error="oh"),
        pieces(error={"message": "full", "code": 503}),
        pieces("a", b"<html>"),
        pieces("a", json.dumps(answer("ab")).encode()[:-9]),
        pieces("a", json.dumps(answer("ab")).replace("1", "NaN").encode()),
        pieces("a", json.dumps(answer("ab") | {"output_ids": [7, 8]}).encode()),
        pieces("a", json.dumps(answer("ab", type=None)).encode()),
        pieces("a", b"[]"),
        pieces("a", b""),
        pieces("a", refusal(503)),
        pieces(refusal(500)),
    ],
)
def test_a_stream_without_its_end_is_repeated(server, connect, fault):
    server.script = [fault, pieces("a", "ab")]
    assert told(connect(server), streamed=True) == "ab"
    assert len(server.seen) == 2


def test_a_refusal_in_a_stream_is_final(server, connect):
    server.script = [pieces(error={"message": "too long", "code": 400, "retryable": False})]
    with pytest.raises(RuntimeFault, match="answered 400.*too long"):
        told(connect(server), streamed=True)
    assert len(server.seen) == 1


def test_a_refusal_by_an_abort_in_a_stream_is_what_it_would_be_without_one(server, connect):
    server.script = [pieces(refusal(400))]
    with pytest.raises(RuntimeFault, match="answered 400: The queue is full"):
        told(connect(server), streamed=True)
    assert len(server.seen) == 1
    transport = connect(server, attempts=1)  # which busyness does not count against
    server.script = [pieces(refusal(503)), pieces("a", refusal(503)), pieces("a")]
    assert told(transport, streamed=True) == "a"
    assert transport.limit.now < transport.limit.most


@pytest.mark.parametrize("code", [None, 200, "503"])
def test_an_abort_without_a_status_is_an_answer(server, connect, code):
    server.script = [pieces("a", refusal(code))]
    found, _ = wait(call(connect(server), streamed=True))
    assert found.aborted


def test_a_text_about_statuses_is_a_text(server, connect):
    text = 'a "status_code": 503 and {"error": 500}'
    server.script = [pieces(text)]
    assert told(connect(server), streamed=True) == text


def test_an_answer_that_is_no_stream_is_read_as_one_piece(server, connect):
    """Whoever stands between may have gathered it."""
    assert told(connect(server), streamed=True) == "done"
    server.script = [says(b"<html>")] * 2
    with pytest.raises(RuntimeFault, match="not JSON: '<html>'"):
        told(connect(server, attempts=2), streamed=True)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_pieces_may_be_torn_anywhere(server, connect, size):
    body = b"".join(b"data: " + json.dumps(answer(text)).encode() + b"\n\n" for text in ("a", "ab", "abc"))
    body = b": still there\n\n" + body + b"data: [DONE]\n\n"

    async def torn(request, now):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for start in range(0, len(body), size):
            await response.write(body[start : start + size])
            await asyncio.sleep(0)
        return response

    server.script = [torn]
    assert told(connect(server), streamed=True) == "abc"


async def _gather(transport, scope, most=100):
    found = []
    stream = transport.pieces({"input_ids": [1]}, scope)
    try:
        async for piece in stream:
            found.append(answers.read(piece).text)
            if len(found) == most:
                break
    except (RuntimeFault, ChainAborted) as error:
        found.append(type(error))
    finally:
        await stream.aclose()
    return found


def test_pieces_as_they_come(server, connect):
    server.script = [pieces("a", "ab", "abc")]
    assert wait(_gather(connect(server), Scope())) == ["a", "ab", "abc"]


def test_pieces_are_repeated_only_before_the_first(server, connect):
    server.script = [cut_before, status(503), pieces("a", pause=0.05, done=False), pieces("a", "ab")]
    assert wait(_gather(connect(server), Scope())) == ["a", RuntimeFault]
    assert len(server.seen) == 3


def test_who_stops_listening_aborts(server, connect):
    async def endless(request, now):
        response = web.StreamResponse()
        await response.prepare(request)
        while not now.aborted.is_set():
            await response.write(f"data: {json.dumps(answer('a'))}\n\n".encode())
            await asyncio.sleep(0.01)
        await response.write(b"data: [DONE]\n\n")
        return response

    server.script = [endless]
    transport = connect(server)
    assert wait(_gather(transport, Scope(), most=3)) == ["a"] * 3
    until(lambda: not server.running)
    assert server.seen[0]["rid"] in server.aborts
    assert transport.limit.busy == 0


# --- the limit ------------------------------------------------------------------------------------------------


class Free:
    """A flight that nothing stops."""

    async def until(self, waiting):
        await waiting


def test_the_limit_is_first_come_first_served():
    async def run():
        limit, order = Limit(1), []

        async def one(number):
            await limit.acquire(Free())
            order.append(number)
            await asyncio.sleep(0)
            limit.release()

        await limit.acquire(Free())
        tasks = [asyncio.create_task(one(number)) for number in range(5)]
        await asyncio.sleep(0)
        tasks[1].cancel()  # one that gives up waiting takes no place with it
        await asyncio.sleep(0)
        limit.release()
        await asyncio.wait(tasks)
        return order, limit.busy

    assert wait(run()) == ([0, 2, 3, 4], 0)


def test_a_place_that_comes_with_a_cancellation_is_given_on():
    async def run():
        limit = Limit(1)
        await limit.acquire(Free())
        waiting = asyncio.create_task(limit.acquire(Free()))
        await asyncio.sleep(0)
        limit.release()
        waiting.cancel()
        await asyncio.wait([waiting])
        return waiting.cancelled(), limit.busy

    assert wait(run()) == (True, 0)


def test_the_limit_halves_and_grows_by_one_a_round():
    async def run():
        limit = Limit(64)
        for _ in range(64):
            await limit.acquire(Free())
        for _ in range(10):  # the same refusal
            limit.refused()
        halved = limit.now
        for _ in range(32):
            limit.answered()
        grown = limit.now
        for _ in range(10_000):
            limit.answered()
        return halved, grown, limit.now

    halved, grown, most = wait(run())
    assert halved == 32
    assert 32.9 < grown <= 33
    assert most == 64


def test_silence_lowers_the_limit_once_in_its_own_time(server, connect):
    """A runtime that has more to do than it can answers nobody: who then sends as much again never gets an answer."""
    server.script = [deaf] * 8
    transport = connect(server, silence=1.0)

    async def all_of_them():
        return await asyncio.gather(*(call(transport) for _ in range(8)))

    assert [found.text for found, _ in wait(all_of_them())] == ["done"] * 8
    assert 4 <= transport.limit.now < 8, "half of the eight that were in flight, and what the answers gave back"


def test_the_limit_never_falls_below_one():
    limit = Limit(4)
    for _ in range(5):
        limit._lowered = 0.0
        limit.refused()
    assert limit.now == 1


def test_no_more_in_flight_than_the_runtime_takes(server, connect):
    most = 0

    async def only_four(request, now):
        nonlocal most
        if (busy := len(now.server.running)) > 4:
            return web.Response(status=503)
        most = max(most, busy)
        await asyncio.sleep(0.002)
        return web.json_response(answer())

    server.script = [only_four] * 100_000
    transport = connect(server)
    running = [submit(call(transport)) for _ in range(200)]
    assert {one.result(LONG)[0].text for one in running} == {"done"}
    assert most <= 4
    assert transport.limit.now < 200


def test_others_turns_are_not_held_against_a_request(server, connect, monkeypatch):
    """However long it waits for a place, it is the runtime's faults alone that wear the patience out.

    By a clock that a turn takes a second of, however busy this machine is: there are 150 turns in all.
    """
    turns = 0.0

    async def takes_a_turn(request, now):
        nonlocal turns
        turns += 1
        return web.Response(status=500) if len(server.seen) % 3 == 0 else web.json_response(answer())

    monkeypatch.setattr("a1_sgl.engine.transport.time", SimpleNamespace(monotonic=lambda: turns, time=time.time))
    server.script = [status(429)] * 100 + [takes_a_turn] * 1000
    transport = connect(server, in_flight=1, patience=60.0, attempts=100, longest_pause=0.001)
    running = [submit(call(transport)) for _ in range(100)]
    assert {one.result(LONG)[0].text for one in running} == {"done"}


async def _noisy(server, transport):
    """Who leaves a stream that has failed already is not told of it, and neither is the log."""
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    try:
        stream = transport.pieces({"input_ids": [1]}, Scope())
        await anext(stream)
        while transport.limit.busy:
            await asyncio.sleep(0.005)
        await stream.aclose()
        del stream
        gc.collect()
        await asyncio.sleep(0)
        return told
    finally:
        asyncio.get_running_loop().set_exception_handler(None)


def test_a_stream_that_failed_and_was_left_makes_no_noise(server, connect):
    server.script = [pieces("a", "ab", done=False)]
    assert wait(_noisy(server, connect(server))) == []


def test_a_place_and_a_stop_at_once(server, connect):
    """A request that is stopped in the very moment in which its turn comes is not sent any more."""

    async def run(transport):
        limit, scope = transport.limit, Scope()
        await limit.acquire(Free())
        task = asyncio.create_task(call(transport, scope))
        await asyncio.sleep(0)
        limit.release()
        scope.stop()
        await asyncio.wait([task])
        return type(task.exception())

    transport = connect(server, in_flight=1)
    assert wait(run(transport)) is ChainAborted
    assert not server.seen
    assert transport.limit.busy == 0


# --- keys, certificates, addresses, files -----------------------------------------------------------------------


def test_the_key_is_sent_and_never_shown(server, connect, caplog):
    caplog.set_level(logging.DEBUG)
    key = "key-of-a-lock"

    async def no_http(request, now):
        request.transport.write(b"this is no HTTP\r\n\r\n")
        request.transport.close()
        return web.Response()

    transport = connect(server, api_key=SecretStr(key), patience=0.2, attempts=3)
    assert told(transport) == "done"
    assert server.headers[-1]["Authorization"] == f"Bearer {key}"
    shown = [str(transport), repr(transport), repr(transport.settings), str(transport.settings)]
    for fault in (no_http, cut_before, cut_within, status(401), status(500), status(400), says(b"x")):
        server.script = [fault] * 1000
        with pytest.raises(RuntimeFault) as caught:
            told(transport)
        shown += traceback.format_exception(caught.value)
        error = caught.value
        while error is not None:
            shown += [str(error), repr(error), repr(error.args)]
            error = error.__cause__ or error.__context__
    with pytest.raises(RuntimeFault) as caught:
        wait(transport.get("/nothing"))
    server.stop()
    with pytest.raises(RuntimeFault) as down:
        told(transport)
    server.start()
    for error in (caught.value, down.value):
        shown += [repr(error), *traceback.format_exception(error)]
    shown += [one.getMessage() for one in caplog.records]
    assert not any(key in one for one in shown)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate that nobody vouches for, and a server's context with it."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl")
    folder = tmp_path_factory.mktemp("tls")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        capture_output=True,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("this openssl makes no certificate")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return str(folder / "cert.pem"), context


def test_certificates(certificate, connect):
    path, context = certificate
    server = Server(tls=context)
    try:
        for verify in (path, False):
            assert told(connect(server, verify=verify)) == "done"
        seen, stranger = len(server.seen), connect(server)
        with pytest.raises(RuntimeFault, match=f"{server.url}.*certificate.*see the option for certificates") as failed:
            told(stranger)
        assert "ssl:" not in str(failed.value)
        with pytest.raises(RuntimeFault, match=f"{server.url}.*certificate.*see the option for certificates"):
            wait(stranger.get("/get_model_info"))
        assert stranger.available
        assert len(server.seen) == seen
    finally:
        server.close()


def test_https_where_http_is_spoken(server, connect):
    with pytest.raises(RuntimeFault, match="is it http://"):
        told(connect(server.url.replace("http", "https")))


def test_certificates_that_are_none(tmp_path, server):
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(ConfigError, match=f"{name} cannot be used"):
            Transport(server.url, "target", Settings(verify=str(tmp_path / name)))


def test_ipv6(connect):
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    server = Server(host="::1")
    try:
        assert told(connect(server)) == "done"
        assert "[::1]" in server.url
    finally:
        server.close()


def test_a_fork_has_connections_of_its_own(server, connect):
    script = """
        import os, sys
        from a1_sgl.engine import answers
        from a1_sgl.engine.loop import submit, wait
        from a1_sgl.engine.scope import Scope
        from a1_sgl.engine.transport import Settings, Transport

        transport = Transport(sys.argv[1], "target", Settings(in_flight=1))
        call = lambda: transport.call({"input_ids": [1]}, Scope(), answers.read)
        assert wait(call())[0].text == "done"
        under_way = submit(call())
        while not transport._flights:
            pass
        child = os.fork()
        if not child:  # what the parent has under way takes no place here
            text = wait(call())[0].text
            wait(transport.close())
            os._exit(0 if text == "done" else 1)
        print(os.waitpid(child, 0)[1], under_way.result()[0].text, wait(call())[0].text)
    """

    async def slowly(request, now):
        await asyncio.sleep(0.3)
        return web.json_response(answer())

    server.script = [well, slowly]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), server.url], capture_output=True, text=True, timeout=4 * LONG
    )
    assert done.stdout.strip() == "0 done done", done.stderr
    assert not done.stderr


def test_too_few_open_files_are_waited_out(server):
    script = """
        import asyncio, resource, sys
        from a1_sgl.engine import answers
        from a1_sgl.engine.loop import wait
        from a1_sgl.engine.scope import Scope
        from a1_sgl.engine.transport import Limit, Settings, Transport

        async def run():
            transport = Transport(sys.argv[1], "target", Settings(pause=0.01, longest_pause=0.05, patience=60))
            transport.limit = Limit(100)
            calls = [transport.call({"input_ids": [1]}, Scope(), answers.read) for _ in range(300)]
            texts = [one[0].text for one in await asyncio.gather(*calls)]
            assert transport.limit.now < 100, transport.limit.now
            assert transport.available
            await transport.close()
            return texts

        resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
        print(len(wait(run())))
    """

    async def slowly(request, now):
        await asyncio.sleep(0.05)
        return web.json_response(answer())

    server.script = [slowly] * 1000
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), server.url], capture_output=True, text=True, timeout=4 * LONG
    )
    assert done.stdout.strip() == "300", done.stderr
