"""What stands before the routes, and what is told when something goes wrong."""

import asyncio
import contextlib
import json
import logging
import socket
import threading

import pytest

from a1_sgl.engine.fake import FakeTokenizer
from a1_sgl.session.admission import Admission
from a1_sgl.testing import FakeEngine

from .conftest import asked, steps, until


def shape(answer):
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/v1/chat/completions", 405), ("GET", "/v1/models/nobody", 404),
     ("GET", "/docs", 404), ("POST", "/v1/models", 405)],
)  # fmt: skip
def test_every_error_has_openais_shape(serving, method, path, status):
    answer = serving().http.request(method, path)
    assert answer.status_code == status
    assert shape(answer)["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"1", b'"a"', b"\xff", b"null", b'{"a": 1e999}', b"[" * 50_000, b'{"n": ' + b"9" * 5000 + b"}"],
)
def test_a_body_that_is_no_request_is_a_400(serving, body):
    answer = serving().http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    shape(answer)


def test_a_body_of_another_kind_is_refused(serving):
    """A page of another site can send text to this machine without being asked; it cannot send JSON."""
    body = json.dumps(asked("", {}))
    answer = serving().http.post("/v1/chat/completions", content=body, headers={"Content-Type": "text/plain"})
    assert answer.status_code in (400, 415, 422)
    bare = serving().http.post(  # as curl sends it where no header is given
        "/v1/chat/completions", content=body, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert bare.status_code == 400
    assert "Content-Type: application/json" in shape(bare)["message"]


def test_an_option_of_a1_in_the_wrong_place_is_told_where_it_goes(serving):
    answer = serving().post(alpha=0.3)
    assert answer.status_code == 400
    assert 'it goes into the field a1: {"a1": {"alpha": ...}}' in answer.json()["error"]["message"]


@pytest.mark.parametrize("told", [True, False])
def test_a_body_that_is_too_large_is_refused(serving, told):
    server = serving(body=1000)
    body = json.dumps(asked("", {"user": "x" * 2000})).encode()
    content = body if told else iter([body[:600], body[600:]])
    answer = server.http.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert (answer.status_code, shape(answer)["code"]) == (413, "request_too_large")


def test_a_body_that_does_not_come_is_given_up(serving):
    server = serving(upload=0.2)
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        assert b" 408 " in raw.recv(1000)


def test_a_name_that_is_not_this_servers_is_refused(serving):
    """A page of another site whose name is made to lead here."""
    server = serving(hosts=("127.0.0.1",))
    assert server.http.get("/health").status_code == 200
    assert server.http.get("/health", headers={"Host": "evil.example:8080"}).status_code == 400


def test_no_other_site_may_read(serving):
    answer = serving().http.options(
        "/v1/chat/completions", headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert "access-control-allow-origin" not in answer.headers
    assert answer.status_code == 405


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_of_ours_shows_no_path_and_no_trace(serving, stream, caplog):
    def fault(call):
        return ValueError(f"at {__file__}, line 1") if call.kind == "generate" else None

    server = serving(FakeEngine(steps, name="draft", model="d", faults=fault))
    if stream:
        text = json.dumps(server.lines())
    else:
        answer = server.post()
        assert answer.status_code == 500
        text = answer.text
    assert "internal_error" in text
    assert __file__ not in text
    assert "Traceback" not in text
    assert __file__ in caplog.text  # but the log says it


def test_a_template_that_refuses_is_told_without_its_path(serving, monkeypatch):
    from jinja2 import TemplateError

    def refuse(self, *arguments, **named):
        raise TemplateError("roles must alternate")

    server = serving()
    monkeypatch.setattr(FakeTokenizer, "apply_chat_template", refuse)
    monkeypatch.setattr(FakeTokenizer, "name_or_path", "/home/me/models/secret")
    answer = server.post()
    assert (answer.status_code, shape(answer)["param"]) == (400, "messages")
    assert "roles must alternate" in answer.text
    assert "secret" not in answer.text


def test_a_deadline_ends_a_request(serving):
    slow = FakeEngine(steps, name="draft", model="d", delay=lambda call: 600 if call.kind == "generate" else 0)
    server = serving(slow)
    answer = server.post(a1={"deadline": 0.2})
    assert (answer.status_code, shape(answer)["code"]) == (504, "deadline_exceeded")
    frames = server.lines(a1={"deadline": 0.2})
    assert frames[-1]["error"]["code"] == "deadline_exceeded"
    until(lambda: not slow.running)


def test_a_deadline_ends_a_request_that_waits_for_its_turn(serving, aside):
    slow = FakeEngine(steps, name="draft", model="d", delay=lambda call: 600 if call.kind == "generate" else 0)
    server = serving(slow, grace=0)
    server.service.backend.admission = Admission(1)
    first = aside(server.post)
    until(lambda: slow.running)
    answer = server.post(a1={"deadline": 0.2})
    assert (answer.status_code, shape(answer)["code"]) == (504, "deadline_exceeded")
    until(lambda: len(server.service.jobs) == 1)  # it does not wait on, either
    server.stop()
    assert first().status_code == 503


def test_a_deadline_holds_whatever_the_runtime_does(serving):
    hears = threading.Event()

    class Deaf(FakeEngine):
        async def generate(self, request, sampling):
            while not hears.is_set():
                await asyncio.sleep(0.01)
            return await super().generate(request, sampling)

    server = serving(Deaf(steps, name="draft", model="d"))
    try:
        assert server.post(a1={"deadline": 0.2}).status_code == 504
        assert server.lines(a1={"deadline": 0.2})[-1]["error"]["code"] == "deadline_exceeded"
        assert len(server.service.jobs) == 2  # what is not over counts as long as it is not
    finally:
        hears.set()
    until(lambda: not server.service.jobs)


def test_a_reader_who_does_not_read_is_given_up(serving, caplog):
    caplog.set_level(logging.INFO, "a1_sgl")
    long = FakeEngine("x, " * 5_000_000, name="target", model="t", context=100_000_000, cache=False)
    server = serving(target=long, stall=0.3, tokens=90_000_000, alone=True)
    body = json.dumps(asked("", {"model": "target", "stream": True})).encode()
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
            + str(len(body)).encode() + b"\r\n\r\n" + body
        )  # fmt: skip
        until(lambda: "its reader was given up" in caplog.text)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := raw.recv(1 << 20):  # the connection ends, and not with the answer's end
                received += len(piece)
        assert received < 14_500_000


def test_ready_says_what_is_missing(serving):
    server = serving()
    assert server.http.get("/ready").json() == {"status": "ready"}
    server.target.available = False
    answer = server.http.get("/ready")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert server.post().json()["error"]["code"] == "runtime_down"
    assert server.http.get("/health").status_code == 200


def test_models_are_those_that_can_be_played(serving):
    names = [one["id"] for one in serving().http.get("/v1/models").json()["data"]]
    assert {"a1", "a1+majority", "self_consistency", "best_of_n", "draft", "target"} <= set(names)
    alone = serving(alone=True)
    names = [one["id"] for one in alone.http.get("/v1/models").json()["data"]]
    assert "target" in names
    assert not {"a1", "draft"} & set(names)
    assert alone.http.get("/v1/models/best_of_n").json()["object"] == "model"
    assert alone.post(model="self_consistency").status_code == 200
    assert alone.post(model="a1").json()["error"]["code"] == "model_not_found"


def test_metrics_tell_of_requests_first_tokens_and_the_gate(serving):
    server = serving(alpha=0.25)
    server.post()
    server.lines()
    server.post(n=0)
    until(lambda: sum(server.service.metrics._requests.values()) == 3)  # counted after they were sent
    text = server.http.get("/metrics").text
    for line in (
        'a1_requests_total{route="/v1/chat/completions",status="200"} 2.0',
        'a1_requests_total{route="/v1/chat/completions",status="400"} 1.0',
        "a1_first_token_seconds_count 1.0",
        'a1_gate_scores{alpha="0.25",score="mean_loss"}',
        'a1_gate_rate_low{alpha="0.25",score="mean_loss"}',
        'a1_gate_turn_rate{alpha="0.25",score="mean_loss",turn="0"}',
        'a1_gate_alarms{alpha="0.25",score="mean_loss"} 0.0',
        'a1_decisions_total{gate="marginal"}',
        "a1_chains_in_flight 0.0",
        "a1_requests_running 0.0",
        "a1_tasks ",
    ):
        assert line in text, line


def test_alphas_that_are_close_are_told_apart_in_metrics(serving):
    server = serving(alpha=0.25)
    server.post()
    server.post(a1={"alpha": 0.25 + 1e-9})
    names = [line.rpartition(" ")[0] for line in server.http.get("/metrics").text.splitlines() if line[0] != "#"]
    assert len(set(names)) == len(names)


def test_a_page_has_its_place(tmp_path):
    from fastapi import APIRouter
    from fastapi.testclient import TestClient

    from a1_sgl.serve import Service, create_app
    from a1_sgl.session import Backend, Roles

    page = APIRouter()
    page.add_api_route("/", lambda: "hello")
    with Backend(Roles.alone(FakeEngine())) as backend:
        assert TestClient(create_app(Service(backend), [page])).get("/").json() == "hello"
