import json

import pytest

from a1_sgl.conformal import Card, GuardedGate, MondrianBank, Place, ScoreBank, make
from a1_sgl.conformal.card import SCHEMA
from a1_sgl.conformal.gate import Gate
from a1_sgl.errors import ConfigError

PROTOCOL = {"program": "a1", "sampling": {"temperature": 0.7, "top_p": 0.9}, "models": {"draft": {"sha256": "a"}}}
OTHER = PROTOCOL | {"models": {"draft": {"sha256": "b"}}}
HOT = PROTOCOL | {"sampling": {"temperature": 1.0, "top_p": 0.5}}
VERSIONS = {"sglang": "0.5.23", "torch": None}


def card(**changes):
    content = {
        "score": "mean_loss",
        "scores": (0.1, 0.2, 0.3),
        "places": ((0, 0, 0), (1, 0, 0), (0, 1, 4)),
        "questions": ("q1", "q2"),
        "task": "chain",
        "alpha": 0.3,
        "protocol": PROTOCOL,
        "packages": VERSIONS,
    }
    return Card(**content | changes)


def test_a_saved_card_loads_as_it_was(tmp_path):
    path = tmp_path / "deep" / "card.json"
    mine = card()
    mine.save(path)
    loaded = Card.load(path)
    assert loaded == mine
    assert loaded.sha256 == mine.sha256
    assert [file.name for file in path.parent.iterdir()] == ["card.json"]


def test_the_file_is_plain_json(tmp_path):
    card().save(tmp_path / "card.json")
    content = json.loads((tmp_path / "card.json").read_text())
    assert content["schema"] == SCHEMA == 2
    assert content["scores"] == [0.1, 0.2, 0.3]
    assert content["places"][2] == [0, 1, 4]
    assert content["smallest_alpha"] == card().smallest_alpha == 0.25


@pytest.mark.parametrize(
    "changes",
    [
        {"scores": (0.1, 0.2, 0.4)},
        {"places": ((0, 0, 0), (1, 0, 0), (0, 1, 5))},
        {"questions": ("q1", "q3")},
        {"task": "gpqa"},
        {"alpha": 0.31},
        {"score": "tail"},
        {"protocol": OTHER},
    ],
)
def test_the_hash_is_of_the_content(changes):
    assert card(**changes).sha256 != card().sha256


def test_the_hash_is_not_of_versions():
    assert card(packages={"torch": "9"}).sha256 == card().sha256


def test_a_card_of_the_same_set_up_passes():
    card().check(PROTOCOL, ["q3"])
    card().check(PROTOCOL, ["q3"], alpha=0.25, packages=VERSIONS)


def test_another_set_up_is_refused_with_the_field_and_the_way_out():
    with pytest.raises(ConfigError, match=r"models\.draft\.sha256: \"a\" before, \"b\" now") as caught:
        card().check(OTHER, [])
    assert "run a1 calibrate" in str(caught.value)
    assert "--allow-mismatch models.draft.sha256" in str(caught.value)


def test_every_difference_is_listed():
    with pytest.raises(ConfigError, match=r"(?s)sampling\.temperature: 0.7 .*sampling\.top_p: 0.9"):
        card().check(HOT, [])
    with pytest.raises(ConfigError, match=r"sampling\.top_k: null before, 5 now"):
        card().check(PROTOCOL | {"sampling": PROTOCOL["sampling"] | {"top_k": 5}}, [])


def test_a_field_or_all_below_it_may_be_allowed():
    card().check(HOT, [], allow=["sampling"])
    card().check(HOT, [], allow=["sampling.temperature", "sampling.top_p"])
    with pytest.raises(ConfigError, match="--allow-mismatch sampling.top_p") as caught:
        card().check(HOT, [], allow=["sampling.temperature"])
    assert "temperature" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"models\.draft"):
        card().check(HOT | OTHER | {"sampling": HOT["sampling"]}, [], allow=["sampling"])
    long = {"models": 1, "models_extra": 2}
    with pytest.raises(ConfigError, match="models_extra: 2 before, 3 now"):  # a prefix of the name is no parent
        card(protocol=long).check(long | {"models_extra": 3}, [], allow=["models"])


