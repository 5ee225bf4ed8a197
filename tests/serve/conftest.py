"""A server in this process, on real sockets, before engines without a model."""

import contextlib
import json
import threading
import time
from types import SimpleNamespace

import httpx
import openai
import pytest

from a1_sgl.serve import Service, Settings
from a1_sgl.serve.gate import Kind
from a1_sgl.serve.page import routes
from a1_sgl.serve.running import running
from a1_sgl.session import Backend, Roles
from a1_sgl.testing import FakeEngine

STEPS = ["39 * 2 = 78\n\n", "78 - 18 = 60\n\n", "The answer is \\boxed{60}."]


def steps(call):
    """A chain of three chunks, or what is left of it; where nothing ends a chunk, all in one."""
    done = call.prompt.rpartition("assistant: ")[2]
    return "".join(step for step in STEPS if step not in done) or "."


@pytest.fixture
def serving():
    """`serving(draft, target, alpha=..., **settings)`: a server; its `post`, `lines`, `client` and service."""
    with contextlib.ExitStack() as stack:

        def start(draft=None, target=None, *, alpha=1e-6, kind=None, alone=False, **more):
            draft = FakeEngine(steps, name="draft", model="d") if draft is None else draft
            target = FakeEngine(steps, name="target", model="t") if target is None else target
            ours = {"keys", "defaults", "state", "grader"}
            settings = Settings(**{"keep_alive": 30, **{k: v for k, v in more.items() if k not in ours}})
            roles = Roles.alone(target) if alone else Roles.pair(draft, target)
            backend = stack.enter_context(Backend(roles))
            service = Service(
                backend, kind or Kind("marginal", alpha), settings=settings,
                **{k: v for k, v in more.items() if k in ours},
            )  # fmt: skip
            own = stack.enter_context(contextlib.ExitStack())
            server = own.enter_context(running(service, pages=[routes(service)]))
            http = stack.enter_context(httpx.Client(base_url=server.url, timeout=60))
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)
            stack.callback(client.close)

            def post(path="/v1/chat/completions", headers=None, **body):
                return http.post(path, json=asked(path, body), headers=headers)

            def lines(path="/v1/chat/completions", headers=None, **body):
                """The frames of a stream: JSON, or the text of what is none."""
                with http.stream("POST", path, json=asked(path, {"stream": True, **body}), headers=headers) as answer:
                    assert answer.status_code == 200, answer.read()
                    text = "".join(answer.iter_text())
                frames = [one for one in text.split("\n\n") if one]
                return [json.loads(one[6:]) if one.startswith("data: {") else one for one in frames]

            return SimpleNamespace(
                url=server.url, http=http, client=client, post=post, lines=lines, service=service, draft=draft,
                target=target, stop=own.close,
            )  # fmt: skip

        yield start


def asked(path, body):
    what = {"prompt": "q"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "q"}]}
    return {"model": "a1", **what, **body}


def until(condition, seconds=30.0):
    """Waits for what must come to be; it takes as long as a busy machine takes."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


@pytest.fixture
def aside():
    """`aside(function)`: runs it in a thread; its result when asked for."""
    threads = []

    def start(function, *arguments, **named):
        found = {}

        def run():
            try:
                found["value"] = function(*arguments, **named)
            except Exception as error:
                found["error"] = error

        thread = threading.Thread(target=run, daemon=True)
        threads.append(thread)
        thread.start()

        def result():
            thread.join(60)
            assert not thread.is_alive()
            if "error" in found:
                raise found["error"]
            return found["value"]

        return result

    yield start
    for thread in threads:
        thread.join(60)
