"""Learn then Test on real runs."""

import json

import pytest

from a1_sgl.conformal import Card
from a1_sgl.errors import ConfigError
from a1_sgl.evals.certify import certify_alphas, vote
from a1_sgl.evals.runner import Eval
from a1_sgl.evals.tasks import find_task
from a1_sgl.records import ChainRecord


def plan(**changes):
    settings = {
        "task": find_task("chain"), "split": "calibration", "program": "a1", "runtime": None, "questions": 12,
        "chains": 1, "seed": 7, "levels": "3:5", "sampling": {"temperature": 0.6, "top_p": 1.0}, "alpha": 0.3,
    }  # fmt: skip
    return Eval(**settings | changes)


def test_the_cheapest_certified_alpha_comes_with_its_card(pair, tmp_path):
    certificate, best = certify_alphas(plan(), [0.2, 0.6], 0.3, 0.1, pair, tmp_path)
    written = json.loads((tmp_path / "certificate.json").read_text())
    assert written["alpha"] == certificate.alpha
    assert [test["alpha"] for test in written["tests"]] == [test.alpha for test in certificate.tests]
    assert certificate.tests[0].alpha == 0.6  # the safest first
    assert {test.n for test in certificate.tests} == {12}
    # alpha 0.6 on short problems loses next to nothing against the target
    assert certificate.tests[0].certified
    card, summary = best
    assert card.alpha == certificate.alpha == summary["take_over"]["nominal"]
    card.save(tmp_path / "card.json")
    assert Card.load(tmp_path / "card.json").certificate["delta"] == 0.1
    # run again it finds everything done and says the same
    assert certify_alphas(plan(), [0.2, 0.6], 0.3, 0.1, pair, tmp_path)[0] == certificate


def test_nothing_is_certified_where_the_policy_loses(pair, tmp_path):
    """Long problems at a take-over rate of 2% are the draft's own, half of which it gets wrong."""
    certificate, best = certify_alphas(plan(levels="9:10"), [0.02], 0.2, 0.1, pair, tmp_path)
    assert best is None
    assert certificate.alpha is None
    assert json.loads((tmp_path / "certificate.json").read_text())["alpha"] is None


def test_too_few_questions_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match="--questions must be at least 76"):
        certify_alphas(plan(), [0.2], 0.03, 0.1, None, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def record(sample, answer, gold="1"):
    return ChainRecord(
        question="q", sample=sample, gold=gold, answer=answer, correct=answer == gold, ending="answered", turns=1,
        take_overs=0, decode={}, prefill={}, started=0.0, ended=1.0, text="",
    )  # fmt: skip


def test_a_vote_goes_to_the_earliest_of_equals():
    assert vote([record(0, "1"), record(1, "2")])
    assert not vote([record(0, "2"), record(1, "1")])
    assert vote([record(0, "2"), record(1, "1"), record(2, "1")])
    assert not vote([record(0, None)])
    assert not vote([])
