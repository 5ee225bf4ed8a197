"""What is kept for retries, and for how long."""

from dataclasses import dataclass

import pytest

from a1_sgl.serve.idempotency import Store
from a1_sgl.serve.refusals import Refusal

from .conftest import until


@dataclass
class Work:
    finished: float | None = None
    failed: bool = False
    size: int = 10


def test_what_runs_is_joined_and_what_failed_is_tried_again():
    store = Store()
    work = Work()
    store.add("me", "k", "d", work)
    assert store.find("me", "k", "d") is work
    assert store.find("you", "k", "d") is None
    work.finished, work.failed = 1e12, True
    assert store.find("me", "k", "d") is None
    assert not len(store)


def test_a_key_of_another_request_is_refused():
    store = Store()
    store.add("me", "k", "d", Work())
    with pytest.raises(Refusal) as refused:
        store.find("me", "k", "other")
    assert refused.value.status == 422


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_that_is_none_is_refused(key):
    with pytest.raises(Refusal):
        Store().find("me", key, "d")


def test_it_is_bounded_in_number_time_and_bytes():
    now = [0.0]
    store = Store(most=2, size=25, seconds=10, clock=lambda: now[0])
    for name in "ab":
        store.add("me", name, "d", Work(finished=0.0))
    store.room()
    assert len(store) == 1
    store.add("me", "c", "d", Work(finished=1.0, size=20))
    store.sweep()
    assert store.find("me", "b", "d") is None
    now[0] = 12
    assert store.find("me", "c", "d") is None


def test_what_runs_never_goes_so_that_a_full_store_refuses():
    store = Store(most=1)
    store.add("me", "a", "d", Work())
    with pytest.raises(Refusal) as refused:
        store.room()
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "5"})


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_kept_for_a_retry_is_the_answer_and_not_the_question(serving, stream):
    server = serving()
    read = server.lines if stream else server.post
    read(messages=[{"role": "user", "content": "q" * 20_000}], headers={"Idempotency-Key": "k"})
    (kept,) = server.service.store._kept.values()
    until(lambda: kept.work.finished is not None)
    assert "q" * 20_000 not in repr(kept.work.plan)
    assert 0 < kept.work.size < 20_000
