"""The graders against every benchmark's reference answers, changed."""

import pytest

from a1_sgl.answers import GRADERS

from .golds import DATA, EACH, MUTATIONS, REWRITINGS, golds, some

pytestmark = pytest.mark.skipif(
    not DATA.exists(), reason="needs the benchmarks of ../shared, which are not of the project"
)
FEW = 12
"""One gold in so many, by default; the slow tests take all."""


def wrongly(changes, right, every):
    """The changed answers whose verdict is not `right`, and how many there were."""
    found, count = [], 0
    for gold in golds()[::every]:
        for name, answer in some(changes, gold).items():
            grade = GRADERS["math"](answer, gold, {})
            count += 1
            if grade.correct is not right:
                found.append((name, answer, gold, grade))
    return found, count


@pytest.mark.parametrize("every", [FEW, pytest.param(1, marks=pytest.mark.slow)])
def test_rewriting_a_gold_keeps_it_right(every):
    found, count = wrongly(REWRITINGS, True, every)
    assert found == []
    assert count > EACH * len(golds()) / every * 0.8


@pytest.mark.parametrize("every", [FEW, pytest.param(1, marks=pytest.mark.slow)])
def test_changing_a_golds_value_makes_it_wrong(every):
    found, count = wrongly(MUTATIONS, False, every)
    assert found == []
    assert count > EACH * len(golds()) / every * 0.8
