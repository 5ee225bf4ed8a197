"""What a certificate holds, and that it speaks of nothing else."""

import json
from dataclasses import asdict

import pytest

from a1_sgl.conformal import Card, Certificate, Trial
from a1_sgl.errors import ConfigError

POLICY = {
    "gate": "frozen", "bank": "abc", "alarm": None, "chains": 4, "vote": "majority", "rate": None, "program": "a1",
    "source": None, "task": "chain", "levels": [3, 10], "grader": "number", "sampling": {"temperature": 0.6},
    "models": {"target": {"model": "t", "sha256": "x"}}, "packages": {"torch": "2"},
}  # fmt: skip
TRIALS = (Trial(0.5, 0, 60, 10.2, 59), Trial(0.4, 1, 90, 10.1, 85), Trial(0.3, 9, 90, 1.0, None))


def certificate(**changes):
    content = {
        "epsilon": 0.05, "delta": 0.1, "trials": TRIALS, "policy": POLICY, "calibrated": 40, "split": "calibration",
        "seed": 0, "questions": tuple(f"b{i}" for i in range(90)), "right": 80,
    }  # fmt: skip
    return Certificate(**content | changes)


def test_what_it_certifies_is_what_passed_before_the_first_that_did_not():
    assert certificate().alphas == (0.5, 0.4)
    assert certificate().alpha == 0.4
    assert certificate(trials=TRIALS[:2]).alphas == (0.5, 0.4)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"trials": ()}, "holds levels that are certified"),
        ({"trials": TRIALS[2:]}, "holds levels that are certified"),
        ({"trials": (TRIALS[0], Trial(0.4, 9, 90, 1.0, None), Trial(0.3, 0, 90, 20.0, 59))}, "one at most that is not"),
        ({"trials": TRIALS[::-1]}, "from the largest down"),
        ({"trials": (TRIALS[0], *TRIALS)}, "each once"),
        ({"epsilon": 0.0}, "strictly between 0 and 1"),
        ({"delta": 1.0}, "strictly between 0 and 1"),
        ({"questions": tuple(f"b{i}" for i in range(89))}, "names each question"),
        ({"questions": tuple(f"b{i}" for i in range(91))}, "names each question"),
        ({"questions": ("b0",) * 90}, "names each question that was asked for it, once"),
        ({"right": 8}, "the target right on 8 of 90"),
        ({"right": 91}, "the target right on 91 of 90"),
    ],
)
def test_one_that_cannot_be_is_refused(changes, what):
    with pytest.raises(ValueError, match=what):
        certificate(**changes)


def test_it_speaks_of_its_own_policy_at_a_certified_level():
    found = certificate().standing(POLICY, 0.5, ["q1", "q2"])
    assert found.covered
    assert str(found).startswith("certified: alpha 0.5 loses at most 0.05 of such questions")
    assert "probability at least 0.9; 90 questions of split calibration" in str(found)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"gate": "balanced"}, "gate is balanced, certified is frozen"),
        ({"bank": "abd"}, "bank is abd, certified is abc"),
        ({"alarm": "hand-over"}, "alarm is hand-over, certified is null"),
        ({"chains": 8}, "chains is 8, certified is 4"),
        ({"vote": "weighted"}, "vote is weighted, certified is majority"),
        ({"rate": "target"}, "rate is target, certified is null"),
        ({"program": "spec_reason"}, "program is spec_reason, certified is a1"),
        ({"source": "1f"}, "source is 1f, certified is null"),
        ({"task": "stories"}, "task is stories, certified is chain"),
        ({"levels": [3, 4]}, "levels is [3, 4], certified is [3, 10]"),
        ({"grader": "math"}, "grader is math, certified is number"),
        ({"sampling": {"temperature": 0.7}}, "sampling.temperature is 0.7, certified is 0.6"),
        ({"models": {"target": {"model": "t", "sha256": "y"}}}, "models.target.sha256 is y, certified is x"),
        ({"packages": {"torch": "3"}}, "packages.torch is 3, certified is 2"),
        ({"new": 1}, "new is 1, certified is null"),
    ],
)
def test_every_field_in_which_a_run_differs_is_named(changes, what):
    found = certificate().standing(POLICY | changes, 0.5, ["q1"])
    assert found.apart == (what,)
    assert str(found) == f"not covered by the card's certificate: {what}"


def test_a_field_that_a_run_leaves_out_is_named_too():
    policy = {name: value for name, value in POLICY.items() if name != "vote"}
    assert certificate().standing(policy, 0.5, []).apart == ("vote is null, certified is majority",)


@pytest.mark.parametrize("alpha", [0.3, 0.45, 0.6])
def test_another_level_is_named_and_the_certified_ones(alpha):
    assert certificate().standing(POLICY, alpha, []).apart == (f"alpha is {alpha:g}, certified is 0.5, 0.4",)


def test_questions_that_were_asked_for_it_are_named():
    found = certificate().standing(POLICY, 0.5, ["q1", "b7", "b3"])
    assert found.apart == ("2 of the questions were asked for the certificate, b3 first",)


def test_all_that_differs_is_named_at_once():
    found = certificate().standing(POLICY | {"gate": "marginal", "chains": 1}, 0.1, ["b1"])
    assert len(found.apart) == 4
    assert str(found).count("; ") == 3


def card(**changes):
    return Card(
        score="mean_loss", scores=(0.1, 0.2), places=((0, 0, 0), (0, 0, 1)), questions=("a0",), task="chain",
        alpha=0.25, protocol={}, **changes,
    )  # fmt: skip


def test_a_card_keeps_it(tmp_path):
    mine = card(certificate=certificate())
    mine.save(tmp_path / "card.json")
    loaded = Card.load(tmp_path / "card.json")
    assert loaded.certificate == certificate()
    assert loaded == mine
    assert loaded.sha256 == card().sha256  # it is of the same bank


@pytest.mark.parametrize(
    "content",
    [
        {"epsilon": 0.05, "delta": 0.1, "alpha": 0.2, "tests": []},
        json.loads(json.dumps(asdict(certificate()))) | {"more": 1},
        json.loads(json.dumps(asdict(certificate()))) | {"trials": [1]},
        json.loads(json.dumps(asdict(certificate()))) | {"delta": 2},
        [],
    ],
)
def test_a_card_whose_certificate_is_of_another_form_is_refused(content, tmp_path):
    card().save(tmp_path / "card.json")
    whole = json.loads((tmp_path / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps(whole | {"certificate": content}))
    with pytest.raises(ConfigError, match=r"card\.json cannot be used: .*(another form|strictly between)"):
        Card.load(tmp_path / "card.json")
