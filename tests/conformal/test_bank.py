import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a1_sgl.conformal import MondrianBank, Place, Rank, ScoreBank, ShrunkBank, bank

scores = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0]) | st.floats(-5, 5), max_size=40)
places = st.builds(Place, st.sampled_from("ab"), st.integers(0, 1), st.integers(0, 2))
stream = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(-5, 5), places), max_size=60)

BANKS = {
    "plain": ScoreBank,
    "window": lambda: ScoreBank(window=7),
    "mondrian": lambda: MondrianBank("turn", minimum=3),
    "mondrian-window": lambda: MondrianBank("turn", ScoreBank(window=9), minimum=3, window=4),
    "mondrian-mondrian": lambda: MondrianBank("question", MondrianBank("turn", minimum=2), minimum=4),
    "shrunk": lambda: ShrunkBank("question", weight=2.5),
    "shrunk-shrunk": lambda: ShrunkBank(("question", "turn"), ShrunkBank("question"), weight=2),
    "shrunk-mondrian": lambda: ShrunkBank("question", MondrianBank("turn", minimum=2), window=5),
}


@pytest.fixture(autouse=True, scope="module", params=[3, 1000], ids=["sorted-lists", "lists"])
def few(request):
    """Banks of more scores than this hold them in another way."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bank, "_FEW", request.param)
        yield


every_bank = pytest.mark.parametrize("make", BANKS.values(), ids=BANKS)


def naive(values, score):
    return sum(v > score for v in values), sum(v == score for v in values), len(values)


def naive_rank(values, score):
    greater, equal, n = naive(values, score)
    return Rank(greater / (n + 1), (greater + equal + 1) / (n + 1), n)


@given(scores, st.sampled_from([0.0, 0.5, 1.0]) | st.floats(-5, 5))
def test_counts_are_those_of_a_full_scan(values, score):
    assert ScoreBank(values).counts(score) == naive(values, score)


@given(scores)
def test_a_score_joins_after_it_was_counted(values):
    bank, seen = ScoreBank(), []
    for value in values:
        assert bank.counts(value, add=True) == naive(seen, value)
        seen.append(value)
    assert bank.scores() == sorted(values)


@given(scores, scores, st.integers(1, 12))
def test_a_window_is_the_last_scores(first, values, window):
    bank, seen = ScoreBank(first, window=window), list(first)
    for i, value in enumerate(values):
        if i % 3:
            assert bank.counts(value, add=True) == naive(seen[-window:], value)
        else:
            bank.add(value)
        seen.append(value)
        assert bank.state() == seen[-window:]
        assert bank.scores() == sorted(seen[-window:])
        assert len(bank) == min(len(seen), window)


@given(stream, st.integers(1, 5))
def test_mondrian_ranks_in_the_category_or_else_by_the_parent(stream, minimum):
    bank, seen = MondrianBank("turn", minimum=minimum), []
    for score, place in stream:
        mine = [s for s, p in seen if p.turn == place.turn]
        expected = naive_rank(mine if len(mine) >= minimum else [s for s, _ in seen], score)
        assert bank.rank(score, place) == expected
        assert bank.rank(score, place, add=True) == expected
        seen.append((score, place))
    assert len(bank) == len(stream)
    assert {turn: n for turn, n in bank.sizes().items() if n} == {
        turn: n for turn in range(3) if (n := sum(p.turn == turn for _, p in stream))
    }


@given(stream, st.floats(0.1, 10))
def test_shrunk_counts_the_parent_as_so_many_scores(stream, weight):
    bank, seen = ShrunkBank(("question", "turn"), ShrunkBank("question", weight=4), weight=weight), []
    for score, place in stream:
        low, high, _ = naive_rank([s for s, _ in seen], score)
        for k, alike in ((4, lambda p: p.question), (weight, lambda p: (p.question, p.turn))):
            greater, equal, n = naive([s for s, p in seen if alike(p) == alike(place)], score)
            low, high = (greater + k * low) / (n + k), (greater + equal + k * high) / (n + k)
        assert bank.rank(score, place, add=True) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12), n)
        seen.append((score, place))


class Draw:
    """A parent whose p-value is the draw."""

    def rank(self, score, place, *, add=False):
        return Rank(0.0, 1.0, 0)


@given(stream, st.floats(0, 1))
def test_shrunk_is_the_smoothed_p_value_where_the_parent_is_the_draw(stream, u):
    bank, plain = ShrunkBank("question", Draw(), weight=1), {q: ScoreBank() for q in "ab"}
    for score, place in stream:
        mine = bank.rank(score, place, add=True).smoothed(u)
        assert mine == pytest.approx(plain[place.question].rank(score, add=True).smoothed(u), abs=1e-12)


@every_bank
@settings(max_examples=40)
@given(stream=stream)
def test_ranks_are_p_values(make, stream):
    bank = make()
    for score, place in stream:
        low, high, n = bank.rank(score, place, add=True)
        assert 0 <= low < high <= 1
        assert n <= len(bank)


@every_bank
@settings(max_examples=40)
@given(first=stream, then=stream)
def test_adding_and_ranking_with_add_leave_the_same_bank(make, first, then):
    one, two = make(), make()
    for score, place in first:
        one.rank(score, place, add=True)
        two.add(score, place)
    assert one.state() == two.state()
    for score, place in then:
        assert one.rank(score, place, add=True) == two.rank(score, place, add=True)


@every_bank
@settings(max_examples=40)
@given(first=stream, then=stream)
def test_a_saved_bank_goes_on_as_it_would_have(make, first, then):
    bank, loaded = make(), make()
    loaded.add(9.0, Place("z", 0, 0))  # what it held before must not shine through
    for score, place in first:
        bank.add(score, place)
    loaded.restore(json.loads(json.dumps(bank.state())))
    assert loaded.state() == bank.state()
    for score, place in then:
        assert loaded.rank(score, place, add=True) == bank.rank(score, place, add=True)


@every_bank
@settings(max_examples=40)
@given(stream=stream)
def test_a_cleared_bank_is_a_new_one(make, stream):
    bank = make()
    for score, place in stream:
        bank.add(score, place)
    bank.clear()
    assert len(bank) == 0
    assert bank.state() == make().state()


@every_bank
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("filled", [1, 9])
def test_a_score_that_is_no_number_is_refused_and_changes_no_level(make, bad, filled):
    bank, place = make(), Place("a", 0, 0)
    for i in range(filled):
        bank.add(i / 4, place)
    before = json.dumps(bank.state())
    for act in (lambda: bank.rank(bad, place, add=True), lambda: bank.rank(bad, place), lambda: bank.add(bad, place)):
        with pytest.raises(ValueError, match=f"finite number, not {bad}"):
            act()
        assert json.dumps(bank.state()) == before


@pytest.mark.parametrize("name", BANKS)
def test_a_refused_score_of_a_new_category_leaves_no_trace(name):
    bank = BANKS[name]()
    bank.add(1.0, Place("a", 0, 0))
    before = bank.state()
    with pytest.raises(ValueError, match="finite"):
        bank.rank(math.nan, Place("b", 0, 1), add=True)
    assert bank.state() == before
    bank.rank(2.0, Place("b", 0, 1))  # a look-up alone leaves none either
    assert bank.state() == before


def test_a_bank_of_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="finite number, not nan"):
        ScoreBank([0.0, math.nan])
    bank = ScoreBank([1.0])
    with pytest.raises(ValueError, match="finite number, not inf"):
        bank.restore([0.0, math.inf])
    assert bank.scores() == [1.0]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: ScoreBank(window=0), "window must be at least 1 score, not 0"),
        (lambda: MondrianBank("turn", minimum=0), "between 1 and the window, not 0"),
        (lambda: MondrianBank("turn", minimum=9, window=8), "between 1 and the window, not 9"),
        (lambda: ShrunkBank("turn", weight=0), "weight must be positive and finite, not 0"),
        (lambda: ShrunkBank("turn", weight=math.nan), "weight must be positive and finite, not nan"),
        (lambda: ShrunkBank("turn", window=0).add(1.0, Place("q", 0, 0)), "window must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_named(make, what):
    with pytest.raises(ValueError, match=what):
        make()


@pytest.mark.parametrize("score", [math.nan, math.inf, 10**400])
def test_a_category_takes_no_score_that_is_not_finite_whatever_its_parent_does(score):
    class Parent:
        """Of somebody's own, and takes anything."""

        def rank(self, score, place, *, add=False):
            return Rank(0.0, 1.0, 0)

        def add(self, score, place):
            pass

        def __len__(self):
            return 0

    place = Place("q", 0, 0)
    for made in (ShrunkBank("question", Parent()), MondrianBank("question", Parent(), minimum=1)):
        made.add(1.0, place)
        for call in (made.add, made.rank, lambda score, place, made=made: made.rank(score, place, add=True)):
            with pytest.raises(ValueError, match="a score must be a finite number"):
                call(score, place)
        assert made.sizes() == {"q": 1}
