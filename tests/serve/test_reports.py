"""What others got wrong: each report as a test, with the wrong way in a sentence."""

import json
import socket
import threading

import httpx
import openai
import pytest

from a1_sgl.errors import RuntimeFault
from a1_sgl.testing import FakeEngine

from .conftest import STEPS, asked, steps, until

USAGE = {"include_usage": True}


def deltas(frames, index=0):
    return [
        one["choices"][0] for one in frames if isinstance(one, dict) and one.get("choices")
        and one["choices"][0]["index"] == index
    ]  # fmt: skip


def test_the_usage_comes_last_with_no_choices_and_is_null_before(serving):
    """litellm 28735: usage rode on a chunk that had choices, or came in the middle."""
    *frames, last, done = serving().lines(stream_options=USAGE)
    assert done == "data: [DONE]"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] > 0
    assert all(one["usage"] is None for one in frames)


def test_without_usage_asked_for_no_chunk_has_any(serving):
    """litellm 28735: clients that had not asked for usage were given a chunk without choices."""
    *frames, _ = serving().lines()
    assert all("usage" not in one and one["choices"] for one in frames)


def test_counts_are_the_runtimes_own(serving):
    """litellm 36168: the proxy tokenised the answer again with another tokenizer."""
    server = serving()
    found = server.post().json()
    decoded = [call for call in server.draft.calls if call.kind == "generate"]
    assert found["usage"]["prompt_tokens"] == len(next(iter(server.draft.calls)).request.ids)
    assert found["usage"]["completion_tokens"] == sum(map(len, STEPS)) + 1 == found["a1"]["decoded"]["draft"]
    assert len(decoded) == 3


def test_every_answer_has_its_index_its_role_and_one_finish(serving):
    """sglang 8417, litellm 5236: with n > 1 all chunks said index 0, roles were missing, or one finish was for all."""
    frames = serving().lines(n=3, stream_options=USAGE)
    for index in range(3):
        mine = deltas(frames, index)
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert [one["finish_reason"] for one in mine].count("stop") == 1
        assert mine[-1]["finish_reason"] == "stop"
        assert all("role" not in one["delta"] for one in mine[1:])
    assert frames[-2]["choices"] == []
    assert not deltas(frames, 3)


def test_n_answers_are_n_runs(serving):
    """Elsewhere n answers were one answer n times."""
    count = iter(range(100))
    server = serving(FakeEngine(lambda call: f"\\boxed{{{next(count)}}}", name="draft", model="d"))
    choices = server.post(n=3).json()["choices"]
    assert [one["index"] for one in choices] == [0, 1, 2]
    assert len({one["message"]["content"] for one in choices}) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_cut_off_finishes_with_length_and_an_empty_delta(serving, stream):
    """optillm, vllm 35705: a truncated answer said stop, or its finish chunk repeated text."""
    server = serving()
    if stream:
        last = deltas(server.lines(max_tokens=20))[-1]
        assert (last["finish_reason"], last["delta"]) == ("length", {})
    else:
        found = server.post(max_tokens=20).json()
        assert found["choices"][0]["finish_reason"] == "length"
        assert found["usage"]["completion_tokens"] == 20


def test_max_tokens_is_of_the_whole_answer_and_not_of_a_chunk(serving):
    """A budget that went to each chunk let a chain of many chunks have many times as much."""
    server = serving()
    server.post(max_tokens=20)
    asked = [call.sampling["max_new_tokens"] for call in server.draft.calls if call.kind == "generate"]
    assert asked == [20, 20 - len(STEPS[0])]


def test_turns_that_run_out_are_length_too(serving):
    found = serving().post(a1={"turns": 2}).json()
    assert found["choices"][0]["finish_reason"] == "length"


def test_silence_is_filled_with_comments(serving):
    """litellm 36992: minutes of silence, and proxies between cut the connection."""
    slow = FakeEngine(steps, name="draft", model="d", delay=0.3)
    frames = serving(slow, keep_alive=0.05).lines()
    assert frames.count(": keep-alive") >= 3
    assert frames[-1] == "data: [DONE]"


@pytest.mark.parametrize(
    ("body", "param"),
    [({"messages": []}, "messages"), ({"model": "nobody"}, "model"), ({"n": 0}, "n"),
     ({"a1": {"turns": -1}}, "a1.turns"), ({"messages": [{"role": "user", "content": "x" * 70_000}]}, "messages")],
)  # fmt: skip
def test_everything_is_checked_before_the_200(serving, body, param):
    """open-webui 29628: a stream began with 200 and then told in a chunk that the request was wrong."""
    answer = serving().post(**{"stream": True, **body})
    assert answer.status_code in (400, 404)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["param"] == param


