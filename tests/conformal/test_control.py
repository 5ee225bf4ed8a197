import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a1_sgl.conformal import Fixed, Offsets, Place

alphas = st.sampled_from([0.05, 0.3, 0.5, 0.8]) | st.floats(0.01, 0.99)
places = st.builds(Place, st.sampled_from("abc"), st.integers(0, 1), st.integers(0, 3))
# An adversary picks p-values: extreme ones push a control as far as it goes.
moves = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 0.0, 1.0, 0.5]) | st.floats(0, 1), places), max_size=120)
PLACE = Place("q", 0, 0)


def drive(control, moves):
    """Yields, for each move, the place and whether it was a take-over."""
    for p, place in moves:
        took = p <= control.level(place)
        control.update(place, took)
        yield place, took


class Tally:
    """Take-overs beyond alpha's share, by category."""

    def __init__(self, alpha):
        self.alpha, self.n, self.excess = alpha, {}, {}

    def add(self, category, took):
        self.n[category] = self.n.get(category, 0) + 1
        self.excess[category] = self.excess.get(category, 0.0) + took - self.alpha


@given(alphas, moves)
def test_fixed_stays(alpha, moves):
    control = Fixed(alpha)
    assert all(took == (p <= alpha) for (_, took), (p, _) in zip(drive(control, moves), moves, strict=True))
    assert control.level(PLACE) == alpha
    control.restore(json.loads(json.dumps(control.state())))
    control.finish("q", 0)
    assert control.level(PLACE) == alpha


def test_one_family_by_hand():
    control = Offsets(0.3, {"turn": 0.1})
    assert control.level(PLACE) == 0.3
    control.update(PLACE, True)
    assert control.level(PLACE) == pytest.approx(0.3 - 0.1 * 0.7)
    control.update(PLACE, False)
    assert control.level(PLACE) == pytest.approx(0.3 - 0.1 * 0.7 + 0.1 * 0.3)
    assert control.level(Place("q", 0, 1)) == 0.3


def test_a_draw_is_a_decision_like_any_other():
    """So the rate that is held is that of rejected draws."""
    control, tally = Offsets(0.3, {"question": 0.1}, caps={"question": 2}), Tally(0.3)
    draws = [(0.0, PLACE._replace(attempt=attempt)) for attempt in range(200)]
    for place, took in drive(control, draws):
        tally.add(place.question, took)
        assert abs(tally.excess["q"]) <= 2.7 + 1e-9
    [[[_, n, excess, _]]] = control.state()
    assert (n, excess) == (200, pytest.approx(tally.excess["q"]))


def test_steps_that_decay_by_hand():
    control = Offsets(0.3, {(): 0.2}, decay=0.6)
    control.update(PLACE, False)
    control.update(PLACE, False)
    control.update(Place("r", 1, 4), True)
    assert control.level(PLACE) == pytest.approx(0.3 + 0.2 * (0.3 + 0.3 * 2**-0.6 - 0.7 * 3**-0.6))


def test_offsets_of_families_add_up_by_hand():
    control = Offsets(0.4, {"question": 0.1, "turn": 0.03})
    control.update(Place("a", 0, 0), True)
    assert control.level(Place("a", 0, 0)) == pytest.approx(0.4 - 0.6 * 0.13)
    assert control.level(Place("a", 0, 1)) == pytest.approx(0.4 - 0.6 * 0.1)
    assert control.level(Place("b", 0, 0)) == pytest.approx(0.4 - 0.6 * 0.03)
    assert control.level(Place("b", 0, 1)) == 0.4


def test_a_cap_forces_and_the_first_family_has_precedence():
    control = Offsets(0.5, {"question": 0.01, "turn": 0.01}, caps={"question": 1, "turn": 1})
    for question in "abcd":
        control.update(Place(question, 0, 0), True)  # turn 0 is 2 over
    control.update(Place("e", 0, 1), False)
    control.update(Place("e", 0, 2), False)  # question e is 1 under
    assert control.level(Place("z", 0, 0)) == -1
    assert control.level(Place("e", 0, 3)) == 2
    assert control.level(Place("e", 0, 0)) == 2
    assert 0 < control.level(Place("z", 0, 1)) < 1


