import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a1_sgl.conformal import SCORES, Evidence, Score, find_score, score
from a1_sgl.conformal.scores import LIKELIEST

losses = st.lists(st.floats(0, 20), min_size=1, max_size=60).map(tuple)
RISING = tuple(float(i) for i in range(40))


@pytest.mark.parametrize(
    ("name", "evidence", "value"),
    [
        ("mean_loss", Evidence((1.0, 2.0, 6.0)), 3.0),
        ("perplexity", Evidence((math.log(2), math.log(8))), 4.0),
        ("perplexity", Evidence((800.0, 1000.0)), math.exp(700)),
        ("worst_window", Evidence((1.0, 2.0, 6.0)), 3.0),
        ("worst_window", Evidence(RISING), 31.5),
        ("worst_window", Evidence((0.0,) * 10 + (4.0,) * 8 + (0.0,) * 30), 2.0),
        ("tail", Evidence((1.0, 2.0, 6.0)), 3.0),
        ("tail", Evidence(RISING), 31.5),
        ("tail", Evidence(RISING[::-1]), 7.5),
        ("llr", Evidence((3.0, 1.0), (0.5, 0.25, 0.25)), 1.5),
        ("length_adjusted", Evidence((2.0,)), 2.0),
        ("length_adjusted", Evidence((0.5,) * 7), 3.5 / 2**0.6),
        ("own_loss", Evidence(own=(1.0, 2.0, 6.0)), 3.0),
        ("own_worst", Evidence(own=RISING), 31.5),
        ("first_entropy", Evidence(first=(math.log(0.5), math.log(0.25))), 1.5 * math.log(2)),
        ("first_entropy", Evidence(first=(0.0,)), 0.0),
        ("first_entropy", Evidence(first=(math.log(0.25),) * 4), math.log(4)),
    ],
)
def test_each_score_by_hand(name, evidence, value):
    assert find_score(name)(evidence) == pytest.approx(value, rel=1e-12)


def test_every_score_has_an_example_above():
    (marks,) = [m for m in test_each_score_by_hand.pytestmark if m.name == "parametrize"]
    assert {name for name, *_ in marks.args[1]} == set(SCORES)


@given(losses)
def test_the_worst_window_is_that_of_a_full_scan(losses):
    size = min(16, len(losses))
    windows = [statistics.fmean(losses[i : i + size]) for i in range(len(losses) - size + 1)]
    assert SCORES["worst_window"](Evidence(losses)) == pytest.approx(max(windows), abs=1e-9)


@given(losses, losses)
def test_perplexity_ranks_as_the_mean_loss_does(one, two):
    means = [SCORES["mean_loss"](Evidence(x)) for x in (one, two)]
    perplexities = [SCORES["perplexity"](Evidence(x)) for x in (one, two)]
    assert means[0] > means[1] or perplexities[0] <= perplexities[1]


@pytest.fixture
def registry():
    before = dict(SCORES)
    yield SCORES
    SCORES.clear()
    SCORES.update(before)


def test_a_score_is_added_in_five_lines(registry):
    @score("median", "median loss")
    def median(evidence: Evidence) -> float:
        return statistics.median(evidence.target)

    assert find_score("median")(Evidence((1.0, 9.0, 2.0))) == 2.0
    assert (registry["median"].about, registry["median"].needs) == ("median loss", ("target",))
    assert median(Evidence((4.0,))) == 4.0
    with pytest.raises(ValueError, match="the score 'median' is there already"):
        score("median", "again")(median)


def test_an_added_score_that_is_not_finite_is_an_error(registry):
    score("broken", "no number")(lambda evidence: math.nan)
    with pytest.raises(ValueError, match="score broken is nan on a chunk of 2 tokens"):
        find_score("broken")(Evidence((1.0, 2.0)))


def test_scores_say_what_they_need():
    assert [name for name, one in SCORES.items() if "draft" in one.needs] == ["llr"]
    assert {name: one.likeliest for name, one in SCORES.items() if one.by_draft} == {
        "own_loss": 0, "own_worst": 0, "first_entropy": LIKELIEST,
    }  # fmt: skip
    assert all(one.likeliest is None for one in SCORES.values() if not one.by_draft)


@pytest.mark.parametrize(
    ("name", "evidence", "what"),
    [
        ("llr", Evidence((1.0,)), "score llr needs the draft's losses"),
        ("mean_loss", Evidence(own=(1.0,)), "score mean_loss needs the target's losses"),
        ("own_loss", Evidence((1.0,)), "score own_loss needs the losses of the draft's own tokens"),
        ("first_entropy", Evidence((1.0,), own=(1.0,)), "score first_entropy needs the draft's likeliest first tokens"),
    ],
)
def test_what_is_needed_and_missing_is_named(name, evidence, what):
    with pytest.raises(ValueError, match=what):
        find_score(name)(evidence)


@pytest.mark.parametrize("needs", [(), ("target", "words")])
def test_a_score_needs_something_that_there_is(needs):
    with pytest.raises(ValueError, match="score odd needs some of target, draft, own, first"):
        Score("odd", "", lambda evidence: 0.0, needs)


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=30))
def test_the_entropy_of_the_likeliest_never_exceeds_the_whole_one(weights):
    chances = sorted((weight / math.fsum(weights) for weight in weights), reverse=True)
    whole = -math.fsum(chance * math.log(chance) for chance in chances)
    logs = tuple(math.log(chance) for chance in chances)
    found = [SCORES["first_entropy"](Evidence(first=logs[:k])) for k in range(1, len(logs) + 1)]
    assert all(one <= whole + 1e-9 for one in found)
    assert found[-1] == pytest.approx(whole, abs=1e-6)
    assert found == sorted(found) or found == pytest.approx(sorted(found))


def test_an_unknown_score_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown score 'entropy'; known: mean_loss, .*length_adjusted"):
        find_score("entropy")


@pytest.mark.parametrize("arguments", [((),), ((1.0,), ())])
def test_a_chunk_without_tokens_is_refused(arguments):
    with pytest.raises(ValueError, match="at least one token"):
        Evidence(*arguments)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 10**400])
def test_a_loss_that_is_no_number_makes_no_score(bad):
    losses = (1.0,) * 20 + (bad,) + (2.0,) * 20
    with pytest.raises(ValueError, match="a token's loss must be a finite number"):
        Evidence(losses)
    with pytest.raises(ValueError, match="a token's loss must be a finite number"):
        Evidence((1.0,), losses)


def test_a_score_that_is_no_number_is_refused_with_its_name():
    with pytest.raises(ValueError, match="score broken is nan on a chunk of 2 tokens"):
        Score("broken", "", lambda evidence: float("nan"))(Evidence((1.0, 2.0)))
