"""Generations in pieces: a runtime that works is never silent, however slow, and one that is quick costs few pieces."""

import asyncio

import numpy as np
import pytest

from a1_sgl.engine import Request, Scope, Settings, submit, wait
from a1_sgl.engine.pace import PIECE, WHOLE, Pace
from a1_sgl.errors import RuntimeFault

from .stand import until

LONG = {"max_new_tokens": 400, "temperature": 0.0}
SILENCE = 4.0


def settings(**rest):
    return Settings(**{"silence": SILENCE, "pause": 0.01, "longest_pause": 0.05, "patience": 60.0, **rest})


def asked(scope=None):
    return Request(np.array([5, 6], np.int32), scope or Scope())


def written(engine, chains=1):
    """So many generations at once."""

    async def all_of_them():
        return await asyncio.gather(*(engine.generate(asked(), LONG) for _ in range(chains)))

    return submit(all_of_them()).result(120)


@pytest.fixture
def slow(stand):
    """A runtime that writes one piece a fifth of a silence, and so is at 400 tokens for longer than one."""
    one = stand()
    one.tokens, one.pause = 400, SILENCE / 5
    return one


# --- the pace -------------------------------------------------------------------------------------------------


def test_an_unknown_runtime_is_taken_for_a_slow_one():
    pace = Pace(180.0)
    assert pace.piece(WHOLE[0], 1) is None
    assert pace.piece(WHOLE[0] + 1, 1) == PIECE[0]
    assert PIECE[0] / 180 < 0.5, "tokens a second that are still no silence"


@pytest.mark.parametrize(
    ("rate", "whole", "piece"), [(0.5, 128, 64), (5.0, 128, 112), (30.0, 675, 256), (99.0, 1024, 256)]
)
def test_an_eighth_of_the_silence_is_waited(rate, whole, piece):
    pace = Pace(180.0)
    pace.saw(100, 100 / rate, 1)
    assert pace.piece(whole, 1) is None
    assert pace.piece(whole + 1, 1) == piece


def test_what_a_runtime_does_is_shared_by_those_that_come():
    pace = Pace(180.0)
    pace.saw(100, 2.0, 8)
    assert pace.piece(500, 8) is None
    assert pace.piece(500, 1) is None, "fewer are not taken to be quicker"
    assert [pace.piece(500, busy) for busy in (32, 128, 1000)] == [256, 70, 64]


def test_a_runtime_that_slows_down_is_believed_at_once_and_one_that_recovers_by_and_by():
    pace = Pace(180.0)
    pace.saw(100, 2.0, 1)
    assert pace.piece(500, 1) is None
    pace.saw(100, 200.0, 1)
    assert pace.piece(500, 1) == PIECE[0]
    pace.saw(100, 2.0, 1)
    assert PIECE[0] < pace.piece(500, 1) < PIECE[1]
    for _ in range(20):
        pace.saw(100, 2.0, 1)
    assert pace.piece(500, 1) is None


@pytest.mark.parametrize("known", [False, True])
def test_silence_is_slowness(known):
    pace = Pace(180.0)
    if known:
        pace.saw(100, 2.0, 1)
    pace.silent()
    pace.saw(100, 2.0, 1)
    assert pace.piece(500, 1) < PIECE[1]


def test_a_few_tokens_tell_nothing():
    pace = Pace(180.0)
    pace.saw(100, 2.0, 1)
    for tokens, seconds in ((1, 60.0), (0, 60.0), (100, 0.0)):
        pace.saw(tokens, seconds, 1)
    assert pace.piece(500, 1) is None


# --- before runtimes ------------------------------------------------------------------------------------------


def test_a_slow_runtime_loses_nothing_and_is_asked_once(slow, engine):
    found = engine(slow.url, settings=settings())
    assert [len(one.ids) for one in written(found, 6)] == [400] * 6
    assert len(slow.seen) == 6
    assert all(one["stream"] for one in slow.seen)
    assert found.transport.limit.now == found.transport.limit.most
    assert {one["sampling_params"]["stream_interval"] for one in slow.seen} == {PIECE[0]}


def test_without_pieces_it_would_be_given_up(slow, engine, monkeypatch):
    monkeypatch.setattr(Pace, "piece", lambda *_: None)
    slow.pause = SILENCE / 2  # of 400 pieces, since no others are asked for
    found = engine(slow.url, settings=settings(attempts=2))
    with pytest.raises(RuntimeFault, match="no answer within"):
        written(found)
    assert len(slow.seen) == 2


def test_one_that_falls_silent_is_asked_again_and_for_less(slow, engine):
    pieces, slow.pause = slow._pieces, 0.0

    async def falls_silent(asked, most):
        first = asked["rid"] == slow.seen[0]["rid"]
        if first:
            slow.held[asked["rid"]] = asyncio.Event()
        async for piece in pieces(asked, most):
            yield piece
            if first:
                await slow.held[asked["rid"]].wait()

    slow._pieces = falls_silent
    found = engine(slow.url, settings=settings(silence=0.5))
    limit = found.transport.limit
    assert [len(one.ids) for one in written(found)] == [400]
    assert len({one["rid"] for one in slow.seen}) == len(slow.seen) > 1
    assert limit.now < limit.most
    until(lambda: slow.held[slow.seen[0]["rid"]].is_set())  # the old one is aborted


def test_what_is_stopped_in_mid_stream_returns_what_there_is(stand, engine):
    at, scope = stand(), Scope()
    running = submit(engine(at.url).generate(asked(scope), {"max_new_tokens": 500}))
    until(lambda: at.held)
    scope.stop()
    said = running.result(60)
    assert (said.aborted, said.ids) == (True, (20,))
    assert len(at.seen) == 1


def test_a_runtime_that_is_quick_is_asked_for_the_whole_unless_that_is_long(stand, engine):
    at = stand()
    at.tokens = 400
    found = engine(at.url, settings=Settings())
    found.transport.pace.saw(100, 1.0, 1)
    assert len(written(found)[0].ids) == 400
    assert "stream" not in at.seen[-1]
    found.transport.pace.silent()
    assert len(written(found)[0].ids) == 400
    assert at.seen[-1]["sampling_params"]["stream_interval"] == PIECE[0]
    assert len(wait(found.generate(asked(), {"max_new_tokens": WHOLE[0]})).ids) == WHOLE[0]
    assert "stream" not in at.seen[-1]


def test_a_quick_runtime_that_falls_silent_is_asked_again_in_pieces(slow, engine):
    """It was given to do by others, say: what was asked for as a whole gets its answer the second time."""
    found = engine(slow.url, settings=settings())
    found.transport.pace.saw(10_000, 1.0, 1)
    assert len(written(found)[0].ids) == 400
    assert ["stream" in one for one in slow.seen] == [False, True]
