"""Two stages: what is missed stays below what is promised, the rate holds over all chunks, and a run can be resumed."""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from a1_sgl.conformal import (
    GATES,
    SCORES,
    UNSEEN,
    Card,
    Decided,
    Evidence,
    Gate,
    MondrianBank,
    Offsets,
    Place,
    Score,
    ScoreBank,
    Screening,
    TwoStage,
    make,
    missed_at_most,
)
from a1_sgl.conformal.gate import lowest
from a1_sgl.errors import ConfigError

LEVEL = 0.01
OWN = SCORES["own_loss"]


def two(gate, **options):
    return TwoStage(gate, OWN, **options)


def drive(gate, chunks, lanes=16, seed=0, known=None):
    """Chunks ``(place, score, evidence)`` of chains that wait for nobody; a verified one is decided a while later.

    `known` is told of each chunk as a record tells it. Yields what was decided, and of an accepted chunk whether it was
    missed.
    """
    rng, chains = random.Random(seed), {}
    for place, score, evidence in chunks:
        chains.setdefault((place.question, place.sample), []).append((place, score, evidence))
    queue, live = list(chains), []
    queue.reverse()
    while queue or live:
        while queue and len(live) < lanes:
            live.append([queue.pop(), 0, None])
        lane = rng.choice(live)
        name, at, screening = lane
        place, score, evidence = chains[name][at]
        if screening is None:
            screening = lane[2] = gate.screen(evidence, **place._asdict())
            if not screening.accepted:
                continue
        missed = False
        if screening.accepted:
            critical = gate.gate.critical(place)
            missed = critical is not None and UNSEEN < critical <= score
            score = UNSEEN
        decision = gate(score, **place._asdict())
        if known is not None:
            known.setdefault(name, []).append((place, screening, score, decision.take_over))
        lane[1:] = at + 1, None
        if at + 1 == len(chains[name]):
            live.remove(lane)
            gate.finish(*name)
        yield place, decision, missed


def stream(seed, questions=20, chains=3, turns=6, correlation=0.9):
    """Chunks whose evidence is correlated with their score."""
    rng = random.Random(seed)
    for q in range(questions):
        for sample in range(chains):
            for turn in range(turns):
                score, noise = rng.gauss(0, 1), rng.gauss(0, 1)
                yield Place(f"q{q}", sample, turn), score, correlation * score + (1 - correlation**2) ** 0.5 * noise


