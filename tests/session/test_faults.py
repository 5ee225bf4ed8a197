"""Faults that a real runtime does not produce on demand, from a server that speaks just enough HTTP."""

import json
import math
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from a1_sgl.conformal import marginal
from a1_sgl.engine import Codec, Request, Scope, Settings, wait
from a1_sgl.errors import ChainAborted, RuntimeFault
from a1_sgl.launch.pocket import pocket_specs
from a1_sgl.programs import a1
from a1_sgl.session import Backend, Roles
from a1_sgl.testing import FakeEngine, FakeTokenizer

MODEL = pocket_specs()[0].model
GOOD = {
    "/get_model_info": {"model_path": MODEL, "tokenizer_path": MODEL, "is_generation": True},
    "/v1/models": {"data": [{"max_model_len": 512}]},
}


def answer(**meta):
    base = {"prompt_tokens": 4, "cached_tokens": 1, "completion_tokens": 0, "finish_reason": {"type": "length"}}
    return {"text": "", "output_ids": [], "meta_info": base | meta}


class Calls(list):
    """Paths asked for, and in `sent` what was posted where."""

    def __init__(self):
        super().__init__()
        self.sent = []


@pytest.fixture
def faulty():
    """Starts a server whose answers are given by path: a value, bytes, a status, or a function of the call's number."""
    servers = []

    def start(**replies):
        table = GOOD | {f"/{name}": reply for name, reply in replies.items()}
        calls = Calls()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                sent = self.rfile.read(int(self.headers.get("content-length") or 0))
                calls.append(self.path)
                if sent:
                    calls.sent.append((self.path, json.loads(sent)))
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


def request(*ids, **rest):
    return Request(np.array(ids, np.int32), **rest)


def prefill(engine):
    return wait(engine.prefill(request(5, 6)))


QUICK = Settings(attempts=4, pause=0.01, longest_pause=0.02)


@pytest.mark.parametrize(
    "entries",
    [
        None,
        [],
        [[None, 7, None]],
        [[None, 7, None], [None, 8, None]],
        [[None, 7, None], [-1.0, 8, None], [-2.0, 9, None]],
        [[None, 7, None], [math.nan, 8, None]],
        [[None, 7, None], [-math.inf, 8, None]],
        [[None, 7, None], ["-1.0", 8, None]],
        [[None, 7, None], [1.0, 8, None]],
        "none",
    ],
)
def test_a_model_without_log_probabilities_is_an_error_never_zero_or_infinity(faulty, engine, entries):
    url, _ = faulty(generate=answer(input_token_logprobs=entries))
    one = engine(url, settings=QUICK)
    with pytest.raises(RuntimeFault, match="asked for the log-probabilities of 1 tokens|not JSON"):
        wait(one.score(request(5, 6, 7, 8), 3))


def test_log_probabilities_that_are_missing_once_are_asked_for_again(faulty, engine):
    good = answer(input_token_logprobs=[[None, 7, None], [-1.5, 8, None]])
    url, calls = faulty(generate=lambda number: answer() if number < 3 else good)
    assert wait(engine(url, settings=QUICK).score(request(5, 6, 7, 8), 3)).logprobs == (-1.5,)
    assert calls.count("/generate") == 3


def test_a_connection_that_was_closed_is_tried_again_under_a_new_request(faulty, engine):
    url, calls = faulty(generate=lambda number: None if number < 3 else answer(), abort_request={})
    assert prefill(engine(url, settings=QUICK)).prompt_tokens == 4
    assert calls.count("/generate") == 3
    ids = [body["rid"] for path, body in calls.sent if path == "/generate"]
    assert len(set(ids)) == 3


def test_a_runtime_that_keeps_hanging_up_is_given_up(faulty, engine):
    url, calls = faulty(generate=lambda number: None, abort_request={})
    one = engine(url, settings=Settings(patience=0.1, pause=0.01, longest_pause=0.02))
    with pytest.raises(RuntimeFault, match="/generate failed .* is the runtime up"):
        prefill(one)
    assert calls.count("/generate") > 1


def test_a_refusal_is_not_tried_again_and_keeps_what_the_runtime_said(faulty, engine):
    url, calls = faulty(generate=(400, {"error": {"message": "kernel on fire"}}))
    one = engine(url, settings=QUICK)
    with pytest.raises(RuntimeFault, match=r"answered 400: kernel on fire"):
        prefill(one)
    assert calls.count("/generate") == 1


def test_an_error_of_the_server_that_lasts_keeps_what_the_runtime_said(faulty, engine):
    url, calls = faulty(generate=(500, {"error": {"message": "kernel on fire"}}))
    one = engine(url, settings=QUICK)
    with pytest.raises(RuntimeFault, match=r"answered 500: kernel on fire"):
        prefill(one)
    assert calls.count("/generate") == 4


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_an_error_that_passes_loses_nothing(faulty, engine, status):
    url, calls = faulty(generate=lambda number: (status, b"later") if number < 4 else answer())
    assert prefill(engine(url, settings=QUICK)).prompt_tokens == 4
    assert calls.count("/generate") == 4