@given(alphas, moves, st.sampled_from([0.005, 0.1, 1.0, 3.0]), st.sampled_from([(), "turn", "question"]))
def test_one_family_keeps_its_bound_whatever_the_p_values(alpha, moves, step, family):
    tally = Tally(alpha)
    for place, took in drive(Offsets(alpha, {family: step}), moves):
        category = getattr(place, family) if family else ()
        tally.add(category, took)
        n = tally.n[category]
        assert abs(tally.excess[category]) / n <= (max(alpha, 1 - alpha) + step) / (step * n) + 1e-9


@given(alphas, moves, st.sampled_from([0.05, 0.2, 1.0, 3.0]), st.sampled_from([0.3, 0.6, 0.9]))
def test_a_decaying_step_keeps_its_bound_whatever_the_p_values(alpha, moves, step, decay):
    tally = Tally(alpha)
    for place, took in drive(Offsets(alpha, {"turn": step}, decay=decay), moves):
        tally.add(place.turn, took)
        n = tally.n[place.turn]
        assert abs(tally.excess[place.turn]) / n <= (1 + step) / (step * n ** (1 - decay)) + 1e-9


@given(alphas, moves, st.sampled_from([0.01, 0.2, 1.0]), st.sampled_from([0.01, 0.2, 1.0]))
def test_two_families_keep_their_potential_whatever_the_p_values(alpha, moves, first, second):
    tally = Tally(alpha)
    growth = (2 + first + second) * max(alpha, 1 - alpha) ** 2
    for i, (place, took) in enumerate(drive(Offsets(alpha, {"question": first, "turn": second}), moves), 1):
        tally.add(place.question, took)
        tally.add(place.turn, took)
        potential = sum((first if isinstance(c, str) else second) * s**2 for c, s in tally.excess.items())
        assert potential <= growth * i + 1e-9


@given(alphas, moves, st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([0.0, 0.6]))
def test_a_cap_keeps_every_count_whatever_the_p_values(alpha, moves, cap, decay):
    tally = Tally(alpha)
    control = Offsets(alpha, {"turn": 0.1, "question": 0.2}, caps={"question": cap}, decay=decay)
    for place, took in drive(control, moves):
        tally.add(place.question, took)
        assert abs(tally.excess[place.question]) <= cap + max(alpha, 1 - alpha) + 1e-9


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_bounds_are_nearly_reached(alpha, p):
    """A bound far from what happens would show nothing."""
    step, cap, moves = 0.01, 3.0, [(p, PLACE)] * 900
    one, capped = Tally(alpha), Tally(alpha)
    extreme = 0.0
    for _, took in drive(Offsets(alpha, {(): step}), moves):
        one.add("", took)
        extreme = max(extreme, abs(one.excess[""]))
    assert extreme >= (alpha if p == 0 else 1 - alpha) / step * 0.99
    extreme = 0.0
    for _, took in drive(Offsets(alpha, {"question": step}, caps={"question": cap}), moves):
        capped.add("", took)
        extreme = max(extreme, abs(capped.excess[""]))
    assert extreme >= cap


@given(alphas, moves, moves, st.sampled_from([0.0, 0.6]))
def test_a_saved_control_goes_on_as_it_would_have(alpha, first, then, decay):
    def made():
        return Offsets(alpha, {"question": 0.3, ("turn", "sample"): 0.1}, decay=decay, caps={"question": 2})

    control, loaded = made(), made()
    list(drive(control, first))
    list(drive(loaded, then))  # what it remembered before must not shine through
    loaded.restore(json.loads(json.dumps(control.state())))
    assert list(drive(loaded, then)) == list(drive(control, then))
    assert loaded.state() == control.state()


@pytest.mark.parametrize(
    ("arguments", "options", "what"),
    [
        ((0.0, {"turn": 0.1}), {}, "between 0 and 1, not 0.0"),
        ((0.3, {}), {}, "at least one family"),
        ((0.3, {"turn": 0.0}), {}, r"positive, not \[0.0\]"),
        ((0.3, {"turn": 0.1}), {"decay": 1.0}, r"\[0, 1\), not 1.0"),
        ((0.3, {"turn": 0.1}), {"decay": -0.1}, r"\[0, 1\), not -0.1"),
        ((0.3, {"turn": 0.1}), {"caps": {"question": 3}}, r"among \['turn'\], not {'question': 3}"),
        ((0.3, {"turn": 0.1}), {"caps": {"turn": 0}}, "caps must be positive"),
        ((0.3, {"chain": 0.1}), {}, "unknown category 'chain'"),
    ],
)
def test_settings_that_cannot_be_are_named(arguments, options, what):
    with pytest.raises(ValueError, match=what):
        Offsets(*arguments, **options)