def turning(seed, n=240):
    """Evidence that is right for the first half and then as wrong as can be: the worst scores look best."""
    rng = random.Random(seed)
    for i in range(n):
        score = rng.gauss(0, 1)
        yield Place(f"q{i // 12}", i // 4 % 3, i % 4), score, score if i < n // 2 else -score


# --- the bound ------------------------------------------------------------------------------------------------


def ever_exceeded(bound, explore, seed, n=600):
    """Whether chunks that ought to be handed over, found by a coin, are ever missed more often than the bound says."""
    rng, found, missed = random.Random(seed), 0, 0
    for _ in range(n):
        if rng.random() * explore < 1:
            found += 1
        else:
            missed += 1
            if missed > bound(found):
                return True
    return False


@pytest.mark.parametrize("explore", [2, 5, 10])
def test_the_bound_is_exceeded_ever_with_its_probability_at_most(explore):
    delta, runs = 0.2, 600
    over = sum(ever_exceeded(lambda x: missed_at_most(x, explore, delta), explore, seed) for seed in range(runs))
    assert binomtest(over, runs, delta, alternative="greater").pvalue > LEVEL / 3
    assert over > 0
    # A bound for one moment is none for all of them.
    at_once = sum(ever_exceeded(lambda x: (x + 1) * (explore - 1), explore, seed) for seed in range(100))
    assert binomtest(at_once, 100, delta, alternative="greater").pvalue < 1e-9


def test_the_bound_by_hand():
    # With delta 0.5 the first one is found after more than b misses with (3/4)^(b + 1) <= 1/4.
    assert missed_at_most(0, 4, 0.5) == math.ceil(math.log(0.25) / math.log(0.75)) - 1 == 4
    grows = [missed_at_most(x, 5, 0.05) for x in range(200)]
    assert grows == sorted(grows)
    assert grows[199] < 2 * 199 * 4


# --- what is missed -------------------------------------------------------------------------------------------


class Greedy(TwoStage):
    """It takes what it can get, whatever it has learnt."""

    threshold = 0.2


class Careless(Greedy):
    """And it never closes."""

    missed = 0


def broken(kind, seed, delta):
    """Whether, in a stream whose evidence turns against it, more was ever missed than is promised."""
    gate = kind(Gate(0.3, ScoreBank(), seed=seed), OWN, eta=0.05, explore=3, delta=delta)
    missed = 0
    for _, _, one in drive(gate, turning(seed), seed=seed):
        missed += one
        if missed > gate.eta * gate.candidates + gate.slack:
            return True
    return False


def test_more_is_missed_than_promised_with_probability_delta_at_most():
    """Shared by many chains, answers out of order, evidence that an adversary turns around when it is trusted, and a
    threshold that does not care."""
    delta, runs = 0.3, 40
    held = sum(broken(Greedy, seed, delta) for seed in range(runs))
    assert binomtest(held, runs, delta, alternative="greater").pvalue > LEVEL
    assert sum(broken(Careless, seed, delta) for seed in range(10)) >= 9  # the test would catch it


def test_a_good_first_stage_saves_much_and_misses_little():
    gate = two(make("adaptive-turn", 0.2, seed=4), bank=MondrianBank("turn"))
    found = list(drive(gate, stream(1, questions=60)))
    assert gate.accepted > 0.2 * len(found)
    assert sum(missed for _, _, missed in found) <= 0.05 * gate.candidates


@pytest.mark.parametrize("correlation", [0.0, -0.5])
def test_evidence_that_tells_nothing_opens_nothing(correlation):
    gate = two(make("adaptive-turn", 0.3))
    list(drive(gate, stream(2, questions=40, correlation=correlation)))
    assert gate.accepted < 20


def test_one_candidate_in_so_many_is_explored():
    gate = two(Gate(0.3, seed=9), explore=4)
    known = {}
    list(drive(gate, stream(3, questions=80), known=known))
    outcomes = [screening.outcome for chain in known.values() for _, screening, _, _ in chain]
    explored, accepted = (outcomes.count(one) for one in ("explored", "accepted"))
    assert accepted == gate.accepted > 300
    assert binomtest(explored, explored + accepted, 1 / 4).pvalue > LEVEL


def opened(explore=4, **options):
    """A gate whose first stage has learnt from a card, and takes the lower half for good."""
    gate = two(Gate(0.2, seed=1), explore=explore, **options)
    for i in range(400):
        gate.calibrate(float(i), question=f"c{i}", first=float(i))
    return gate


def explored_first(gate, explored=True):
    """The first place that would be explored, or accepted."""
    places = (Place(f"x{i}", 0, 0) for i in range(99))
    return next(place for place in places if (gate.gate.draw(place, "explore") * 4 < 1) == explored)


def accepted_first(gate):
    """The first place that would be accepted."""
    return explored_first(gate, False)


def test_a_card_opens_it_at_once():
    gate = opened()
    assert gate.threshold == 1.0  # nothing is known before the first chunk
    assert gate.screen(3.5, **accepted_first(gate)._asdict()).accepted
    assert gate.threshold == pytest.approx(0.2)
    assert gate.screen(390.5, question="bad", sample=0, turn=0).outcome == "doubted"


def test_what_is_explored_counts_as_found_until_it_is_answered():
    gate = opened()
    place = explored_first(gate)
    before = gate.missed
    screening = gate.screen(0.5, **place._asdict())
    assert screening.outcome == "explored"
    assert 300 < screening.critical < 340
    assert gate.missed == missed_at_most(1, 4, 0.05) > before
    gate(0.5, **place._asdict())
    assert (gate.found, gate.missed) == (0, before)


@pytest.mark.parametrize(("score", "found"), [(0.5, 0), (399.5, 1)])
def test_an_answer_says_whether_it_would_have_been_missed(score, found):
    gate = opened()
    place = explored_first(gate)
    gate.screen(0.5, **place._asdict())
    assert gate(score, **place._asdict()).take_over == bool(found)
    assert gate.found == found


def test_a_chain_that_ends_without_an_answer_counts_as_found():
    gate = opened()
    place = explored_first(gate)
    gate.screen(0.5, **place._asdict())
    gate.finish(place.question, place.sample)
    assert gate.found == 1
    gate.finish(place.question, place.sample)
    assert gate.found == 1


def test_it_closes_where_the_promise_leaves_no_room_and_opens_again():
    gate = opened(eta=0.1)
    gate.found = 3
    outcomes = []
    for i in range(800):
        place = Place(f"y{i}", 0, 0)
        outcomes.append(gate.screen(0.5, **place._asdict()).outcome)
        gate(0.5 if outcomes[-1] != "accepted" else UNSEEN, **place._asdict())
    assert outcomes[0] == "closed"
    opened_at = next(i for i, outcome in enumerate(outcomes) if outcome != "closed")
    assert opened_at == math.ceil((missed_at_most(3, 4, 0.05) - gate.slack) / 0.1) - 1
    assert "accepted" in outcomes


# --- the rate -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [turning, stream])
def test_the_rate_is_that_of_all_chunks_whatever_the_evidence_does(chunks):
    """The bound of adaptive conformal inference, which needs no assumption, over accepted chunks and all."""
    alpha, step = 0.3, 0.05
    gate = two(Gate(alpha, MondrianBank("turn"), Offsets(alpha, {"turn": step}), seed=2), eta=0.1, explore=3)
    decided = [Decided(place, 0.0, decision.take_over) for place, decision, _ in drive(gate, chunks(5))]
    assert gate.accepted > 0
    for turn in {one.place.turn for one in decided}:
        taken = [one.take_over for one in decided if one.place.turn == turn]
        assert abs(sum(taken) / len(taken) - alpha) <= (max(alpha, 1 - alpha) + step) / (step * len(taken))


def test_accepted_chunks_are_paid_for_by_the_others():
    """The rate of those that the target sees rises until the rate of all is alpha; a gate that counted only them would
    hand over alpha of them."""
    gate = two(make("adaptive-turn", 0.2, seed=4))
    known = {}
    found = [decision.take_over for _, decision, _ in drive(gate, stream(7, questions=120), known=known)]
    seen = [take_over for chain in known.values() for _, s, _, take_over in chain if not s.accepted]
    assert binomtest(sum(found), len(found), 0.2).pvalue > LEVEL
    assert binomtest(sum(seen), len(seen), 0.2).pvalue < 1e-6


def test_a_level_that_forces_a_decision_forces_it_on_an_accepted_chunk():
    gate = opened()
    gate.gate.control = Offsets(0.2, {(): 0.1}, caps={(): 0.1})
    gate.gate.control.update(Place("q", 0, 0), False)
    assert gate.screen(0.5, **accepted_first(gate)._asdict()).accepted
    assert gate(UNSEEN, **accepted_first(gate)._asdict()).take_over


def test_the_bank_holds_explored_chunks_for_those_that_they_stand_for_and_no_accepted_one():
    gate = opened()
    place = explored_first(gate)
    gate.screen(0.5, **place._asdict())
    gate(0.25, **place._asdict())
    assert gate.screen(0.5, **accepted_first(gate)._asdict()).accepted
    decision = gate(UNSEEN, **accepted_first(gate)._asdict())
    assert (decision.p_value, decision.n, decision.take_over) == (1.0, 0, False)
    assert len(gate.gate.bank) == 404
    assert gate.gate.bank.scores().count(0.25) == 4


def test_a_fixed_bank_stays_as_it_is():
    gate = two(Gate(0.3, ScoreBank(range(100)), online=False), eta=0.1)
    list(drive(gate, stream(1)))
    assert gate.gate.bank.scores() == list(range(100))


def test_a_first_stage_that_watches_changes_no_decision():
    gate, bare = two(make("balanced", 0.3, seed=3), eta=0.0), make("balanced", 0.3, seed=3)
    chunks = list(stream(8))
    scores = {place: score for place, score, _ in chunks}
    known = {}
    for place, decision, _ in drive(gate, chunks, known=known):
        assert bare(scores[place], **place._asdict()) == decision
    assert {screening.outcome for chain in known.values() for _, screening, _, _ in chain} == {"doubted"}


# --- the critical score ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GATES)
@settings(max_examples=20)
@given(data=st.data())
def test_a_chunk_is_handed_over_from_its_critical_score_on(name, data):
    gate = make(name, 0.4, seed=2)
    shown = gate.calibrate if name == "frozen" else gate
    for i, score in enumerate(data.draw(st.lists(st.integers(0, 6), min_size=name == "frozen", max_size=40))):
        shown(float(score), question="ab"[i % 2], sample=i, turn=i % 3)
    place = Place("a", 99, data.draw(st.integers(0, 3)))
    state = json.dumps(gate.state())
    critical = gate.critical(place)
    for score in (UNSEEN, -1.0, *map(float, range(7)), 1e300, critical or 0.0):
        again = make(name, 0.4, seed=2)
        again.restore(json.loads(state))
        if score == UNSEEN and name != "random":  # by rule, not by rank
            assert not again(score, **place._asdict()).take_over or critical == UNSEEN
        else:
            assert again(score, **place._asdict()).take_over == (critical is not None and score >= critical)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_lowest_number_is_found_to_the_last_bit(border):
    assert lowest(lambda number: number >= border) == border
    assert lowest(lambda number: False) is None


# --- resuming, saving, sharing --------------------------------------------------------------------------------


def plain(state):
    """Without the order in which categories and scores came up."""
    if isinstance(state, dict):
        return {name: plain(one) for name, one in state.items()}
    return sorted(map(repr, map(plain, state))) if isinstance(state, list) else state


@pytest.mark.parametrize("name", ["adaptive-turn", "balanced", "mondrian-turn"])
def test_resumed_from_its_record_it_is_where_it_was(name):
    """A record has chains in the order in which they ended, not the chunks in the order they came in."""

    def made():
        gate = two(make(name, 0.3, seed=6), bank=MondrianBank("turn"), eta=0.1, explore=3)
        for place, score, evidence in stream(10, questions=4):
            gate.calibrate(score, **place._asdict() | {"question": "c" + place.question}, first=evidence)
        return gate

    gate, again, known = made(), made(), {}
    list(drive(gate, stream(11), known=known))
    assert gate.accepted > 20
    for name, chain in known.items():
        for place, screening, score, take_over in chain:
            again.recall(screening, **place._asdict())
            again.observe(score, take_over, **place._asdict())
        again.finish(*name)
    mine, theirs = again.state(), gate.state()
    for state in (mine, theirs):  # sums of floats depend on their order in the last place
        control = state["gate"]["control"]
        state["gate"]["control"] = control and [
            [[c, n, *(round(x, 9) for x in sums)] for c, n, *sums in family] for family in control
        ]
    assert plain(mine) == plain(theirs)
    assert (again.threshold, again.missed) == (gate.threshold, gate.missed)


def test_saved_under_way_it_goes_on_as_it_would_have():
    gate, loaded = opened(), opened()
    gate.screen(0.5, **explored_first(gate)._asdict())
    gate.screen(3.5, question="other", sample=0, turn=0)
    saved = json.dumps(gate.state())
    loaded.restore(json.loads(saved))
    assert json.dumps(loaded.state()) == saved
    chunks = list(stream(12))
    for one in (gate, loaded):
        one(0.5, **explored_first(gate)._asdict())
    assert list(drive(gate, chunks)) == list(drive(loaded, chunks))
    assert json.dumps(loaded.state()) == json.dumps(gate.state())


def test_a_chunk_that_no_first_stage_saw_is_decided_and_teaches_it_nothing():
    gate, bare = opened(), Gate(0.2, ScoreBank(map(float, range(400))), seed=1)
    place = Place("q", 0, 0)
    assert gate(350.0, **place._asdict()) == bare(350.0, **place._asdict())
    gate.observe(350.0, True, **place._asdict())
    assert sum(sum(one) for one in gate.state()["bins"]) == pytest.approx(400, abs=100)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_evidence_that_is_no_number_is_refused(bad):
    gate = opened()
    before = gate.state()
    with pytest.raises(ValueError, match="finite"):
        gate.screen(bad, question="q", sample=0, turn=0)
    assert gate.state() == before


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"first": SCORES["mean_loss"]}, "score mean_loss needs more than that"),
        ({"first": SCORES["llr"]}, "score llr needs more than that"),
        ({"eta": 0.3}, r"eta must lie in \[0, alpha = 0.3\), not 0.3"),
        ({"eta": -0.1}, "eta must lie in"),
        ({"explore": 1}, "2 or more, not 1"),
        ({"delta": 0.0}, "delta must lie strictly between 0 and 1, not 0.0"),
    ],
)
def test_what_it_cannot_be(options, what):
    with pytest.raises(ValueError, match=what):
        TwoStage(**{"gate": Gate(0.3), "first": OWN} | options)


