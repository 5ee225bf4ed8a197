import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a1_sgl.conformal import ScoreBank

scores = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0]) | st.floats(-5, 5), max_size=40)


@given(scores, st.sampled_from([0.0, 0.5, 1.0]) | st.floats(-5, 5))
def test_counts_are_those_of_a_full_scan(values, score):
    counts = ScoreBank(values).counts(score)
    assert counts == (sum(v > score for v in values), sum(v == score for v in values), len(values))


@given(scores)
def test_a_score_joins_after_it_was_counted(values):
    bank, seen = ScoreBank(), []
    for value in values:
        assert bank.counts(value, add=True) == (sum(v > value for v in seen), seen.count(value), len(seen))
        seen.append(value)
    assert bank.scores() == sorted(values)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_refused_and_changes_nothing(bad):
    bank = ScoreBank([1.0])
    with pytest.raises(ValueError, match="finite"):
        bank.counts(bad, add=True)
    with pytest.raises(ValueError, match="finite"):
        ScoreBank([bad])
    assert bank.scores() == [1.0]


def test_threads_lose_no_score_and_see_every_size_once():
    bank = ScoreBank()
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(lambda i: bank.counts(float(i % 7), add=True).n, range(4000)))
    assert sorted(sizes) == list(range(4000))
    assert len(bank) == 4000
