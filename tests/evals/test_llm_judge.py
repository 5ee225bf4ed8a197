import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from a1_sgl.errors import ConfigError, RuntimeFault
from a1_sgl.evals.llm_judge import agreement, judge, verdicts_file
from a1_sgl.records import RunFolder

from .made import run


@pytest.fixture
def endpoint():
    """An endpoint that says what it is told to, and fails first where it is told to."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append((self.path, body, self.headers.get("Authorization")))
            if server.failures:
                self.send_response(server.failures.pop())
                self.end_headers()
                self.wfile.write(b'{"error": "no such model"}')
                return
            text = body["messages"][0]["content"]
            said = next((reply for answer, reply in server.replies.items() if f"Given answer: {answer}\n" in text), "?")
            reply = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.failures, server.replies = [], [], {}
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_verdicts_stand_beside_grades_and_are_asked_for_once(endpoint, tmp_path):
    folder = run(tmp_path / "run", [["1", "1"], ["one", "3"], ["4", None]])
    endpoint.replies = {"1": "YES", "one": "<think>no? yes!</think> **Yes.**", "3": "No.", "4": "yes and no"}
    endpoint.failures = [503]
    before = (tmp_path / "run" / "chains.jsonl").read_text()
    verdicts = judge(folder, endpoint.url, "org/model", key="secret", at_once=1)
    assert verdicts == {("q0", "1"): "right", ("q1", "one"): "right", ("q1", "3"): "wrong", ("q2", "4"): "unclear"}
    assert agreement(folder, verdicts) == {
        (True, "right"): 2, (False, "right"): 1, (False, "wrong"): 1, (False, "unclear"): 1,
    }  # fmt: skip
    assert {path for path, _, _ in endpoint.asked} == {"/v1/chat/completions"}
    assert {key for _, _, key in endpoint.asked} == {"Bearer secret"}
    assert len(endpoint.asked) == 5  # one of them failed and was asked again
    assert judge(RunFolder.read(tmp_path / "run"), endpoint.url, "org/model") == verdicts
    assert len(endpoint.asked) == 5
    assert (tmp_path / "run" / "chains.jsonl").read_text() == before
    assert verdicts_file(folder, "org/model").name.startswith("judge-org-model-")


def test_an_endpoint_that_refuses_loses_no_verdict(endpoint, tmp_path):
    folder = run(tmp_path / "run", [["1", "2"]])
    endpoint.replies, endpoint.failures = {"1": "YES", "2": "NO"}, [401]
    with pytest.raises(RuntimeFault, match=r"401 Unauthorized: .*no such model.*; verdicts that came are in"):
        judge(folder, endpoint.url, "m", at_once=1)
    assert len(judge(folder, endpoint.url, "m", at_once=1)) == 2


def test_a_torn_line_is_asked_for_again_and_nonsense_is_named(endpoint, tmp_path):
    folder = run(tmp_path / "run", [["1", "2"]])
    endpoint.replies = {"1": "YES", "2": "<think> NO, wait"}
    judge(folder, endpoint.url, "m", at_once=1)
    path = verdicts_file(folder, "m")
    path.write_text(path.read_text()[:-20])
    assert judge(folder, endpoint.url, "m") == {("q0", "1"): "right", ("q0", "2"): "unclear"}
    assert judge(folder, endpoint.url, "m") == {("q0", "1"): "right", ("q0", "2"): "unclear"}
    before = path.read_text()
    path.write_text(before + '{"question": "q0"}\n')
    with pytest.raises(ConfigError, match=r"judge-m-\w+\.jsonl, line 3: this cannot be read: answer: is missing"):
        judge(folder, endpoint.url, "m")
    path.write_text(before)
    endpoint.failures = [200]
    with pytest.raises(RuntimeFault, match="no chat completion but"):
        judge(folder, endpoint.url, "other", at_once=1)


def test_a_real_runtime_is_an_endpoint_and_says_what_it_refuses(runtimes, tmp_path):
    folder = run(tmp_path / "run", [["1"]])
    with pytest.raises(RuntimeFault, match="400 Bad Request"):  # the pocket pair's context is too short for the prompt
        judge(folder, runtimes["draft"].url + "/v1", "default")