def test_an_answer_that_is_not_json_is_shown(faulty, engine):
    url, calls = faulty(generate=b"<html>proxy says no</html>")
    one = engine(url, settings=QUICK)
    with pytest.raises(RuntimeFault, match="not JSON: '<html>proxy says no"):
        prefill(one)
    assert calls.count("/generate") == 4


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"text": "x"},
        {"text": "x", "meta_info": {}},
        {"text": 5, "output_ids": [], "meta_info": {"finish_reason": {"type": "length"}}},
        {"text": "", "output_ids": ["x"], "meta_info": {"finish_reason": {"type": "length"}}},
        {"text": "", "output_ids": [], "meta_info": {"finish_reason": {"type": "length"}}},
        answer(prompt_tokens=-1),
        answer(completion_tokens=3),
    ],
)
def test_an_answer_of_another_shape_is_a_fault(faulty, engine, body):
    url, _ = faulty(generate=body)
    one = engine(url, settings=QUICK)
    with pytest.raises(RuntimeFault, match="no answer to a generation|no finish_reason|no t|tokens generated but"):
        prefill(one)


def test_an_answer_that_got_lost_is_asked_for_again(faulty, engine):
    url, calls = faulty(generate=lambda number: time.sleep(2 * (number == 1)) or answer(), abort_request={})
    assert prefill(engine(url, settings=Settings(silence=0.5))).prompt_tokens == 4
    assert calls.count("/generate") == 2
    first = next(body["rid"] for path, body in calls.sent if path == "/generate")
    assert {body["rid"] for path, body in calls.sent if path == "/abort_request"} == {first}


def test_lasting_silence_is_a_time_out(faulty, engine):
    url, calls = faulty(generate=lambda number: time.sleep(2) or answer(), abort_request={})
    one = engine(url, settings=Settings(silence=0.3, attempts=4, pause=0.01))
    with pytest.raises(RuntimeFault, match=r"no answer within 0\.3 s"):
        prefill(one)
    assert calls.count("/generate") == 4


def test_a_request_the_runtime_aborted_is_an_error(faulty, engine):
    url, _ = faulty(generate=answer(finish_reason={"type": "abort", "message": "out of memory"}))
    one = engine(url, settings=QUICK)
    with pytest.raises(RuntimeFault, match="gave up: out of memory"):
        prefill(one)


def test_a_request_that_was_aborted_in_the_queue_is_answered_with_next_to_nothing(faulty, engine):
    """Such an answer lacks most fields; nothing was spent, and whoever stopped it is told so."""
    stopped, scope = threading.Event(), Scope()

    def reply(number):
        scope.stop()
        stopped.wait(5)
        return {"text": "", "meta_info": {"id": "x", "finish_reason": {"type": "abort", "message": "in the queue"}}}

    def heard(number):
        stopped.set()
        return {}

    url, calls = faulty(generate=reply, abort_request=heard)
    one = engine(url, settings=QUICK)
    said = wait(one.generate(request(5, 6, scope=scope), {"max_new_tokens": 5}))
    assert said.aborted
    assert (said.ids, said.spent.completion_tokens) == ((), 0)
    with pytest.raises(ChainAborted):
        wait(one.prefill(request(5, 6, scope=scope)))
    assert calls.count("/generate") == 1


@pytest.mark.parametrize(
    ("replies", "what"),
    [
        ({"get_model_info": {"hello": 1}}, "no SGLang runtime"),
        ({"get_model_info": (404, b"<html>")}, "no SGLang runtime .it has no /get_model_info"),
        ({"get_model_info": (500, b" <!DOCTYPE HTML>")}, "answered 500: a page of HTML"),
        ({"get_model_info": GOOD["/get_model_info"] | {"is_generation": False}}, "embedding model"),
        ({"v1/models": {"data": []}}, "max_model_len"),
    ],
)
def test_what_is_no_sglang_runtime_for_generation_is_refused(faulty, engine, replies, what):
    url, _ = faulty(**replies)
    with pytest.raises(RuntimeFault, match=what):
        engine(url)


def test_a_character_torn_at_the_end_of_a_chunk_is_left_for_the_next_one(faulty, engine):
    """Byte tokens of "é" and the first of another: ids and text end after the whole character."""
    codec = engine(faulty()[0]).codec
    ids = list(codec.encode("né€"))
    torn = answer(completion_tokens=len(ids) - 1) | {"text": "né\ufffd", "output_ids": ids[:-1]}
    said = wait(engine(faulty(generate=torn)[0]).generate(request(5, 6), {"max_new_tokens": len(ids) - 1}))
    assert (codec.decode(said.ids), said.text, said.ended) == ("né", "né", False)
    assert ids[: len(said.ids)] == list(said.ids)
    assert said.spent.completion_tokens == len(ids) - 1


def test_a_whole_character_that_sglang_takes_for_torn_is_whole(faulty, engine):
    """It decodes the prompt's last tokens too, and where these begin within a character, misreads the rest."""
    codec = engine(faulty()[0]).codec
    ids = list(codec.encode("😀"))
    mistaken = answer(completion_tokens=len(ids)) | {"text": "\ufffd" * 4, "output_ids": ids}
    said = wait(engine(faulty(generate=mistaken)[0]).generate(request(5, 6), {"max_new_tokens": len(ids)}))
    assert (said.text, list(said.ids)) == ("😀", ids)


def test_a_chunk_that_a_tokenizer_has_no_token_for_is_named():
    class Ascii(FakeTokenizer):
        def encode(self, text, add_special_tokens=False):
            return list(text.encode("ascii", "ignore"))

        def get_vocab(self):
            return super().get_vocab() | {"ascii": 257}

    target = FakeEngine("so \\boxed{2}", name="target")
    target.codec = Codec(Ascii())
    backend = Backend(Roles.pair(FakeEngine("\N{SNOWMAN}" * 9, name="draft"), target))
    with pytest.raises(RuntimeFault, match="target runtime: its tokenizer has no token for '\N{SNOWMAN}+'"):
        a1.run(question="1 + 1?", backend=backend, gate=marginal(0.5), draft_tokens=6)
