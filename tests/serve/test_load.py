"""Clients of every kind at once, a short version of `a1_sgl.evals.benchmarks.serving`: nothing is left of them."""

import asyncio
import gc
import threading

import psutil
import pytest
from pydantic import SecretStr

from a1_sgl.engine.loop import wait
from a1_sgl.evals.benchmarks import serving as load
from a1_sgl.evals.tasks import find_task
from a1_sgl.serve.job import Job
from a1_sgl.serve.keys import Entry, Keys
from a1_sgl.testing import FakeEngine

from .conftest import steps, until

KEY = "k" * 24


def slow(name):
    return FakeEngine(steps, name=name, model=name[0], delay=lambda call: 0.05 if call.kind == "generate" else 0.0)


async def tasks():
    return len(asyncio.all_tasks())


def threads():
    """Those that are no worker of a pool, which is as large as it has become."""
    return {one.name for one in threading.enumerate() if not one.name.startswith(("asyncio_", "uvloop_", "ThreadPool"))}


def held():
    gc.collect()
    return wait(tasks()), psutil.Process().num_fds(), threads()


@pytest.fixture
def server(serving):
    return serving(slow("draft"), slow("target"), alpha=0.25, keys=Keys([Entry(name="load", key=SecretStr(KEY))]))


def sent(server, count, seconds, seed):
    clients = load.Clients(server.url, KEY, find_task("chain").questions("test", 20, 0), seed)
    asyncio.run(clients.run(count, seconds))
    until(lambda: not server.service.jobs)
    return clients.outcomes


def test_nothing_is_left_of_clients_of_every_kind(server, instances):
    assert not [one for one in sent(server, 11, 0, 1) if one.end == "error"]
    headers = {"Authorization": f"Bearer {KEY}"}
    assert server.http.get("/metrics", headers=headers).status_code == 200  # its connection stays
    before, jobs = held(), instances(Job)
    outcomes = sent(server, 33, 3, 2)
    assert not [one for one in outcomes if one.end == "error"]
    ends = {(one.kind, one.end) for one in outcomes}
    for kind in load.KINDS:
        usual = {"gone before it": "gone", "gone in mid-stream": "gone", "wrong key": "refused",
                 "cannot be honoured": "refused"}  # fmt: skip
        assert (kind, usual.get(kind, "answered")) in ends, kind
    assert all(one.first is not None for one in outcomes if one.kind == "streamed")

    assert server.draft.running == server.target.running == 0
    text = server.http.get("/metrics", headers=headers).text
    assert "a1_chains_in_flight 0.0" in text
    assert "a1_requests_running 0.0" in text
    assert all(one.running == 0 for one in server.service.keys._owners.values())
    assert all(not level.counts.open for level in server.service.gates.levels)
    until(lambda: held()[0] <= before[0])
    until(lambda: held()[1] <= before[1])
    assert held()[2] == before[2]
    kept = sum(one.kind == "Idempotency-Key" for one in outcomes)
    assert len(jobs) <= kept + 1  # those that a retry may still come for, and the last one in somebody's frame


@pytest.mark.parametrize(
    ("frames", "wrong"),
    [
        (['data: {"choices": []}'], "ended with"),
        (['data: {"choices": [{"index": 0}], "usage": null}', "data: [DONE]"], "the last chunk"),
        (['data: {"choices": [], "usage": {"completion_tokens": 1}}', "data: [DONE]"], "1 answers ended with"),
    ],
)
def test_a_stream_that_is_not_as_it_should_be_is_an_error(frames, wrong):
    with pytest.raises(load.Wrong, match=wrong):
        load._stream(frames, 1, 0.1)
