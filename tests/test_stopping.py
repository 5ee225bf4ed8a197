"""Stopping rules: one never changes the majority, the other errs as seldom as it says."""

import itertools
import random
from collections import Counter
from dataclasses import dataclass

import pytest
from scipy.stats import binomtest

from a1_sgl.stopping import Certain, Decided, find_stop
from a1_sgl.voting import decide


@dataclass(frozen=True)
class Chain:
    sample: int
    answer: str | None
    rating: float | None = None
    text: str = ""
    key: str | None = None


def test_what_is_decided_stays_so_whatever_the_others_say():
    """By brute force: every way in which the rest of five chains can answer, in every order of finishing."""
    chains, answers = 5, ("a", "b", "c", None)
    fired = 0
    for finished in range(chains + 1):
        for said in itertools.product(answers, repeat=finished):
            numbers = random.Random(str(said)).sample(range(chains), finished)
            done = [Chain(number, answer) for number, answer in zip(numbers, said, strict=True)]
            winners = set()
            for rest in itertools.product(answers, repeat=chains - finished):
                left = [number for number in range(chains) if number not in numbers]
                everyone = [*done, *(Chain(number, answer) for number, answer in zip(left, rest, strict=True))]
                winners.add(decide("majority", sorted(everyone, key=lambda one: one.sample)))
            stops = Decided(chains)(sorted(done, key=lambda one: one.sample))
            fired += stops
            if stops:
                assert winners == {decide("majority", sorted(done, key=lambda one: one.sample))}
            counts = sorted(Counter(a for a in said if a is not None).values(), reverse=True)
            if len(winners) == 1 and counts and counts[0] - (counts[1:] or [0])[0] > chains - finished:
                assert stops
    assert fired > 100


@pytest.mark.parametrize(
    "shares",
    [(0.5, 0.5), (0.5, 0.3, 0.2), (0.4, 0.4, 0.2), (0.5, *[0.05] * 10), (*[0.1] * 10,)],
    ids=["two", "three", "no-leader", "one-half", "ten"],
)
def test_no_answer_of_half_the_share_is_ever_called_certain_too_often(shares):
    """False certainty within 60 chains, at most `error` of the time: exact binomial at the 1% level."""
    error, runs, rule = 0.1, 500, Certain(0.1)
    rng, false = random.Random(f"stopping/{shares}"), 0
    for _ in range(runs):
        said = rng.choices(range(len(shares)), shares, k=60)
        chains = [Chain(i, str(answer)) for i, answer in enumerate(said)]
        false += any(rule(chains[:n]) for n in range(5, 61, 8))
    assert binomtest(false, runs, error, alternative="greater").pvalue > 0.01


def test_a_sure_model_is_certain_soon():
    chains = [Chain(i, "7") for i in range(20)]
    assert not Certain(0.05)(chains[:8])
    assert Certain(0.05)(chains[:9])
    assert Certain(0.001)(chains[:15])


def test_only_a_gapless_beginning_counts():
    """Chains that finish first are the short ones; they must not vote before their turn."""
    short = [Chain(i, "7") for i in range(1, 20)]
    assert not Certain(0.05)(short)
    assert Certain(0.05)([Chain(0, "8"), *short])
    assert Certain(0.05)([Chain(0, None), *short])


def test_chains_without_an_answer_count_against_certainty():
    chains = [Chain(2 * i, "7") for i in range(10)] + [Chain(2 * i + 1, None) for i in range(10)]
    assert not Certain(0.05)(sorted(chains, key=lambda one: one.sample))


def test_rules_have_names():
    assert find_stop("never", 8, 0.05) is None
    assert find_stop("decided", 8, 0.05) == Decided(8)
    certain = find_stop("certain", 32, 0.05)
    assert certain([Chain(i, "7") for i in range(9)])
    assert certain([Chain(i, "7") for i in range(1, 18)])  # decided, though not in order
    with pytest.raises(ValueError, match="unknown stopping rule 'soon'; known: never, decided, certain"):
        find_stop("soon", 8, 0.05)
    with pytest.raises(ValueError, match="error is a probability strictly between 0 and 1, not 2"):
        find_stop("certain", 8, 2)
