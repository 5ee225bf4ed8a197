"""The fake keeps the engine's contract, and refuses what a real runtime refuses."""

import asyncio
import doctest
import math

import numpy as np
import pytest

from a1_sgl import testing
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


def test_what_it_wrote_comes_with_log_probabilities_where_they_are_asked_for():
    fake = FakeEngine("ab", own=lambda call, text: [-float(ord(one)) for one in text], first=[-0.1, -3.0, -4.0])
    assert wait(fake.generate(ask("?"), {})).logprobs is None
    found = wait(fake.generate(ask("?", logprobs=2), {}))
    assert (found.logprobs, found.first) == ((-97.0, -98.0, -98.0), (-0.1, -3.0))  # the end token's is the last
    found = wait(fake.generate(ask("?", logprobs=0), {"max_new_tokens": 1}))
    assert (found.logprobs, found.first) == ((-97.0,), None)
    assert wait(FakeEngine("ab", own=-2.0).generate(ask("?", logprobs=0), {})).logprobs == (-2.0,) * 3
    with pytest.raises(RuntimeFault, match="2 tokens were written"):
        wait(FakeEngine("ab", own=lambda call, text: [-1.0]).generate(ask("?", logprobs=0), {}))


def test_an_aborted_generation_has_the_log_probabilities_of_what_there_is():
    fake, scope = FakeEngine("x" * 100, token_delay=0.05, own=-1.0), Scope()

    async def stopped():
        task = asyncio.create_task(fake.generate(ask("?", scope=scope, logprobs=0), {}))
        await asyncio.sleep(0.1)
        scope.stop()
        return await task

    found = submit(stopped()).result()
    assert found.aborted
    assert found.logprobs == (-1.0,) * len(found.ids)


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


def test_scores_and_faults_one_for_each_request():
    fake = FakeEngine(scores=[-1.0, -2.0], faults=[None, RuntimeFault("no")])
    assert wait(fake.score(ask("abc"), 1)).logprobs == (-1.0, -1.0)
    with pytest.raises(RuntimeFault, match="no"):
        wait(fake.score(ask("abc"), 1))
    assert [wait(fake.score(ask("abc"), 2)).logprobs for _ in range(2)] == [(-2.0,)] * 2
    with pytest.raises(RuntimeFault, match="never"):
        wait(FakeEngine(faults=RuntimeFault("never")).prefill(ask("?")))
    with pytest.raises(ValueError, match="at least one"):
        FakeEngine([])


@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), lambda before, chunk: [-1.0, float("nan")]])
def test_scores_are_finite_or_a_fault(bad):
    with pytest.raises(RuntimeFault, match="asked for 2 scores"):
        wait(FakeEngine(scores=bad).score(ask("abc"), 1))


def test_nothing_is_written_beyond_the_context():
    found = wait(FakeEngine("x" * 100, context=64).generate(ask("y" * 50), {"max_new_tokens": 90}))
    assert (len(found.ids), found.ended) == (12, False)


@pytest.mark.parametrize(
    "sampling", [{"max_new_tokens": -1}, {"temperature": -1}, {"temperature": "hot"}, {"temperature": math.nan}]
)
def test_sampling_without_sense_is_refused(sampling):
    with pytest.raises(RuntimeFault, match=f"{next(iter(sampling))} must be"):
        wait(FakeEngine().generate(ask("?"), sampling))


def test_a_choice_outside_the_vocabulary_is_refused():
    with pytest.raises(RuntimeFault, match="token id 257 is outside"):
        wait(FakeEngine().next_token(ask("?"), [3, 257]))


def test_what_is_written_is_cached_across_blocks():
    fake = FakeEngine("z" * 30)
    said = wait(fake.generate(ask("x" * 20), {}))
    assert said.spent.cached_tokens == 0
    assert wait(fake.prefill(ask("x" * 20 + "z" * 30 + "!"))).cached_tokens == 48
    assert wait(fake.prefill(ask("x" * 20 + "y" * 30))).cached_tokens == 16
    assert wait(fake.score(ask("x" * 20 + "z" * 30), 40)).spent.cached_tokens == 39  # up to what is scored


def test_time_by_tokens():
    fake, scope = FakeEngine("x" * 100, token_delay=6.0), Scope()
    assert wait(fake.prefill(ask("?"))).completion_tokens == 0  # nothing is written, nothing is waited for

    async def stopped():
        going = asyncio.ensure_future(fake.generate(ask("?", scope=scope), {}))
        while not fake.running:
            await asyncio.sleep(0)
        scope.stop()
        return await going

    assert submit(stopped()).result(60).aborted


def test_close_aborts_what_is_under_way():
    fake = FakeEngine("x", delay=600)

    async def closed():
        one = asyncio.ensure_future(fake.generate(ask("?"), {}))
        two = asyncio.ensure_future(fake.score(ask("abc"), 1))
        while fake.running < 2:
            await asyncio.sleep(0)
        await fake.close()
        return await asyncio.gather(one, two, return_exceptions=True)

    one, two = submit(closed()).result(60)
    assert one.aborted
    assert isinstance(two, ChainAborted)
    assert fake.running == 0


def test_its_tokenizer():
    codec = FakeEngine().codec
    text = "12 é\n"
    assert codec.decode(codec.encode(text)) == text
    assert codec.encode("12") == (ord("1"), ord("2"))
    assert codec.decode([*codec.encode("a"), codec.eos]) == "a"
    assert codec.size == len(codec.tokenizer.get_vocab()) == codec.eos + 1
    asked = [{"role": "user", "content": "q"}]
    assert codec.render(asked) == "user: q\nassistant: "
    assert codec.after(asked, "more?") == "\nuser: more?\nassistant: "
    assert codec.key == FakeEngine(name="other").codec.key


def test_a_program_runs_on_it():
    draft, target = FakeEngine("1 + 1 = 3\n", name="small"), FakeEngine("\\boxed{2}", name="large", scores=-9.0)
    with Backend(Roles.pair(draft, target)) as backend:
        gate = make("marginal", 0.5)
        gate.calibrate(0.1, question="other")
        result = a1.run(question="1 + 1?", gate=gate, samples=3, backend=backend, stop=["\n"]).ret_value
    assert result.answer == "2"
    assert result.usage.decode["draft"] >= 3 * 10
    assert {call.request.route for call in draft.calls} >= {Route(result.question.id), Route(result.question.id, "0")}


def test_the_pieces_of_tokens_are_their_text():
    codec = FakeEngine(lambda call: "").codec
    for text in ("abc", "", "né, 🙂!\n\n", "\ufffd"):
        ids = codec.encode(text)
        pieces = codec.pieces(ids)
        assert "".join(pieces) == text
        assert len(pieces) == len(ids)
    assert codec.pieces(codec.encode("né!")) == ("n", "", "é", "!")


def test_the_example_of_the_module_that_has_it():
    assert doctest.testmod(testing).failed == 0
    assert doctest.testmod(testing).attempted >= 7
