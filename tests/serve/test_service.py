"""What a card brings with it, and what a certificate speaks of."""

from dataclasses import replace

import pytest

from a1_sgl.conformal import Card, Certificate, Trial
from a1_sgl.errors import ConfigError
from a1_sgl.evals.environment import fingerprint, packages
from a1_sgl.serve import Settings
from a1_sgl.serve.gate import Kind
from a1_sgl.testing import FakeEngine

from .conftest import steps

PARAMETERS = {"turns": 9, "draft_tokens": 77, "take_over": "replace"}


def engines():
    return FakeEngine(steps, name="draft", model="d"), FakeEngine(steps, name="target", model="t")


def made(draft, target):
    models = {"draft": fingerprint(draft), "target": fingerprint(target)}
    protocol = {
        "task": "t", "program": "a1", "source": None, "levels": None, "family": "f", "parameters": PARAMETERS,
        "score": "mean_loss", "stop": ["\n"], "sampling": {"temperature": 0.6, "top_p": 0.9}, "models": models,
    }  # fmt: skip
    places = tuple((i, 0, 0) for i in range(60))
    card = Card(
        "mean_loss", tuple(map(float, range(60))), places, tuple(f"c{i}" for i in range(60)), "t", 0.25, protocol,
        packages(),
    )  # fmt: skip
    policy = protocol | {
        "packages": packages(), "grader": "math", "chains": 1, "vote": "majority", "rate": None, "gate": "frozen",
        "bank": card.sha256, "first": None, "alarm": None,
    }  # fmt: skip
    certificate = Certificate(
        0.05, 0.1, (Trial(0.25, 0, 90, 20.0, 59),), policy, 60, "calibration", 0, tuple(f"b{i}" for i in range(90)), 80
    )
    return replace(card, certificate=certificate)


def test_requests_that_say_nothing_are_run_as_the_card_was_made(serving):
    draft, target = engines()
    server = serving(draft, target, kind=Kind("adaptive-turn", 0.25, card=made(draft, target)))
    server.post()
    call = next(call for call in draft.calls if call.kind == "generate")
    assert call.sampling["stop"] == ["\n"]
    assert (call.sampling["temperature"], call.sampling["top_p"]) == (0.6, 0.9)
    assert call.sampling["max_new_tokens"] == 77
    assert server.service.gates.levels[0].scores > 60


def test_a_card_of_other_models_is_refused(serving):
    card = made(*engines())
    stranger = FakeEngine(steps, name="target", model="another")
    with pytest.raises(ConfigError, match="another set-up"):
        serving(target=stranger, kind=Kind(card=card))


@pytest.mark.parametrize(
    ("changes", "certified"),
    [
        ({}, True), ({"temperature": 0.7}, False), ({"model": "a1+majority"}, False), ({"a1": {"alpha": 0.3}}, False),
        ({"a1": {"turns": 3}}, False), ({"model": "a1_lookahead"}, False), ({"a1": {"chunking": "step"}}, False),
        ({"max_tokens": 5}, False),
        ({"stop": ["x"]}, False), ({"top_k": 5}, False),
    ],
)  # fmt: skip
def test_a_certificate_speaks_of_requests_run_as_certified(serving, changes, certified):
    draft, target = engines()
    server = serving(draft, target, kind=Kind("frozen", 0.25, card=made(draft, target)))
    assert "a1_gate_certified 1.0" in server.http.get("/metrics").text
    assert server.post(**changes).json()["a1"]["gate"]["certified"] is certified


def test_a_gate_that_was_not_certified_is_not(serving):
    draft, target = engines()
    server = serving(draft, target, kind=Kind("marginal", 0.25, card=made(draft, target)))
    assert "a1_gate_certified 0.0" in server.http.get("/metrics").text
    assert server.post().json()["a1"]["gate"]["certified"] is False


def test_without_a_certificate_nothing_is_said_of_one(serving):
    server = serving()
    assert "a1_gate_certified" not in server.http.get("/metrics").text
    assert "certified" not in server.post().json()["a1"]["gate"]


@pytest.mark.parametrize("wrong", [{"requests": 0}, {"deadline": -1}, {"grace": -1}, {"body": 0}])
def test_limits_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError):
        Settings(**wrong)