def test_a_screening_finds_from_the_critical_score_on():
    assert Screening(0.1, 0.5, "explored", 2.0).finds(2.0)
    assert not Screening(0.1, 0.5, "explored", 2.0).finds(1.9)
    assert not Screening(0.1, 0.5, "explored", None).finds(9.0)
    assert not Screening(0.1, 0.5, "explored", UNSEEN).finds(9.0)  # handed over unseen, too
    assert not Screening(0.1, 0.5, "doubted").finds(9.0)


# --- cards ----------------------------------------------------------------------------------------------------


def card(**changes):
    places = tuple((i, 0, 0) for i in range(60))
    content = {
        "score": "mean_loss", "scores": tuple(map(float, range(60))), "places": places,
        "questions": tuple(f"q{i}" for i in range(60)), "task": "chain", "alpha": 0.3, "protocol": {},
    }  # fmt: skip
    return Card(**content | changes)


def test_a_card_keeps_evidence_and_a_first_stage_of_that_name_starts_from_it(tmp_path):
    evidence = {"own_loss": [i / 7 for i in range(60)]}
    mine = card(evidence=evidence)
    mine.save(tmp_path / "card.json")
    loaded = Card.load(tmp_path / "card.json")
    assert (loaded, loaded.sha256) == (mine, mine.sha256)
    assert mine.sha256 != card().sha256 != card(evidence={"own_loss": [0.0] * 60}).sha256
    for first, known in ((OWN, 60), (SCORES["own_worst"], 0)):
        gate = TwoStage(Gate(0.3), first, eta=0.2)
        loaded.fill(gate)
        gate.screen(0.1, question="q", sample=0, turn=0)
        assert sum(one[0] for one in gate.state()["bins"]) == known
        assert len(gate.gate.bank) == 60
    plain_gate = Gate(0.3)
    loaded.fill(plain_gate)
    assert len(plain_gate.bank) == 60


@pytest.mark.parametrize("values", [[0.0] * 59, [float("nan")] * 60])
def test_a_card_needs_evidence_for_every_score(values):
    with pytest.raises(ConfigError, match="a finite own_loss for each of its 60 scores"):
        card(evidence={"own_loss": values})


def test_a_score_of_ones_own_can_be_a_first_stage():
    mine = Score("mine", "", lambda evidence: max(evidence.own), needs=("own",))
    assert TwoStage(Gate(0.3), mine).first(Evidence(own=(0.5, 2.0))) == 2.0
