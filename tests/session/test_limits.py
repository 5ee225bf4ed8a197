"""What ends a chain from outside: a budget of tokens and stop sequences over all its chunks; and who watches it."""

import itertools

import pytest

from a1_sgl.conformal import make
from a1_sgl.errors import ConfigError
from a1_sgl.programs import a1, budget_forcing, direct
from a1_sgl.session import Backend, Query, Roles
from a1_sgl.testing import FakeEngine


def run(draft, target="", *, gate=1e-9, program=a1, **settings):
    seen = []
    engines = [FakeEngine(draft, name="draft", model="d"), FakeEngine(target or "t", name="target", model="t")]
    more = {} if program is not a1 else {"gate": make("marginal", gate), "draft_tokens": 10, "target_tokens": 10}
    with Backend(Roles.pair(*engines)) as pair:
        result = program.run(
            question="q", samples=1, backend=pair, watch=seen.append, **more, **settings
        ).ret_value  # fmt: skip
    return result, seen, engines


def test_a_budget_is_of_all_chunks_together():
    result, _, (draft, _) = run(["0123456789", "abcdefghij", "rest"], chain_tokens=14)
    (chain,) = result.chains
    assert (chain.text, chain.ending) == ("0123456789abcd", "length")
    assert [call.sampling["max_new_tokens"] for call in draft.calls if call.kind == "generate"] == [10, 4]


def test_what_was_dropped_leaves_its_tokens_to_the_chain():
    result, _, _ = run(["0123456789"], ["abcdefghij"], gate=1 - 1e-9, take_over="replace", chain_tokens=14)
    (chain,) = result.chains
    assert (chain.text, chain.ending) == ("abcdefghijabcd", "length")


@pytest.mark.parametrize(
    ("texts", "stop", "text"),
    [
        (["one END two"], "END", "one "),
        (["0123456789", "abcdefghij"], "9ab", "012345678"),  # across two chunks
        (["0123456789", "abcdefghij", "kl"], "9abcdefghijk", "012345678"),  # across three
        (["END"], "END", ""),
        (["\n"], "\n", ""),
    ],
)
def test_a_stop_sequence_ends_the_chain_wherever_it_comes(texts, stop, text):
    result, seen, _ = run(texts, chain_stop=[stop])
    (chain,) = result.chains
    assert (chain.text, chain.ending) == (text, "stop")
    assert (seen[-1].text, seen[-1].over) == (text, "stop")


def test_a_take_over_goes_on_before_the_stop_sequence():
    """As it goes on without the token with which the draft ended its turn."""
    result, _, _ = run(["one END"], ["two", "."], gate=1 - 1e-9, chain_stop=["END"])
    (chain,) = result.chains
    assert (chain.text, chain.ending) == ("one two", "ended")


def test_stop_strings_of_chunks_still_end_chunks():
    result, _, _ = run(["a.b", "c!d"], stop=["."], chain_stop=["!"])
    assert result.chains[0].text == "a.c"
    assert result.chains[0].turns == 2


def test_an_answer_is_read_before_the_stop_sequence():
    result, _, _ = run("The answer is 4. END \\boxed{5}", program=direct, chain_stop=["END"])
    assert result.answer == "4"


def test_nothing_is_put_into_a_chain_that_is_full():
    for limits in ({"chain_tokens": 6}, {"chain_stop": ["o"]}):
        result, _, (draft, _) = run("one, two, three", program=budget_forcing, **limits)
        assert result.chains[0].text == "one, two, three"[: 6 if "chain_tokens" in limits else 0]
        assert len([call for call in draft.calls if call.kind == "generate"]) == 1


def test_a_watch_is_told_of_what_stays_and_only_of_more_of_it():
    result, seen, _ = run(["wrong", "right", ". \\boxed{1}"], ["mended", "x"], gate=0.5, take_over="replace")
    texts = [one.text for one in seen]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert texts[-1] == result.chains[0].text
    assert seen[-1].over == result.chains[0].ending
    assert sum(chunk.tokens for chunk in seen[-1].chunks) + sum(result.usage.dropped.values()) == sum(
        result.usage.decode.values()
    )


def test_what_stays_whatever_comes_is_told_piece_by_piece():
    _, seen, _ = run("The answer is \\boxed{42}.", program=direct)
    assert seen[0].text == "The answer i"
    assert seen[-1].over == "answered"


def test_seeds_stay_where_the_question_has_another_id():
    from a1_sgl.types import Question

    def seeds(name, **more):
        engine = FakeEngine("x")
        with Backend(Roles.alone(engine)) as backend:
            question = Question(id=name, messages=({"role": "user", "content": "q"},))
            direct.run(question=question, backend=backend, seed=1, **more)
        return [call.sampling["sampling_seed"] for call in engine.calls if call.kind == "generate"]

    assert seeds("a") != seeds("b")
    assert seeds("a", seeded_by="it") == seeds("b", seeded_by="it")


@pytest.mark.parametrize("wrong", [{"chain_tokens": 0}, {"chain_stop": ("",)}, {"chain_stop": "END"}])
def test_limits_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError):
        Query.of("q", 1, **wrong)


def test_a_prompt_that_is_no_chat_is_sent_as_it_stands():
    from a1_sgl.types import Question

    engine = FakeEngine("x")
    with Backend(Roles.alone(engine)) as backend:
        direct.run(question=Question(id="q", messages=(), prompt="Once upon"), backend=backend)
    assert {call.prompt for call in engine.calls} == {"Once upon"}
