"""`a1 certify`, and what `a1 eval` and `a1 solve` say of its card, on engines without a model."""

import json
from contextlib import contextmanager

import pytest

from a1_sgl.cli.runtimes import Runtimes

SMALL = ["--levels", "3:4", "--chains", "1", "--quiet"]
RISK = ["--calibration", "cal/card.json", "--epsilon", "0.1", "--delta", "0.1"]


@pytest.fixture
def a1(here, scripted, monkeypatch):
    """The command on a pair whose draft is wrong on three questions in ten."""

    @contextmanager
    def connect(runtimes, runtime):
        yield scripted(0.3)

    monkeypatch.setattr(Runtimes, "connect", connect)
    return here


@pytest.fixture
def calibrated(a1):
    made = a1("calibrate", "--out", "cal", "--questions", "40", *SMALL)
    assert made.returncode == 0, made.stderr
    return a1


def words(text):
    return " ".join(text.split())


def test_a_policy_is_certified_and_run(calibrated, tmp_path):
    a1 = calibrated
    sure = a1("certify", "--out", "sure", *RISK, "--alphas", "0.2,0.35,0.5", *SMALL)
    assert sure.returncode == 0, sure.stderr
    said = words(sure.stdout)
    assert "0.5 0/29 10.7 after 29 questions 0.35 0/29 10.7 after 29 questions 0.2 2/29" in said
    assert "alpha 0.2 is not shown to lose at most 0.1; the same command with more than --questions 29 goes on" in said
    assert "the target alone answered 29 of 29 right" in said
    assert "certified: alpha 0.35 loses at most 0.1 of such questions" in said
    assert "`a1 eval --calibration sure/card.json --certified` runs that and nothing else" in said
    # what is said there to run runs, at the cheapest level that is certified
    test = ["--questions", "6", *SMALL]
    run = a1("eval", "--out", "run", "--calibration", "sure/card.json", "--certified", *test)
    assert run.returncode == 0, run.stderr
    assert "certified: alpha 0.35 loses at most 0.1" in run.stdout
    gate = json.loads((tmp_path / "run" / "run.json").read_text())["configuration"]["gate"]
    assert (gate["kind"], gate["alpha"]) == ("frozen", 0.35)
    # anything else says so, or is refused
    other = ["--calibration", "sure/card.json", "--gate", "balanced", "--alpha", "0.2", *test]
    why = "not covered by the card's certificate: gate is balanced, certified is frozen; alpha is 0.2, certified is 0.5"
    run = a1("eval", "--out", "other", *other)
    assert run.returncode == 0, run.stderr
    assert why in run.stdout
    refused = a1("eval", "--out", "refused", *other, "--certified")
    assert refused.returncode == 2
    assert why in refused.stderr
    assert not (tmp_path / "refused").exists()
    # and no card, or one without a certificate, does not do either
    for card in ([], ["--calibration", "cal/card.json"]):
        bare = a1("eval", "--out", "bare", "--certified", *card, *test)
        assert bare.returncode == 2
        assert "--certified needs a card with a certificate" in bare.stderr
    # a report says it too
    page = a1("report", "run", "other", "--out", "page/report.html")
    assert page.returncode == 0, page.stderr
    text = (tmp_path / "page" / "report.html").read_text()
    assert ") is certified: alpha 0.35" in text
    assert ") is not covered by the card" in text


def test_more_questions_go_on_and_what_was_settled_stays(calibrated, tmp_path):
    a1, what = calibrated, [*RISK, "--alphas", "0.205", "--seed", "1", *SMALL]
    few = a1("certify", "--out", "out", *what)
    assert few.returncode == 1
    assert "0.205 1/29 1.52 no" in words(few.stdout)
    assert not (tmp_path / "out" / "card.json").exists()
    more = a1("certify", "--out", "out", *what, "--questions", "89")
    assert more.returncode == 0, more.stderr
    assert "certified: alpha 0.205 loses at most 0.1 of such questions" in more.stdout
    changed = a1("certify", "--out", "out", *what, "--questions", "120", "--delta", "0.2")
    assert changed.returncode == 2
    assert "delta: 0.1 before, 0.2 now" in changed.stderr
    assert "settled before the first question is asked" in words(changed.stderr)


def test_what_cannot_be_certified_is_refused_before_anything_is_asked(calibrated, tmp_path):
    for options, what in (
        (["--questions", "28"], "28 questions cannot certify epsilon 0.1 at delta 0.1, even with none lost"),
        (["--epsilon", "0"], "epsilon must lie strictly between 0 and 1, not 0"),
        (["--alphas", "1:0:2"], "FIRST:LAST:STEP"),
        (["--alphas", "0.5,2"], "strictly between 0 and 1, not 2"),
        (["--temperature", "0.9"], "sampling.temperature: 0.6 before, 0.9 now"),
        (["--program", "direct"], "program direct has no gate"),
        (["--set", "presample=2"], "gate frozen never learns, so it takes no scores from presample"),
        (["--split", "nonsense"], "has no split 'nonsense'"),
    ):
        done = calibrated("certify", "--out", "out", *RISK, *SMALL, *options)
        assert done.returncode == 2, options
        assert what in words(done.stderr)
        assert done.stdout == ""
        assert not (tmp_path / "out").exists()


def test_one_question_is_solved_as_certified_or_not(a1, tmp_path):
    """Of every level, since a question of a user's has none."""
    few = ["--chains", "1", "--quiet"]
    assert a1("calibrate", "--out", "cal", "--questions", "16", *few).returncode == 0
    sure = a1("certify", "--out", "out", "--calibration", "cal/card.json", "--epsilon", "0.3", "--alphas", "0.5", *few)
    assert sure.returncode == 0, sure.stdout
    asked = ["solve", "Start with 39. Multiply by 2. Subtract 18. Add 7. What is the result?"]
    card = ["--calibration", "out/card.json"]
    solved = a1(*asked, *card, "--certified")
    assert solved.returncode == 0, solved.stderr
    assert "answer: 67" in solved.stdout
    assert "certified: alpha 0.5 loses at most 0.3 of such questions" in solved.stdout
    more = a1(*asked, *card, "--chains", "2")
    assert "not covered by the card's certificate: chains is 2, certified is 1" in more.stdout
    refused = a1(*asked, *card, "--chains", "2", "--certified")
    assert refused.returncode == 2
    assert "chains is 2, certified is 1; with --certified that is refused" in refused.stderr
    assert "answer" not in refused.stdout
    bare = a1(*asked)
    assert "certif" not in bare.stdout