def test_a_runtime_that_fails_at_once_is_no_200(serving):
    broken = FakeEngine(steps, name="draft", model="d", faults=RuntimeFault("draft at http://10.0.0.1/secret: down"))
    answer = serving(broken).post(stream=True)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert "10.0.0.1" not in answer.text


def test_what_fails_later_is_an_error_frame_and_a_close(serving):
    """open-webui 29628: the stream ended as if the answer were whole."""

    def fault(call):
        return RuntimeFault("draft at http://10.0.0.1/x: down") if call.kind == "generate" and call.number > 1 else None

    frames = serving(FakeEngine(steps, name="draft", model="d", faults=fault)).lines()
    assert frames[-1]["error"]["type"] == "server_error"
    assert "data: [DONE]" not in frames
    assert "10.0.0.1" not in json.dumps(frames)
    assert not [one for one in deltas(frames) if one["finish_reason"]]


@pytest.mark.parametrize(
    ("name", "value"),
    [("n", 0), ("n", -1), ("n", 1.5), ("n", "2"), ("n", True), ("max_tokens", 0), ("max_tokens", -5),
     ("temperature", -1), ("top_p", 0), ("top_p", 2), ("stop", [""]), ("seed", 1.5), ("stream_options", USAGE)],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused(serving, name, value):
    """mistral.rs 1874: n of 0 divided by nothing."""
    answer = serving().post(**{name: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(name)
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["a1", "a1+majority"])
def test_a_client_that_goes_away_has_all_its_chains_aborted(serving, stream, model):
    """sglang 37833: the runtime went on for nobody."""
    slow = FakeEngine(steps, name="draft", model="d", delay=lambda call: 600 if call.kind == "generate" else 0)
    server = serving(slow)
    body = json.dumps(asked("", {"model": model, "stream": stream})).encode()
    host, _, port = server.url.removeprefix("http://").partition(":")
    raw = socket.create_connection((host, int(port)))
    raw.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        + str(len(body)).encode() + b"\r\n\r\n" + body
    )  # fmt: skip
    until(lambda: slow.running == (1 if model == "a1" else 4))
    raw.close()
    until(lambda: not slow.running and not server.target.running)
    until(lambda: not server.service.jobs)
    text = server.http.get("/metrics").text
    assert "a1_chains_in_flight 0.0" in text


def test_a_retry_of_a_timed_out_client_joins_the_work(serving):
    """slime 2340: every retry was a generation more."""
    slow = FakeEngine(steps, name="draft", model="d", delay=lambda call: 0.3 if call.kind == "generate" else 0)
    server = serving(slow)
    key = {"Idempotency-Key": "once"}
    with pytest.raises(httpx.ReadTimeout):
        server.http.post("/v1/chat/completions", json=asked("", {}), headers=key, timeout=0.2)
    first = server.post(headers=key)
    again = server.post(headers=key)
    assert first.status_code == 200
    assert first.json() == again.json()
    assert len([call for call in slow.calls if call.kind == "generate"]) == 3
    other = server.post(headers=key, max_tokens=5)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_a_stream_is_joined_from_its_beginning(serving):
    server = serving()
    key = {"Idempotency-Key": "stream"}
    first = server.lines(headers=key, stream_options=USAGE)
    assert server.lines(headers=key, stream_options=USAGE) == first


def test_a_full_server_says_when_to_come_again(serving, aside):
    """slime 2340: what did not fit was queued, timed out, and came again."""
    slow = FakeEngine(steps, name="draft", model="d", delay=lambda call: 1.0 if call.kind == "generate" else 0)
    server = serving(slow, requests=1)
    first = aside(server.post)
    until(lambda: server.service.jobs)
    answer = server.post()
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "server_full")
    assert int(answer.headers["retry-after"]) >= 1
    assert first().status_code == 200


def test_nothing_is_shared_between_requests(serving, aside):
    """its_hub: one request's temperature became everybody's."""
    server = serving(FakeEngine(steps, name="draft", model="d", delay=0.02))
    wanted = [{"temperature": t / 10, "top_p": 1 - t / 100, "seed": t} for t in range(1, 9)]
    for one in [aside(server.post, **settings) for settings in wanted]:
        one()
    seen = {}
    for call in server.draft.calls:
        if call.kind == "generate":
            question = call.request.route.question
            seen.setdefault(question, set()).add((call.sampling["temperature"], call.sampling["top_p"]))
    assert sorted(seen.values(), key=min) == [{(one["temperature"], one["top_p"])} for one in wanted]


