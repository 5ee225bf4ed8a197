"""Faults that a real runtime does not produce on demand, from a server that speaks just enough HTTP."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from a1_sgl.errors import RuntimeFault
from a1_sgl.launch.pocket import pocket_specs
from a1_sgl.runtime import Endpoint

MODEL = pocket_specs()[0].model
GOOD = {
    "/get_model_info": {"model_path": MODEL, "tokenizer_path": MODEL, "is_generation": True},
    "/v1/models": {"data": [{"max_model_len": 512}]},
}


def answer(**meta):
    base = {"prompt_tokens": 4, "cached_tokens": 1, "completion_tokens": 0, "finish_reason": {"type": "length"}}
    return {"text": "", "output_ids": [], "meta_info": base | meta}


@pytest.fixture
def faulty():
    """Starts a server whose answers are given by path: a value, bytes, a status, or a function of the call's number."""
    servers = []

    def start(**replies):
        table = GOOD | {f"/{name}": reply for name, reply in replies.items()}
        calls = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.rfile.read(int(self.headers.get("content-length") or 0))
                calls.append(self.path)
                reply = table[self.path]
                reply = reply(calls.count(self.path)) if callable(reply) else reply
                if reply is None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                status, body = reply if isinstance(reply, tuple) else (200, reply)
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.calls = calls
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", calls

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "entries",
    [
        None,
        [],
        [[None, 7, None]],
        [[None, 7, None], [None, 8, None]],
        [[None, 7, None], [-1.0, 8, None], [-2.0, 9, None]],
    ],
)
def test_a_model_without_log_probabilities_is_an_error_never_zero_or_infinity(faulty, entries):
    url, _ = faulty(generate=answer(input_token_logprobs=entries))
    with Endpoint(url) as endpoint, pytest.raises(RuntimeFault, match="asked for the log-probabilities of 1 tokens"):
        endpoint.loss([5, 6, 7], [8])


def test_a_connection_that_was_closed_is_tried_again_under_a_new_request(faulty):
    url, calls = faulty(generate=lambda number: None if number < 3 else answer())
    with Endpoint(url) as endpoint:
        assert endpoint.prefill([5, 6]).prompt_tokens == 4
    assert calls.count("/generate") == 3


def test_a_runtime_that_keeps_hanging_up_is_given_up(faulty):
    url, calls = faulty(generate=lambda number: None)
    with Endpoint(url) as endpoint, pytest.raises(RuntimeFault, match="/generate failed .* is the runtime up"):
        endpoint.prefill([5, 6])
    assert calls.count("/generate") == 4


def test_an_error_status_is_not_tried_again_and_keeps_what_the_runtime_said(faulty):
    url, calls = faulty(generate=(500, {"error": {"message": "kernel on fire"}}))
    with (
        Endpoint(url) as endpoint,
        pytest.raises(RuntimeFault, match=r"answered 500 \(2 prompt tokens\): kernel on fire"),
    ):
        endpoint.prefill([5, 6])
    assert calls.count("/generate") == 1


def test_an_answer_that_is_not_json_is_shown(faulty):
    url, _ = faulty(generate=b"<html>proxy says no</html>")
    with Endpoint(url) as endpoint, pytest.raises(RuntimeFault, match="not JSON: '<html>proxy says no"):
        endpoint.prefill([5, 6])


def test_an_answer_that_got_lost_is_asked_for_again(faulty):
    url, calls = faulty(generate=lambda number: time.sleep(2 * (number == 1)) or answer(), abort_request={})
    with Endpoint(url, timeout=0.5) as endpoint:
        assert endpoint.prefill([5, 6]).prompt_tokens == 4
    assert calls.count("/generate") == 2
    assert calls.count("/abort_request") == 1


def test_lasting_silence_is_a_time_out(faulty):
    url, calls = faulty(generate=lambda number: time.sleep(2) or answer(), abort_request={})
    with Endpoint(url, timeout=0.3) as endpoint, pytest.raises(RuntimeFault, match=r"no answer within 0\.3 s"):
        endpoint.prefill([5, 6])
    assert calls.count("/generate") == 4


def test_a_request_the_runtime_aborted_is_an_error(faulty):
    url, _ = faulty(generate=answer(finish_reason={"type": "abort", "message": "out of memory"}))
    with Endpoint(url) as endpoint, pytest.raises(RuntimeFault, match="gave up: out of memory"):
        endpoint.prefill([5, 6])


@pytest.mark.parametrize(
    ("replies", "what"),
    [
        ({"get_model_info": {"hello": 1}}, "no SGLang runtime"),
        ({"get_model_info": (404, b"nothing")}, "answered 404"),
        ({"get_model_info": GOOD["/get_model_info"] | {"is_generation": False}}, "embedding model"),
        ({"v1/models": {"data": []}}, "max_model_len"),
    ],
)
def test_what_is_no_sglang_runtime_for_generation_is_refused(faulty, replies, what):
    url, _ = faulty(**replies)
    with pytest.raises(RuntimeFault, match=what):
        Endpoint(url)


def test_a_character_torn_at_the_end_of_a_chunk_is_left_for_the_next_one(faulty):
    """Byte tokens of "é" and the first byte of another: ids and text end after the whole character."""
    url, _ = faulty()
    with Endpoint(url) as endpoint:
        ids = list(endpoint.encode("né€"))
        torn = {"text": "né�", "output_ids": ids[:-1], "meta_info": {"finish_reason": {"type": "length"}}}
        whole, text, ended = endpoint._whole(torn)
        assert (endpoint.tokenizer.decode(whole), text, ended) == ("né", "né", False)
        assert ids[: len(whole)] == whole
