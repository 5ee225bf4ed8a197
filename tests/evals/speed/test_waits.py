"""Every second of a chain has one cause, and all of them together are the chain's time."""

import pytest

from a1_sgl.evals.speed.waits import busy, gamma, waits
from a1_sgl.types import Call, ChainEvent, ChunkEvent, PromptEvent, VerdictEvent


def call(kind, started, ended, role="target", **served):
    return Call(
        runtime=role, role=role, kind=kind, prompt_tokens=9, cached_tokens=8, completion_tokens=3, started=started,
        ended=ended, **served,
    )  # fmt: skip


def wrote(one, sample=0, question="q"):
    return ChunkEvent(
        question=question, sample=sample, turn=0, author=one.role, text="x", tokens=3, ended=False, calls=(one,)
    )  # fmt: skip


def judged(one, sample=0, question="q"):
    return VerdictEvent(
        question=question, sample=sample, turn=0, score=1.0, tokens=3, take_over=False, replaced=False, call=one
    )  # fmt: skip


def over(started, ended, sample=0, question="q"):
    return ChainEvent(
        question=question, sample=sample, text="x", answer=None, ending="turns", turns=1, take_overs=0,
        started=started, ended=ended,
    )  # fmt: skip


def test_a_chains_time_by_cause():
    drafted = call("decode", 10.0, 14.0, "draft", served_s=3.5, queue_s=0.5, prefill_s=1.0)
    verified = call("verify", 14.5, 15.5, served_s=0.75, queue_s=0.25, prefill_s=0.5)
    prompt = PromptEvent(question="q", call=call("prefill", 9.0, 10.0))
    found = waits([prompt, wrote(drafted), judged(verified), over(10.0, 16.0)], gate_s=0.125)
    assert found == {
        "queue": 0.75, "prefill": 1.5, "decode": 2.0, "network": 0.75, "gate": 0.125, "client": 0.875, "barrier": 0.0
    }  # fmt: skip
    assert sum(found.values()) == 6.0


def test_what_a_runtime_does_not_tell_is_decode_or_prefill():
    found = waits([wrote(call("decode", 0.0, 2.0)), judged(call("verify", 2.0, 3.0)), over(0.0, 3.0)])
    assert (found["decode"], found["prefill"]) == (2.0, 1.0)
    assert sum(found.values()) == 3.0


def test_requests_that_overlap_share_the_time():
    ahead, verified = call("decode", 0.0, 4.0, "draft", served_s=4.0), call("verify", 0.0, 2.0, served_s=2.0)
    found = waits([wrote(ahead), judged(verified), over(0.0, 4.0)])
    assert (found["decode"], found["prefill"], sum(found.values())) == (3.0, 1.0, 4.0)


def test_chains_that_wait_for_each_other_wait_at_the_barrier():
    events = [
        wrote(call("decode", 0.0, 1.0)), over(0.0, 1.5), wrote(call("decode", 0.0, 4.0), 1), over(0.0, 4.0, 1),
        wrote(call("decode", 9.0, 10.0), 0, "other"), over(9.0, 10.0, 0, "other"),
    ]  # fmt: skip
    found = waits(events, together=True)
    assert found["barrier"] == pytest.approx(0.5 + 2.5)
    assert found["client"] == 0.0


def test_gamma_is_computing_over_memory_and_waiting():
    found = dict.fromkeys(("queue", "prefill", "decode", "network", "gate", "client", "barrier"), 0.0)
    assert gamma(found) is None
    assert gamma(found | {"prefill": 3.0, "decode": 4.0, "queue": 1.0, "barrier": 1.0}) == 0.5


def test_how_busy_a_runtime_is():
    calls = [call("decode", 0.0, 2.0), call("decode", 1.0, 3.0), call("decode", 5.0, 6.0)]
    assert busy(calls, 8.0) == {"share": 0.5, "calls": 5 / 4}
    assert busy([], 8.0) == {"share": 0.0, "calls": 0.0}
