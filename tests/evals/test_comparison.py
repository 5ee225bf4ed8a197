import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from a1_sgl.errors import ConfigError
from a1_sgl.evals.comparison import check, compare, difference, sentence

from .made import run

GOOD, BAD = ["1", "1"], ["2", "2"]


def test_differences_are_paired_by_question(tmp_path):
    first = run(tmp_path / "a", [GOOD] * 10 + [BAD] * 20)
    second = run(tmp_path / "b", [GOOD] * 9 + [BAD] + [GOOD] * 8 + [BAD] * 10 + [["1", "2"]] * 2)
    found = difference(first, second)
    assert found.mean == pytest.approx((8 + 1 - 1) / 30)
    assert (found.gained, found.lost, found.questions) == (10, 1, 30)  # of a tie the first answer wins
    assert found.p_value == pytest.approx(binomtest(10, 11).pvalue)
    apart = np.array([0] * 9 + [-1] + [1] * 8 + [0] * 10 + [0.5] * 2)
    reference = bootstrap((apart,), np.mean, method="percentile", n_resamples=9999, rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.02)
    assert (difference(first, first).p_value, difference(first, first).sign_flip) == (1, 1)
    signs = np.random.default_rng(2).choice([-1, 1], (200_000, 30))
    means = np.abs((signs * apart).mean(axis=1))
    assert found.sign_flip == pytest.approx((means >= abs(apart.mean()) - 1e-12).mean(), abs=0.01)
    assert found.certain


def test_a_comparison_in_words(tmp_path):
    bad, good = run(tmp_path / "a", [BAD] * 30), run(tmp_path / "b", [GOOD] * 30)
    assert sentence(compare({"bad": bad, "good": good})[0]).startswith(
        "good is 100.0 points more accurate than bad [+76.9, +100.0], paired permutation p = 0.0002; by its vote it "
        "gains 30 and loses 0 of 30"
    )
    assert sentence(compare({"x": bad, "y": bad})[0]).startswith("y and x cannot be told apart: +0.0 points [-11.6")
    assert "1.00 times the target decode tokens" in sentence(compare({"x": bad, "y": good})[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"asked": "def"}, "asked: 1 questions there, 1 here, 1 in both; --allow asked compares those in both"),
        ({"task": "math500"}, "task"),
        ({"sampling": {"temperature": 1.0}}, r"sampling\.temperature: 0\.6 there, 1\.0 here"),
        ({"models": {"draft": {"model": "other"}}}, r"models\.draft\.model"),
    ],
)
def test_runs_that_are_not_comparable_are_refused(tmp_path, changes, message):
    folders = [run(tmp_path / "a", [GOOD]), run(tmp_path / "b", [GOOD], **changes)]
    with pytest.raises(ConfigError, match=message):
        check(folders)
    check(folders, allow=tuple(changes))
    with pytest.raises(ConfigError, match="--allow takes task, split"):
        check(folders, allow=("mood",))


def test_how_many_questions_runs_share_is_said(tmp_path):
    many, few = run(tmp_path / "a", [GOOD] * 6), run(tmp_path / "b", [GOOD] * 4, asked="def")
    with pytest.raises(ConfigError, match="asked: 6 questions there, 4 here, 4 in both; --allow asked"):
        check([many, few])
    other = run(tmp_path / "c", [GOOD] * 4, ask="Why?", asked="ghi")
    with pytest.raises(ConfigError, match="4 in both, of which 4 have another text or answer; --allow"):
        check([few, other])


def test_another_program_is_what_a_comparison_is_for(tmp_path):
    check([run(tmp_path / "a", [GOOD]), run(tmp_path / "b", [GOOD], program="direct", gate=None, vote="best")])


def test_a_field_is_allowed_by_the_name_that_was_printed(tmp_path):
    folders = [run(tmp_path / "a", [GOOD]), run(tmp_path / "b", [GOOD], sampling={"temperature": 1.0})]
    check(folders, allow=("sampling.temperature",))
    with pytest.raises(ConfigError, match="temperature"):
        check(folders, allow=("sampling.top_p",))


def test_a_run_is_more_accurate_only_where_interval_and_test_agree(tmp_path):
    """Of five questions a bootstrap says too much: all signs alike have a chance of 1 in 16."""
    first, second = run(tmp_path / "a", [BAD] * 5), run(tmp_path / "b", [GOOD, GOOD, ["1", "2"], GOOD, GOOD])
    found = difference(first, second)
    assert found.low > 0
    assert found.sign_flip == 2 / 2**5
    assert not found.certain
    assert "b and a cannot be told apart: +90.0 points" in sentence(compare({"a": first, "b": second})[0])


def test_one_question_tells_nothing_apart(tmp_path):
    found = difference(run(tmp_path / "a", [BAD]), run(tmp_path / "b", [GOOD]))
    assert (found.low, found.high) == (pytest.approx(-0.95), 1.0)


def test_a_vote_that_is_not_registered_is_named(tmp_path):
    strange = run(tmp_path / "a", [GOOD], vote="longest")
    with pytest.raises(ConfigError, match="unknown vote 'longest'.*import the file"):
        compare({"a": strange, "b": run(tmp_path / "b", [GOOD])})


def test_unfinished_runs_are_refused_unless_allowed(tmp_path):
    whole, part = run(tmp_path / "a", [GOOD, BAD]), run(tmp_path / "b", [GOOD], questions=2)
    with pytest.raises(ConfigError, match="has 2 of its 4 chains"):
        check([whole, part])
    check([whole, part], allow=("unfinished",))
    assert difference(whole, part).questions == 1
    with pytest.raises(ConfigError, match="two runs or more"):
        check([whole])
