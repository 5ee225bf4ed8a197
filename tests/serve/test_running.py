"""The server from its socket to its end."""

import http.client
import ssl
import subprocess
import time

import httpx
import pytest

from a1_sgl.errors import ConfigError
from a1_sgl.serve import Service
from a1_sgl.serve.gate import Gates, Kind
from a1_sgl.serve.running import running
from a1_sgl.session import Backend, Roles
from a1_sgl.testing import FakeEngine

from .conftest import asked, steps, until


def slow(seconds):
    return FakeEngine(steps, name="draft", model="d", delay=lambda call: seconds if call.kind == "generate" else 0)


def test_an_end_in_order_lets_requests_end_and_takes_no_more(serving, aside, tmp_path):
    server = serving(slow(1.0), state=tmp_path)
    first = aside(server.post)
    until(lambda: server.service.jobs)
    ended = aside(server.stop)
    until(lambda: server.service.draining)
    with httpx.Client(base_url=server.url) as other:
        ready = other.get("/ready")
        refused = other.post("/v1/chat/completions", json=asked("", {}))
    assert (ready.status_code, ready.headers["retry-after"]) == (503, "5")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "going_down")
    assert refused.headers["retry-after"]
    assert first().json()["choices"][0]["finish_reason"] == "stop"
    ended()
    assert Gates(Kind("marginal", 1e-6), tmp_path).at("mean_loss", 1e-6).counts.decisions == 3


def test_what_does_not_end_within_the_grace_is_stopped_and_told(serving, aside):
    draft = slow(600)
    server = serving(draft, grace=0.2)
    stream, whole = aside(server.lines), aside(server.post)
    until(lambda: draft.running == 2)
    server.stop()
    assert stream()[-1]["error"]["code"] == "going_down"
    assert (whole().status_code, whole().headers["retry-after"]) == (503, "5")
    assert not draft.running


def test_an_end_in_the_middle_of_a_request_keeps_what_was_decided(serving, aside, tmp_path):
    draft = FakeEngine(
        steps, name="draft", model="d", delay=lambda call: 600 if "78 - 18" in call.prompt.rpartition(":")[2] else 0
    )
    server = serving(draft, state=tmp_path, grace=0)
    request = aside(server.post)
    until(lambda: server.service.gates.levels[0].counts.decisions == 2)
    until(lambda: sum(one.read_bytes().count(b'["d"') for one in tmp_path.glob("gate-*.log")) == 2)  # by itself
    server.stop()
    assert request().status_code == 503
    assert Gates(Kind("marginal", 1e-6), tmp_path).at("mean_loss", 1e-6).counts.decisions == 2


def test_tls(tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]  # fmt: skip
    subprocess.run(made, check=True, capture_output=True)
    with Backend(Roles.alone(FakeEngine())) as backend, running(Service(backend), cert=cert, key=key) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(cert))
        assert httpx.get(f"{server.url}/health", verify=context).json() == {"status": "ok"}
    with (
        Backend(Roles.alone(FakeEngine())) as backend,
        pytest.raises(ConfigError, match="--tls-cert"),
        running(Service(backend), cert=key, key=cert),
    ):
        pass


def test_an_idle_connection_is_the_clients_to_close(serving):
    one = http.client.HTTPConnection(serving().url.removeprefix("http://"))
    one.connect()
    one.auto_open = 0  # it may not connect anew
    for pause in (5.5, 0.0):  # uvicorn would close it after five seconds, just when clients use it again
        one.request("GET", "/health")
        assert one.getresponse().read() == b'{"status":"ok"}'
        time.sleep(pause)
    one.close()


def test_a_port_that_is_taken_is_refused(serving):
    server = serving()
    port = int(server.url.rpartition(":")[2])
    with (
        Backend(Roles.alone(FakeEngine())) as backend,
        pytest.raises(ConfigError, match="nobody can listen at"),
        running(Service(backend), port=port),
    ):
        pass


def test_nothing_is_left_when_it_is_over(serving, instances):
    import asyncio

    from a1_sgl.engine.loop import wait
    from a1_sgl.serve.job import Job

    async def tasks():
        return len(asyncio.all_tasks())

    before = wait(tasks())
    jobs = instances(Job)
    server = serving()
    for _ in range(20):
        server.post()
        server.lines()
    until(lambda: not server.service.jobs)
    import gc

    gc.collect()
    assert len(jobs) <= 1  # the last one, in somebody's frame
    assert not server.service.gates.levels[0].counts.open
    server.stop()
    until(lambda: wait(tasks()) <= before)
