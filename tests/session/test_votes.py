"""Chains vote by what their answers are, not by how they write them."""

import threading

import pytest

from a1_sgl.answers import GRADERS
from a1_sgl.errors import ConfigError
from a1_sgl.programs import a1_sync, self_consistency
from a1_sgl.session import Backend, Roles
from a1_sgl.testing import FakeEngine
from a1_sgl.types import ChainEvent, Grade

HALVES = ("2.5", "3", "\\frac{5}{2}", "3", "2\\frac12")


def vote(answers, *, in_flight=1, **settings):
    texts = [f"so \\boxed{{{answer}}}." for answer in answers]
    backend = Backend(Roles.alone(FakeEngine(texts)), in_flight=in_flight)
    return self_consistency.run(question="q", backend=backend, samples=len(answers), **settings).ret_value


def test_equal_answers_are_one_and_the_first_chain_says_how_it_is_written():
    result = vote(HALVES)
    assert result.answer == "2.5"
    assert result.support == {"2.5": 0.6, "3": 0.4}
    assert [chain.key for chain in result.chains] == ["5/2", "3", "5/2", "3", "5/2"]
    assert [chain.answer for chain in result.chains] == list(HALVES)


def test_the_grader_says_what_is_equal():
    assert vote(HALVES, grader="exact").answer == "3"
    assert vote(("(B)", "B", "A", "b"), grader="choice").support == {"(B)": 0.75, "A": 0.25}
    with pytest.raises(ConfigError, match="unknown grader 'taste'; known: exact, number, math, choice"):
        vote(HALVES, grader="taste")


def test_a_vote_is_decided_by_equal_answers():
    result = vote(("2.5", "\\frac52", "5/2", "3", "3"), stop_when="decided")
    assert [chain.ending for chain in result.chains] == ["answered"] * 3 + ["stopped"] * 2
    assert result.support == {"2.5": 1.0}


def test_what_cannot_be_compared_is_counted_as_it_is_written():
    answers = ("9^{9^{9^{9^9}}}", "9^{9^{9^{9^9}}}", "3 +", "1")
    assert vote(answers).support == {answers[0]: 0.5, "3 +": 0.25, "1": 0.25}


def test_no_chain_waits_for_what_another_answer_is(monkeypatch):
    """Here all have ended before the first answer is understood, with one place for them."""
    ended, all_over = [], threading.Event()

    def slow(answer, gold, meta):
        assert all_over.wait(60)
        return Grade(False, answer.strip())

    def hear(event):
        ended.extend([event] if isinstance(event, ChainEvent) else [])
        if len(ended) == 3:
            all_over.set()

    monkeypatch.setitem(GRADERS, "slow", slow)
    result = vote(("1", "2", "2"), grader="slow", listener=hear)
    assert result.answer == "2"
    assert {event.key for event in ended} == {None}


def test_chains_that_go_in_step_are_counted_alike():
    texts = iter(("\\boxed{0.5}", "\\boxed{\\frac12}", "\\boxed{3}"))
    engine = FakeEngine(lambda call: next(texts, "") if call.kind == "generate" else "")
    backend = Backend(Roles.pair(engine, FakeEngine("")), in_flight=1)
    result = a1_sync.run(question="q", backend=backend, samples=3, turns=1).ret_value
    assert len(result.support) == 2
    assert sorted(result.support.values()) == pytest.approx([1 / 3, 2 / 3])
