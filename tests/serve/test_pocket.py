"""The server before the pocket pair of task chain."""

import json

import openai
import pytest

from a1_sgl.conformal import Card
from a1_sgl.errors import ConfigError
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket import card_path
from a1_sgl.serve import Service
from a1_sgl.serve.gate import Kind
from a1_sgl.serve.requests import Defaults, Options
from a1_sgl.serve.running import running


@pytest.fixture
def client(pair, tmp_path):
    card = Card.load(card_path("chain"))
    (system, _) = find_task("chain").question("?").messages
    defaults = Defaults(system=system["content"], a1=Options(reasoning="open"))
    service = Service(
        pair, Kind("adaptive-turn", card.alpha, card.score, card), defaults=defaults, state=tmp_path, grader="exact"
    )
    with (
        running(service) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as client,
    ):
        client.service = service
        yield client


def ask(client, question, model="a1", **more):
    messages = [one for one in question.messages if one["role"] == "user"]
    return client.chat.completions.create(model=model, messages=messages, **more)


def test_it_answers_and_accounts_for_every_token(client, questions):
    found = ask(client, questions[0], temperature=0.6)
    usage, a1 = found.usage, found.model_extra["a1"]
    assert found.choices[0].finish_reason == "stop"
    assert "\\boxed{" in found.choices[0].message.content
    assert usage.completion_tokens + sum(a1["dropped"].values()) == sum(a1["decoded"].values())
    assert 0 < usage.completion_tokens - usage.completion_tokens_details.reasoning_tokens < 25
    assert a1["gate"]["decisions"] == a1["decisions"] > 0


def test_a_stream_says_what_an_answer_is(client, questions):
    chunks = list(ask(client, questions[1], stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0
    deltas = [one.choices[0].delta for one in chunks[:-1]]
    assert "\\boxed{" in "".join(one.content or "" for one in deltas)
    assert sum(bool(getattr(one, "reasoning_content", None)) for one in deltas) > 1  # step by step


def test_the_target_is_right_and_a_vote_is(client, questions):
    """The target alone solves nearly all of these, and the majority of four chains of A1 nearly as many."""
    right = {"target": 0, "a1+majority": 0}
    for model in right:
        for question in questions[:4]:
            content = ask(client, question, model).choices[0].message.content
            right[model] += f"\\boxed{{{question.answer}}}" in content
    assert right["target"] >= 3
    assert right["a1+majority"] >= 2


def test_a_budget_and_a_stop_sequence_are_the_runtimes_own(client, questions):
    cut = ask(client, questions[2], max_tokens=7)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 7)
    stopped = ask(client, questions[2], stop=["="], extra_body={"a1": {"reasoning": "none"}})
    assert stopped.choices[0].finish_reason == "stop"
    assert "=" not in stopped.choices[0].message.content


def test_a_text_goes_on_as_it_stands(client):
    found = client.completions.create(model="target", prompt="The quick", max_tokens=5)
    assert found.usage.completion_tokens <= 5


def test_a_card_of_other_models_is_refused(pair):
    card = Card.load(card_path("stories"))
    with pytest.raises(ConfigError, match="another set-up"):
        Service(pair, Kind(card=card))


def test_errors_are_what_the_client_knows(client, questions):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, questions[0], max_tokens=100_000)
    assert refused.value.param == "max_tokens"
    with pytest.raises(openai.NotFoundError):
        ask(client, questions[0], "gpt-4o")
    assert json.dumps(refused.value.body)
