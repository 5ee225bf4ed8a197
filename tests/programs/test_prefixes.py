"""What branches share is computed once: the runtimes' own account against the distinct prefixes they were sent."""

import pytest

from a1_sgl.programs import PROGRAMS
from a1_sgl.types import PromptEvent, calls_of


def common(one, other):
    """Length of the longest common prefix."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@pytest.fixture
def made(pair, monkeypatch):
    """Every request: what it spent, the ids sent, the ids decoded and where its scoring starts, by runtime name."""
    found = {"draft": [], "target": []}
    for engine in pair.engines:

        def keep(request, spent, out=(), start=None, engine=engine):
            ids = request.ids.tolist()
            found[engine.name].append((spent, ids, list(out), len(ids) if start is None else start - 1))

        async def generate(request, sampling, engine=engine, keep=keep):
            said = await type(engine).generate(engine, request, sampling)
            keep(request, said.spent, said.ids)
            return said

        async def score(request, start, engine=engine, keep=keep):
            scores = await type(engine).score(engine, request, start)
            keep(request, scores.spent, start=start)
            return scores

        async def next_token(request, choices, engine=engine, keep=keep):
            scores = await type(engine).next_token(engine, request, choices)
            keep(request, scores.spent)
            return scores

        async def prefill(request, engine=engine, keep=keep):
            spent = await type(engine).prefill(engine, request)
            keep(request, spent)
            return spent

        for one in (generate, score, next_token, prefill):
            monkeypatch.setattr(engine, one.__name__, one)
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_a_runtime_has_computed_it_never_computes_again(name, pair, questions, solve, made):
    """Every call finds in the cache what it has in common with any call that was over before it began."""
    pair.flush_cache()
    _, events = solve(name, questions[0])
    shared = 0
    for runtime, calls in made.items():
        accounted = [c for c in calls_of(events) if c.runtime == runtime]
        assert sorted(spent.started for spent, *_ in calls) == sorted(c.started for c in accounted)  # all of them, once
        assert {tuple(spent[:6]) for spent, *_ in calls} == {
            (c.runtime, c.prompt_tokens, c.cached_tokens, c.completion_tokens, c.started, c.ended) for c in accounted
        }
        for call, ids, _, start in calls:
            if not call.prompt_tokens:  # it was stopped before it began
                assert not call.completion_tokens
                continue
            before = [ids_ + out for other, ids_, out, _ in calls if other.ended <= call.started]
            longest = max((common(ids, one) for one in before), default=0)
            # The last token is computed anew for its distribution, and a sequence's last decoded one never was; a
            # scoring call reads the cache up to the token before its chunk.
            assert call.cached_tokens >= min(longest, start, len(ids) - 1) - 1
            shared += min(longest, start)
    assert shared > 0


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_prompt_is_computed_once_on_each_runtime(name, pair, questions, solve):
    pair.flush_cache()
    _, events = solve(name, questions[1])
    prompts = {event.call.runtime: event.call for event in events if isinstance(event, PromptEvent)}
    assert set(prompts) == {"draft", "target"}
    for call in calls_of(events):
        if call.kind == "prefill":
            assert call.cached_tokens == 0
        elif not call.prompt_tokens:  # it was stopped before it began
            assert not call.completion_tokens
        else:
            assert call.cached_tokens >= prompts[call.runtime].prompt_tokens - 1
