import json

import pytest

from a1_sgl.conformal.card import Card
from a1_sgl.errors import ConfigError

PROTOCOL = {"task": "chain", "parameters": {"turns": 3}, "models": {"draft": {"model_sha256": "a"}}}


def card(**changes):
    content = {
        "score": "mean_loss",
        "scores": (0.1, 0.2),
        "questions": ("q1", "q2"),
        "alpha": 0.3,
        "protocol": PROTOCOL,
    }
    return Card(**content | changes)


def test_a_saved_card_loads_as_it_was(tmp_path):
    card().save(tmp_path / "deep" / "card.json")
    loaded = Card.load(tmp_path / "deep" / "card.json")
    assert loaded == card()
    assert loaded.sha256 == card().sha256
    assert card(scores=(0.1, 0.3)).sha256 != card().sha256


def test_a_card_of_the_same_set_up_passes():
    card().check(PROTOCOL, ["q3"])


def test_another_set_up_is_refused_with_the_field_named():
    with pytest.raises(ConfigError, match=r"models\.draft\.model_sha256: \"a\" before, \"b\" now"):
        card().check(PROTOCOL | {"models": {"draft": {"model_sha256": "b"}}}, [])


def test_calibrating_and_testing_on_one_question_is_refused():
    with pytest.raises(ConfigError, match="1 test questions .* q2"):
        card().check(PROTOCOL, ["q3", "q2"])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "cannot be used"),
        ("not json", "cannot be used"),
        ("[]", "no schema"),
        ("{}", "no schema"),
        ('{"schema": 99}', "schema is 99"),
        ('{"schema": 1}', "cannot be used"),
        ('{"schema": 1, "score": "x", "scores": [], "questions": [], "alpha": 0.3, "protocol": {}}', "at least one"),
        ('{"schema": 1, "score": "x", "scores": [null], "questions": [], "alpha": 0.3, "protocol": {}}', "finite"),
        ('{"schema": 1, "score": "x", "scores": [1], "questions": [], "alpha": 3, "protocol": {}}', "alpha"),
        ('{"schema": 1, "score": "x", "scores": [1], "questions": [], "alpha": 0.3, "protocol": {}, "z": 1}', "z"),
    ],
)
def test_an_unreadable_card_says_why(tmp_path, text, what):
    path = tmp_path / "card.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=what) as caught:
        Card.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_card_or_a_folder_says_so(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        Card.load(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot be used"):
        Card.load(tmp_path)


def test_the_file_is_plain_json(tmp_path):
    card().save(tmp_path / "card.json")
    assert json.loads((tmp_path / "card.json").read_text())["scores"] == [0.1, 0.2]
