"""Requests: what is taken, what is refused by its name, and what a file of defaults says."""

import pytest
from pydantic import ValidationError

from a1_sgl.errors import ConfigError
from a1_sgl.serve.requests import ChatRequest, CompletionRequest, Defaults, Options

HELLO = [{"role": "user", "content": "q"}]
REFUSED = {
    "logprobs": True, "top_logprobs": 3, "frequency_penalty": 0.5, "presence_penalty": -0.5, "repetition_penalty": 1.1,
    "logit_bias": {"5": 1}, "response_format": {"type": "json_object"}, "tool_choice": "required",
    "parallel_tool_calls": False, "reasoning_effort": "high", "verbosity": "low", "modalities": ["audio"],
    "audio": {"voice": "x"}, "prediction": {"type": "content"}, "functions": [{}], "function_call": "auto",
    "web_search_options": {}, "store": True, "service_tier": "priority", "ignore_eos": True, "guided_json": "{}",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_its_name(serving, name):
    answer = serving().post(**{name: REFUSED[name]})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == name
    assert name in error["message"]


@pytest.mark.parametrize("name", ["best_of", "echo", "suffix", "logprobs", "messages"])
def test_the_same_of_completions(serving, name):
    value = {"best_of": 2, "echo": True, "suffix": "x", "logprobs": 0, "messages": HELLO}[name]
    answer = serving().post("/v1/completions", **{name: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


def test_what_asks_for_nothing_is_taken():
    ChatRequest(
        model="a1", messages=HELLO, logprobs=False, top_logprobs=0, frequency_penalty=0, presence_penalty=0.0,
        logit_bias={}, response_format={"type": "text"}, tool_choice="auto", parallel_tool_calls=True, store=False,
        modalities=["text"], user="me", metadata={"a": 1}, safety_identifier="x", service_tier="auto", seed=None,
        temperature=None, tools=None, stream_options=None, stop=None, n=None, stream=None, a1=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([{"role": "wizard", "content": "q"}], "messages.0.role"),
        ([{"role": "user"}], "messages.0"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "messages.0.content"),
        ([{"role": "tool", "content": "q"}], "messages.0"),
        ([{"role": "user", "content": "q", "tool_calls": [{}]}], "messages.0"),
        ([{"role": "user", "content": "q", "mood": "good"}], "messages.0.mood"),
    ],
)
def test_messages_that_cannot_be_are_named(serving, messages, place):
    answer = serving().post(messages=messages)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(place)


def test_parts_are_one_text_and_a_developer_is_the_system(serving):
    server = serving()
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    server.post(messages=[{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}])
    assert server.draft.calls[0].prompt == "system: be brief\nuser: one two\nassistant: "


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_half_a_character_is_refused(text):
    for make in (
        lambda: ChatRequest(model="a1", messages=[{"role": "user", "content": text}]),
        lambda: ChatRequest(model="a1", messages=HELLO, a1={"cue": text}),
        lambda: CompletionRequest(model="a1", prompt=text),
    ):
        with pytest.raises(ValidationError):
            make()


def test_two_limits_that_differ_are_refused():
    with pytest.raises(ValidationError, match="same thing"):
        ChatRequest(model="a1", messages=HELLO, max_tokens=1, max_completion_tokens=2)
    assert ChatRequest(model="a1", messages=HELLO, max_completion_tokens=2).limit == 2


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"alpha": 0}, "a1.alpha"), ({"alpha": 1.0}, "a1.alpha"), ({"chains": 0}, "a1.chains"),
        ({"chains": 1000}, "a1.chains"), ({"vote": "loudest"}, "a1.vote"), ({"rate": "x"}, "a1.rate"),
        ({"runtime": "draft"}, "a1.runtime"), ({"runtime": "moon"}, "a1.runtime"), ({"chunking": "x"}, "a1.chunking"),
        ({"grader": "x"}, "a1.grader"), ({"deadline": 0}, "a1.deadline"), ({"deadline": 1e9}, "a1.deadline"),
        ({"turns": "many"}, "a1.turns"), ({"take_over": "never"}, "a1.take_over"), ({"width": 3}, "a1.width"),
        ({"score": "x"}, "a1.score"), ({"reasoning": "deep"}, "a1.reasoning"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_by_name(serving, options, param):
    answer = serving().post(a1=options)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_an_alpha_where_there_is_no_gate_is_refused(serving):
    answer = serving().post(model="self_consistency", a1={"alpha": 0.3})
    assert answer.json()["error"]["param"] == "a1.alpha"


def test_options_are_honoured(serving):
    server = serving()
    found = server.post(a1={"alpha": 0.4, "chains": 3, "turns": 1, "take_over": "replace", "chunking": "line"}).json()
    assert found["a1"]["gate"]["alpha"] == 0.4
    assert found["a1"]["chains"] == found["a1"]["turns"] == 3
    assert {call.sampling["stop"][0] for call in server.draft.calls if call.kind == "generate"} == {"\n"}


def test_defaults_are_what_a_request_says_where_it_says_nothing(serving, tmp_path):
    file = tmp_path / "defaults.yaml"
    file.write_text(
        "temperature: 0.3\nmax_tokens: 50\nsystem: be brief\na1: {turns: 2}\n"
        "models:\n  a1: {temperature: 0.4, a1: {draft_tokens: 7}}\n"
    )
    server = serving(defaults=Defaults.load(file))
    server.post()
    server.post(temperature=0.9, a1={"turns": 1, "draft_tokens": 9})
    calls = [call for call in server.draft.calls if call.kind == "generate"]
    assert [(one.sampling["temperature"], one.sampling["max_new_tokens"]) for one in calls] == [
        (0.4, 7), (0.4, 7), (0.9, 9)
    ]  # fmt: skip
    assert calls[0].prompt.startswith("system: be brief\n")
    server.post(model="target")
    assert server.target.calls[-1].sampling["max_new_tokens"] == 50


@pytest.mark.parametrize("content", ["temperature: -1", "what: 1", "a1: {alpha: 2}", "[1]", "a: b: c"])
def test_defaults_that_cannot_be_are_refused(tmp_path, content):
    file = tmp_path / "defaults.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"defaults\.yaml"):
        Defaults.load(file)


def test_defaults_of_a_model_that_there_is_not_are_refused(serving):
    with pytest.raises(ConfigError, match="there is no model 'a2'"):
        serving(defaults=Defaults(models={"a2": Defaults()}))


def test_own_options_are_those_that_are_nobodys_else():
    assert Options(alpha=0.1, turns=3).own == {"turns": 3}
