"""The fake keeps the engine's contract, and refuses what a real runtime refuses."""

import asyncio

import numpy as np
import pytest

from a1_sgl.conformal import make
from a1_sgl.engine import Request, Route, Scope, submit, wait
from a1_sgl.errors import ChainAborted, RuntimeFault
from a1_sgl.programs import a1
from a1_sgl.session import Backend, Roles
from a1_sgl.testing import FakeEngine


def ids(text):
    return np.asarray(list(text.encode()), dtype=np.int32)


def ask(text, **rest):
    return Request(ids(text), **rest)


def test_texts_come_in_the_order_they_are_asked_for_and_the_last_one_for_ever():
    fake = FakeEngine(["one", "two"])
    assert [wait(fake.generate(ask("?"), {})).text for _ in range(3)] == ["one", "two", "two"]
    assert [call.prompt for call in fake.calls] == ["?"] * 3


def test_a_text_is_cut_at_a_stop_string_or_the_length_and_else_ends():
    fake = FakeEngine("ab\ncd")
    found = wait(fake.generate(ask("?"), {"stop": ["\n"]}))
    assert (found.text, found.ended, found.spent.completion_tokens) == ("ab\n", False, 3)
    found = wait(fake.generate(ask("?"), {"max_new_tokens": 1}))
    assert (found.text, found.ids, found.ended) == ("a", tuple(b"a"), False)
    found = wait(fake.generate(ask("?"), {"max_new_tokens": 6}))
    assert (found.text, found.ended, found.spent.completion_tokens) == ("ab\ncd", True, 6)


def test_a_torn_character_is_taken_back():
    found = wait(FakeEngine("aé").generate(ask("?"), {"max_new_tokens": 2}))
    assert (found.text, found.ids) == ("a", tuple(b"a"))


def test_scores_and_choices_are_scripted():
    fake = FakeEngine(
        scores=lambda before, chunk: [-float(len(before))] * len(chunk), choices=lambda prompt, one: -float(one)
    )
    assert wait(fake.score(ask("abcd"), 2)).logprobs == (-2.0, -2.0)
    assert wait(fake.next_token(ask("?"), [ord("3"), ord("7")])).logprobs == (-3.0, -7.0)


def test_what_is_cached_is_what_was_sent_before():
    fake = FakeEngine("z" * 16)
    assert wait(fake.prefill(ask("x" * 32))).cached_tokens == 0
    assert wait(fake.prefill(ask("x" * 32 + "y" * 16))).cached_tokens == 32
    said = wait(fake.generate(ask("x" * 32), {}))
    assert wait(fake.prefill(ask("x" * 32 + said.text + "!"))).cached_tokens == 48
    wait(fake.flush())
    assert wait(fake.prefill(ask("x" * 32))).cached_tokens == 0


@pytest.mark.parametrize(
    ("bad", "why"), [(ids(""), "empty"), (np.asarray([300], dtype=np.int32), "vocabulary"), (ids("x" * 100), "admits")]
)
def test_it_refuses_what_a_runtime_refuses(bad, why):
    with pytest.raises(RuntimeFault, match=why):
        wait(FakeEngine(context=64).prefill(Request(bad)))


@pytest.mark.parametrize("start", [0, 3])
def test_a_score_needs_a_prefix_and_a_chunk(start):
    with pytest.raises(ValueError, match="prefix and a chunk"):
        wait(FakeEngine().score(ask("abc"), start))


def test_a_stopped_generation_returns_what_there_is():
    fake, scope = FakeEngine("x" * 100, delay=600), Scope()

    async def stopped():
        going = asyncio.ensure_future(fake.generate(ask("?", scope=scope), {}))
        while not fake.running:
            await asyncio.sleep(0)
        scope.stop()
        return await going

    found = submit(stopped()).result(60)
    assert found.aborted
    assert not found.ended
    assert len(found.text) < 100
    with pytest.raises(ChainAborted):
        wait(fake.prefill(ask("?", scope=scope)))


def test_a_stopped_score_is_an_abort():
    fake, scope = FakeEngine(delay=600), Scope()

    async def stopped():
        going = asyncio.ensure_future(fake.score(ask("abc", scope=scope), 1))
        while not fake.running:
            await asyncio.sleep(0)
        scope.stop()
        await going

    with pytest.raises(ChainAborted):
        submit(stopped()).result(60)


def test_faults_are_raised_where_they_are_scripted():
    fake = FakeEngine(faults=lambda call: RuntimeFault("no") if call.number == 1 else None)
    wait(fake.prefill(ask("?")))
    with pytest.raises(RuntimeFault, match="no"):
        wait(fake.prefill(ask("?")))


def test_a_program_runs_on_it():
    draft, target = FakeEngine("1 + 1 = 3\n", name="small"), FakeEngine("\\boxed{2}", name="large", scores=-9.0)
    with Backend(Roles.pair(draft, target)) as backend:
        gate = make("marginal", 0.5)
        gate.calibrate(0.1, question="other")
        result = a1.run(question="1 + 1?", gate=gate, samples=3, backend=backend, stop=["\n"]).ret_value
    assert result.answer == "2"
    assert result.usage.decode["draft"] >= 3 * 10
    assert {call.request.route for call in draft.calls} >= {Route(result.question.id), Route(result.question.id, "0")}