@pytest.mark.parametrize("name", ["temperature", "sampling.top", "sampling.temperature.x", "packages", ""])
def test_an_allowed_field_that_does_not_exist_is_refused_first(name):
    with pytest.raises(ConfigError, match=f"--allow-mismatch {name}: there is no such field; there are models"):
        card().check(OTHER, ["q1"], alpha=0.01, allow=[name])


def test_a_field_of_the_new_set_up_alone_may_be_allowed():
    card().check(PROTOCOL | {"extra": 1}, [], allow=["extra"])


def test_versions_are_compared_if_they_are_given():
    now = {"sglang": "0.5.24", "torch": None}
    card().check(PROTOCOL, [])
    with pytest.raises(ConfigError, match=r"packages\.sglang: \"0.5.23\" before, \"0.5.24\" now"):
        card().check(PROTOCOL, [], packages=now)
    card().check(PROTOCOL, [], packages=now, allow=["packages.sglang"])
    card().check(PROTOCOL, [], packages=now, allow=["packages"])
    with pytest.raises(ConfigError, match=r"packages\.torch: null before"):
        card().check(PROTOCOL, [], packages=now | {"torch": "2"}, allow=["packages.sglang"])


def test_calibrating_and_testing_on_one_question_is_refused_whatever_is_allowed():
    with pytest.raises(ConfigError, match="1 test questions .* q2 first; test on another split"):
        card().check(PROTOCOL, ["q3", "q2"])
    with pytest.raises(ConfigError, match="2 test questions"):
        card().check(OTHER, ["q1", "q2"], allow=["models", "sampling", "program"])
    with pytest.raises(ConfigError, match="there is no such field"):
        card().check(PROTOCOL, ["q1"], allow=["questions"])


def test_too_few_scores_say_how_many_are_needed():
    with pytest.raises(ConfigError, match="holds 3 scores; alpha 0.2 needs at least 4"):
        card().check(PROTOCOL, [], alpha=0.2)


def test_refusals_come_in_order():
    refusals = []
    steps = [
        {"protocol": OTHER, "questions": ["q1"], "alpha": 0.01, "allow": ["nothing"]},
        {"protocol": OTHER, "questions": ["q1"], "alpha": 0.01},
        {"protocol": PROTOCOL, "questions": ["q1"], "alpha": 0.01},
        {"protocol": PROTOCOL, "questions": [], "alpha": 0.01},
    ]
    for step in steps:
        with pytest.raises(ConfigError) as caught:
            card().check(**step)
        refusals.append(str(caught.value))
    parts = ["no such field", "another set-up", "test questions", "needs at least"]
    assert [[part in refusal for part in parts] for refusal in refusals] == [
        [i == j for j in range(4)] for i in range(4)
    ]


class Notes:
    def __init__(self):
        self.seen = []

    def calibrate(self, score, *, question, sample=0, turn=0, task="", attempt=0):
        self.seen.append((score, Place(question, sample, turn, task, attempt)))


def test_filling_a_gate_puts_every_score_in_its_place_in_order():
    notes = Notes()
    card().fill(notes)
    assert notes.seen == [
        (0.1, Place("q1", 0, 0, "chain")),
        (0.2, Place("q2", 0, 0, "chain")),
        (0.3, Place("q1", 1, 4, "chain")),
    ]


def redrawn():
    """A card of two chunks of which one was drawn three times; another chain's score came in between."""
    return card(scores=(0.4, 0.1, 0.3, 0.2), places=((0, 0, 0), (0, 1, 0), (0, 0, 0), (0, 0, 0)))


def test_several_scores_of_a_place_are_its_attempts(tmp_path):
    notes = Notes()
    redrawn().save(tmp_path / "card.json")
    Card.load(tmp_path / "card.json").fill(notes)
    first, other = Place("q1", 0, 0, "chain"), Place("q1", 1, 0, "chain")
    assert notes.seen == [
        (0.4, first),
        (0.1, other),
        (0.3, first._replace(attempt=1)),
        (0.2, first._replace(attempt=2)),
    ]


