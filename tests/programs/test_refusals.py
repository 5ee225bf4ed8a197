"""What is no gate, no backend, no number of chains is named before anything runs."""

import pytest

from a1_sgl import answers
from a1_sgl.conformal import GuardedGate, TwoStage, find_score, marginal
from a1_sgl.errors import ConfigError
from a1_sgl.programs import a1, direct
from a1_sgl.session import Backend, Roles
from a1_sgl.testing import FakeEngine
from a1_sgl.types import Question


def pair():
    return Backend(Roles.pair(FakeEngine(), FakeEngine()))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"gate": "adaptive-turn"}, r"a gate is one of a1_sgl\.conformal, such as make\(.*\), not 'adaptive-turn'"),
        ({"gate": 0.25}, "a gate is one of .*, not 0.25"),
        ({"backend": "http://127.0.0.1:30001"}, r"a backend is a Backend, such as Backend\.connect.*30001"),
        ({"samples": 2.5}, "samples are how many chains or their numbers, not 2.5"),
        ({"samples": "3"}, "samples are how many chains or their numbers, not '3'"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_named(arguments, what):
    with pytest.raises(ConfigError, match=what):
        a1.run(**{"question": "q", "gate": marginal(0.3), "backend": pair()} | arguments)


@pytest.mark.parametrize("limits", [{"deadline": "5"}, {"deadline": 0}, {"in_flight": 0}, {"in_flight": "8"}])
def test_limits_are_checked_before_anything_is_connected(limits):
    with pytest.raises(ConfigError, match=f"not {next(iter(limits.values()))!r}"):
        Backend.connect("http://127.0.0.1:9", **limits)  # where nobody listens


def test_a_first_stage_stands_before_a_gate_itself():
    with pytest.raises(ValueError, match="not before a GuardedGate"):
        TwoStage(GuardedGate(marginal(0.3)), find_score("own_loss"))


def test_a_grader_is_known_by_name():
    for call in (lambda: answers.key("maths", "5"), lambda: answers.explain("maths", "5", "5")):
        with pytest.raises(ValueError, match="unknown grader 'maths'; known: exact, number, math, choice"):
            call()
    assert answers.grade("math", "1e3", Question.of("how many?", answer="1000")).correct


def test_a_text_as_a_question_still_runs():
    assert direct.run(question="q", backend=Backend(Roles.alone(FakeEngine()))).ret_value.answer == "42"
