"""Votes over chains' answers."""

import math
from dataclasses import dataclass

import pytest

from a1_sgl.voting import VOTES, decide, support, vote


@dataclass(frozen=True)
class Chain:
    answer: str | None
    rating: float | None = None
    text: str = ""
    key: str | None = None


def test_the_majority_decides_and_the_earliest_among_equals():
    assert decide("majority", [Chain("1"), Chain("2"), Chain("2")]) == "2"
    assert decide("majority", [Chain("3"), Chain("2"), Chain("2"), Chain("3")]) == "3"
    shares = support("majority", [Chain("1"), Chain("2"), Chain(None), Chain("2"), Chain("0")])
    assert list(shares.items()) == [("2", 1 / 2), ("1", 1 / 4), ("0", 1 / 4)]


def test_equal_answers_are_one_however_they_are_written():
    """They go by what most chains wrote, and of equals by the first."""
    chains = [Chain("3", key="3"), Chain("3.0", key="3"), Chain("2.5", key="5/2"), Chain("5/2", key="5/2")]
    assert decide("majority", chains) == "3"
    assert decide("majority", [*chains, Chain("\\frac52", key="5/2")]) == "2.5"
    assert decide("majority", [*chains, Chain("5/2", key="5/2")]) == "5/2"
    assert support("majority", [Chain("3.0", key="3"), Chain("3.0")]) == {"3.0": 1.0}
    assert support("majority", chains) == {"3": 0.5, "2.5": 0.5}
    assert support("majority", [Chain("3", key="3"), Chain("3.0")]) == {"3": 0.5, "3.0": 0.5}  # as good as it is known


def test_chains_without_an_answer_have_no_vote():
    assert decide("majority", [Chain(None), Chain(None), Chain("5")]) == "5"
    for name in VOTES:
        assert decide(name, []) is None
        assert decide(name, [Chain(None, 1.0)]) is None
        assert support(name, [Chain(None, 1.0)]) == {}


def test_a_weighted_vote_can_overturn_the_majority():
    chains = [Chain("1", 0.2), Chain("1", 0.2), Chain("2", 0.5)]
    assert decide("majority", chains) == "1"
    assert decide("weighted", chains) == "2"
    assert support("weighted", chains) == pytest.approx({"1": 0.4 / 0.9, "2": 0.5 / 0.9})


def test_the_best_chain_decides_alone():
    chains = [Chain("1", 0.4), Chain(None, 0.9), Chain("2", 0.5), Chain("1", 0.45), Chain("3", 0.5)]
    assert decide("best", chains) == "2"
    assert support("best", chains) == {"1": 0, "2": 1, "3": 0}


def test_without_any_weight_answers_are_equals():
    assert support("weighted", [Chain("1", 0.0), Chain("2", 0.0)]) == {"1": 0.5, "2": 0.5}


@pytest.mark.parametrize("name", ["weighted", "best"])
def test_a_missing_rating_is_an_error(name):
    with pytest.raises(ValueError, match="the vote needs ratings"):
        decide(name, [Chain("1", 0.5), Chain("2")])


def test_an_unknown_vote_is_named():
    with pytest.raises(ValueError, match="unknown vote 'loudest'; known: majority, weighted, best"):
        decide("loudest", [])


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1.0], "1 weights for 2 chains"), ([-1.0, 2.0], "a chain the weight -1.0; weights are finite and at least 0"),
        ([1.0, math.nan], "a chain the weight nan"), ([math.inf, 1.0], "a chain the weight inf"),
    ],
)  # fmt: skip
def test_weights_that_are_none_are_refused_by_the_votes_name(weights, said):
    vote("odd")(lambda chains: weights)
    try:
        with pytest.raises(ValueError, match=f"vote 'odd' gave {said}"):
            decide("odd", [Chain("1"), Chain("2")])
    finally:
        del VOTES["odd"]


def test_a_vote_of_ones_own_has_a_name():
    @vote("longest")
    def longest(chains):
        return [len(chain.text) for chain in chains]

    try:
        assert decide("longest", [Chain("1", text="a"), Chain("2", text="long")]) == "2"
        with pytest.raises(ValueError, match="the vote 'longest' is there already"):
            vote("longest")(longest)
    finally:
        del VOTES["longest"]