def test_every_draw_fills_the_gate_and_the_first_alone_its_guard():
    for name, online in (("balanced", True), ("presampled", False), ("turn-budget", True)):
        gate = make(name, 0.25, chains=4)
        before = gate.control.state()
        redrawn().fill(gate)
        assert (len(gate.bank), gate.online) == (4, online)
        assert gate.control.state() == before
    guard = GuardedGate(make("marginal", 0.25))
    redrawn().fill(guard)
    assert (guard.state()["card"][0][1][0], len(guard.gate.bank)) == ([0, [[0, 0.4, False]]], 4)


def test_filled_gates_have_their_categories():
    gate = Gate(0.3, MondrianBank(("task", "question"), ScoreBank()))
    card().fill(gate)
    assert gate.bank.sizes() == {("chain", "q1"): 2, ("chain", "q2"): 1}
    for name in ("balanced", "presampled"):
        gate = make(name, 0.3)
        card().fill(gate)
        assert len(gate.bank) == 3


GOOD = {
    "schema": 2, "score": "x", "scores": [1, 2], "places": [[0, 0, 0], [0, 0, 1]], "questions": ["q"], "task": "t",
    "alpha": 0.3, "protocol": {},
}  # fmt: skip


def test_the_bad_cards_below_are_bad_in_one_way(tmp_path):
    (tmp_path / "card.json").write_text(json.dumps(GOOD))
    assert Card.load(tmp_path / "card.json").scores == (1, 2)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "cannot be used"),
        ("not json", "cannot be used"),
        ("[]", "no schema"),
        ("{}", "no schema"),
        (json.dumps(GOOD | {"schema": 1}), "its schema is 1, this version reads 2; make it anew"),
        ('{"schema": 2}', "it is no card: it has no score, scores, places, questions, task, alpha, protocol; make one"),
        ('{"schema": 3, "configuration": {}}', "it is the record of a run; the card that a1 calibrate makes is beside"),
        (json.dumps(GOOD | {"scores": [], "places": []}), "at least one"),
        (json.dumps(GOOD | {"scores": [1, None]}), "not a finite number"),
        (json.dumps(GOOD | {"scores": [1, float("nan")]}), "not a finite number"),
        (json.dumps(GOOD | {"scores": [1, 10**400]}), "not a finite number"),
        (json.dumps(GOOD | {"scores": [1, 2], "alpha": 10**400}), "strictly between 0 and 1"),
        (json.dumps(GOOD | {"scores": [1]}), "1 scores and 2 places"),
        (json.dumps(GOOD | {"places": [[0, 0, 0], [1, 0, 0]]}), "a question that it does not name"),
        (json.dumps(GOOD | {"places": [[0, 0, 0], [-1, 0, 0]]}), "a question that it does not name"),
        (json.dumps(GOOD | {"places": [[0, 0, 0], [0, 0]]}), "cannot be used"),
        (json.dumps(GOOD | {"alpha": 3}), "alpha must lie strictly between 0 and 1, not 3"),
        (json.dumps(GOOD | {"zeal": 1}), "it has 'zeal', which no card has"),
    ],
)
def test_an_unreadable_card_says_why(tmp_path, text, what):
    path = tmp_path / "card.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=what) as caught:
        Card.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_card_or_a_folder_says_so(tmp_path):
    with pytest.raises(ConfigError, match="does not exist; make one with a1 calibrate"):
        Card.load(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot be used"):
        Card.load(tmp_path)


def test_a_card_that_was_not_saved_yet_compares_as_one_that_was():
    card(protocol={"levels": (1, 2)}).check({"levels": [1, 2]}, [])
    card(protocol={"levels": [1, 2]}).check({"levels": (1, 2)}, [])


def test_an_alpha_that_is_no_rate_is_named():
    with pytest.raises(ValueError, match="alpha must lie strictly between 0 and 1, not 0"):
        card().check(card().protocol, [], alpha=0.0)