def test_a_seed_is_the_requests_own_and_answers_differ(serving):
    server = serving()
    for _ in range(2):
        server.post(seed=7, n=2)
    seeds = [call.sampling["sampling_seed"] for call in server.draft.calls if call.kind == "generate"]
    assert len(seeds) == 12
    assert len(set(seeds)) == 6  # of two answers, three chunks each, twice the same
    server.post()
    assert "sampling_seed" not in server.draft.calls[-1].sampling


def test_the_prompt_counts_once_and_reasoning_counts_as_such(serving):
    """Elsewhere each chunk's prompt was added up, and reasoning was left out."""
    server = serving()
    one, three = server.post().json(), server.post(n=3).json()
    assert one["usage"]["prompt_tokens"] == three["usage"]["prompt_tokens"]
    said = one["choices"][0]["message"]
    details = one["usage"]["completion_tokens_details"]
    assert said["content"] == STEPS[2]
    assert one["usage"]["completion_tokens"] - details["reasoning_tokens"] == len(said["content"]) + 1
    assert one["usage"]["total_tokens"] == one["usage"]["prompt_tokens"] + one["usage"]["completion_tokens"]


def test_what_was_drafted_dropped_and_prefilled_stands_apart(serving):
    server = serving(alpha=1 - 1e-6)
    found = server.post(a1={"take_over": "replace"}).json()
    a1, whole = found["a1"], sum(map(len, STEPS)) + 1
    assert a1["take_overs"] == a1["decisions"] == 3
    assert a1["dropped"]["draft"] == a1["decoded"]["draft"] == whole
    assert found["usage"]["completion_tokens"] == a1["decoded"]["target"] == whole
    assert a1["prefilled"]["target"] > 0
    assert a1["gate"]["rate"] == 1.0


def test_a_limit_that_does_not_fit_is_refused_and_a_default_is_made_to(serving):
    """optillm 4: a default above the model's limit failed every request."""
    from a1_sgl.serve.requests import Defaults

    small = FakeEngine(steps, name="target", model="t", context=200)
    server = serving(target=small, defaults=Defaults(max_tokens=10_000))
    assert server.post().status_code == 200
    refused = server.post(max_tokens=10_000)
    assert refused.status_code == 400
    assert refused.json()["error"] == {
        "message": refused.json()["error"]["message"], "type": "invalid_request_error", "param": "max_tokens",
        "code": "context_length_exceeded",
    }  # fmt: skip
    assert "10000 tokens do not fit" in refused.json()["error"]["message"]


def test_a_chunk_is_not_shown_before_it_is_decided(serving):
    """Elsewhere a rejected chunk was shown and could not be taken back."""
    draft = FakeEngine(lambda call: "wrong\n\n", name="draft", model="d")
    frames = serving(draft, alpha=1 - 1e-6).lines(a1={"take_over": "replace"})
    said = "".join("".join(map(str, one["delta"].values())) for one in deltas(frames)[1:])
    assert "wrong" not in said
    assert STEPS[2] in said


def test_chunks_are_shown_as_they_are_decided(serving):
    """Elsewhere the whole answer came at the end."""
    gate, seen = threading.Event(), []

    def texts(call):
        return steps(call)

    def delay(call):
        return 0.0 if call.kind != "generate" or STEPS[1] not in call.prompt or gate.is_set() else 600.0

    server = serving(FakeEngine(texts, name="draft", model="d", delay=delay))
    with (
        server.client.chat.completions.create(
            model="a1", messages=[{"role": "user", "content": "q"}], stream=True
        ) as stream,
    ):
        for chunk in stream:
            seen.append(chunk.choices[0].delta)
            if getattr(seen[-1], "reasoning_content", None):
                break  # the third chunk is not written yet, and never will be
    assert seen[-1].reasoning_content == STEPS[0].rstrip()


def test_the_openai_client_reads_what_it_knows(serving):
    client = serving().client
    whole = client.chat.completions.create(model="a1", messages=[{"role": "user", "content": "q"}])
    assert whole.choices[0].message.content == STEPS[2]
    assert whole.choices[0].message.reasoning_content == "".join(STEPS[:2]).rstrip()
    assert whole.usage.completion_tokens_details.reasoning_tokens > 0
    said = ""
    for chunk in client.chat.completions.create(model="a1", messages=[{"role": "user", "content": "q"}], stream=True):
        said += chunk.choices[0].delta.content or ""
    assert said == STEPS[2]
    text = client.completions.create(model="target", prompt="39")
    assert text.choices[0].text.startswith(STEPS[0])
    assert "a1+majority" in [one.id for one in client.models.list()]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="a1", messages=[{"role": "user", "content": "q"}], logprobs=True)
    assert refused.value.param == "logprobs"
