import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a1_sgl.conformal import MondrianBank, Place
from a1_sgl.conformal.place import from_json, key, to_json

plain = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
PLACE = Place("q", 3, 2, "gpqa", 1)


def test_a_category_is_a_field_several_or_a_function():
    assert key("turn")(PLACE) == 2
    assert key(("task", "turn"))(PLACE) == ("gpqa", 2)
    assert key("attempt")(PLACE) == 1
    assert key("attempt")(Place("q", 3, 2)) == 0
    assert key(lambda place: min(place.turn, 1))(PLACE) == 1


@pytest.mark.parametrize("bad", ["chain", (), ("turn", "chain"), ""])
def test_an_unknown_category_is_named_with_the_known_ones(bad):
    with pytest.raises(ValueError, match="unknown category .*question, sample, turn, task, attempt"):
        key(bad)
    with pytest.raises(ValueError, match="unknown category"):
        MondrianBank(bad)


@given(st.recursive(plain, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6))
def test_a_category_survives_json(value):
    assert from_json(json.loads(json.dumps(to_json(value)))) == value


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(TypeError, match="frozenset"):
        to_json(frozenset("a"))
