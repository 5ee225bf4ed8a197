"""SGLang's gateway: against a stand-in for it, against the real one before stand-ins, and before a runtime."""

import asyncio
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from aiohttp import web

from a1_sgl.engine import NOWHERE, Request, Route, Scope, Settings, SGLang, submit, wait
from a1_sgl.engine.gateway import ROUTING_KEY, Worker, affinity, listed
from a1_sgl.engine.sglang import _refused
from a1_sgl.engine.transport import Transport
from a1_sgl.errors import ConfigError, RuntimeFault
from a1_sgl.evals.benchmarks.fake_runtime import TOKENIZER
from a1_sgl.launch.gateway import gateway, gateway_command, gateway_ready

from .stand import Stand, until

QUICK = Settings(silence=60.0, patience=60.0, pause=0.02, longest_pause=0.2)


def ids(*numbers):
    return np.asarray(numbers, dtype=np.int32)


# --- its words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "workers"),
    [
        (
            {"workers": [{"url": "http://a:1", "model_id": "m", "is_healthy": False}, {"url": "http://b:2/"}]},
            [Worker("http://a:1", "m", False), Worker("http://b:2")],
        ),
        ({"workers": [{"url": "http://a:1@0"}, {"url": "http://a:1@1"}]}, [Worker("http://a:1")]),
        ({"urls": ["http://a:1", "http://[::1]:2"]}, [Worker("http://a:1"), Worker("http://[::1]:2")]),
        ({"workers": []}, []),
        ({"workers": [{"id": 1}, 7]}, []),
        (["http://a:1"], []),
    ],
)
def test_its_list_of_workers(answer, workers):
    assert listed(answer) == workers


def test_a_chain_has_one_key_and_another_chain_another():
    keys = [affinity(Route(question, chain)) for question in ("q", "r") for chain in ("", "0", "1")]
    assert len({one[ROUTING_KEY] for one in keys}) == 6
    assert affinity(Route("q", "0")) == keys[1]
    assert affinity(Route("Wie groß?\n", "ü"))[ROUTING_KEY].isalnum()  # whatever a question is called
    assert affinity(NOWHERE) == {}


@pytest.mark.parametrize(
    ("urls", "policy", "says"),
    [([], "manual", "at least one worker"), (["http://a:1"], "sticky", "cache_aware.*'sticky'")],
)
def test_what_cannot_be_launched_is_refused(urls, policy, says):
    with pytest.raises(ConfigError, match=says):
        gateway_command(urls, 1, policy)


def test_a_gateway_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("a1_sgl.launch.gateway.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"a1-sgl\[gateway\]"):
        gateway_command(["http://a:1"], 1)


# --- stand-ins ------------------------------------------------------------------------------------------------


def front(*workers, **answers):
    """What a gateway answers that has these workers."""
    rows = [{"url": getattr(one, "url", one), "model_id": "m", "is_healthy": True} for one in workers]
    return {
        "workers": {"workers": rows}, "abort_request": 404, "server_info": 404,
        "v1/models": {"data": [{"id": "m", "object": "model"}]}, **answers,
    }  # fmt: skip


def test_a_gateways_limits_are_its_workers(stand, engine):
    short = stand(**{"v1/models": {"data": [{"max_model_len": 300}]}})
    at = stand(**front(stand(), short))
    assert engine(at.url).limits.context == 300


def test_a_model_that_one_worker_cannot_tell_is_asked_of_another(stand, engine):
    gone = stand()
    gone.stop()
    at = stand(**front(gone, stand(), get_model_info=500))
    found = engine(at.url)
    assert found.identity.model == str(TOKENIZER)
    assert [reached for _, reached in wait(found.workers())] == [False, True]
    gone.start()


def test_workers_that_cannot_be_reached_from_here_are_asked_through_the_gateway(stand, engine):
    at = stand(**front("http://127.0.0.1:9"))
    found = engine(at.url, settings=QUICK)
    assert found.limits.context == 512
    assert wait(found.workers()) == [(Worker("http://127.0.0.1:9", "m"), False)]


def test_a_gateway_before_two_models_is_refused(stand):
    rows = [{"url": f"http://127.0.0.1:{port}", "model_id": model} for port, model in ((9, "small"), (7, "big"))]
    at = stand(**front(workers={"workers": rows}))
    with pytest.raises(ConfigError, match="several models, big and small"):
        wait(SGLang.connect(at.url))


def test_no_worker_at_all_is_waited_for_and_does_not_slow_what_comes_after(stand, engine):
    at = stand()
    found, left = engine(at.url, settings=QUICK), [3]

    async def generate(request):
        if left[0] > 0:
            left[0] -= 1
            headers = {"X-SMG-Error-Code": "no_available_workers"}
            return web.json_response({"error": {"message": "No available workers"}}, status=503, headers=headers)
        return await Stand._generate(at, request)

    at._generate = generate
    wait(found.prefill(Request(ids(5, 6, 7))))
    assert left == [0]
    assert found.transport.limit.now == found.transport.limit.most


def test_requests_of_a_chain_say_so(stand, engine):
    at = stand()
    found = engine(at.url)
    wait(found.prefill(Request(ids(5, 6), route=Route("q"))))
    for chain in ("0", "1", "0"):
        wait(found.generate(Request(ids(5, 6), route=Route("q", chain)), {"max_new_tokens": 4}))
    wait(found.prefill(Request(ids(5, 6))))
    prompt, *chains, nowhere = at.keys
    assert chains[0] == chains[2] == affinity(Route("q", "0"))[ROUTING_KEY]
    assert len({prompt, *chains}) == 3
    assert nowhere is None


# --- the real one before stand-ins ----------------------------------------------------------------------------


@contextmanager
def before(workers, tmp_path, policy="manual", settings=QUICK):
    """The real gateway before `workers`, and an engine on it."""
    with gateway([one.url for one in workers], tmp_path / policy, policy=policy) as at, ExitStack() as stack:
        found = wait(SGLang.connect(at.url, settings=settings))
        stack.callback(lambda: wait(found.close()))
        yield at, found


def chains(engine, names, rounds=3):
    """Grows so many chains at once, each with a prompt of its own."""

    async def one(name):
        grown = np.random.default_rng(abs(hash(name)) % 1000).integers(5, 300, 60, dtype=np.int32)
        for _ in range(rounds):
            await engine.prefill(Request(grown, route=Route("q", name)))
            grown = np.concatenate([grown, np.full(20, 7, np.int32)])

    async def every():
        await asyncio.gather(*(one(name) for name in names))

    submit(every()).result(120)


def homes(workers):
    """Where each key's requests went."""
    found = {}
    for worker in workers:
        for key in worker.keys:
            found.setdefault(key, set()).add(worker.url)
    return found


@pytest.mark.parametrize("policy", ["manual", "cache_aware", "round_robin"])
def test_where_the_real_gateway_sends_chains(policy, stand, tmp_path):
    workers = [stand(), stand()]
    with before(workers, tmp_path, policy) as (_, found):
        chains(found, [f"c{i}" for i in range(16)])
        where = homes(workers)
        assert len(where) == 16
        stay = sum(len(one) == 1 for one in where.values())
        assert stay == 16 if policy in ("manual", "cache_aware") else stay < 16
        assert all(worker.keys for worker in workers)


def test_what_is_stopped_is_aborted_at_its_worker(stand, tmp_path):
    workers = [stand(), stand()]
    with before(workers, tmp_path) as (_, found):
        scope = Scope()
        asked = [Request(ids(5, i), scope, Route("q", str(i))) for i in range(5, 11)]
        running = [submit(found.generate(one, {"max_new_tokens": 500})) for one in asked]
        until(lambda: sum(len(worker.held) for worker in workers) == 6)
        scope.stop()
        assert all(one.result(60).aborted for one in running)
        assert not any(worker.cut for worker in workers)


def test_where_workers_cannot_be_told_a_cut_connection_tells_them(stand, tmp_path):
    workers = [stand(abort_request=404)]
    with before(workers, tmp_path) as (_, found):
        scope = Scope()
        running = submit(found.generate(Request(ids(5), scope, Route("q", "0")), {"max_new_tokens": 500}))
        until(lambda: workers[0].held)
        scope.stop()
        with pytest.raises(Exception, match="stopped"):
            running.result(60)
        until(lambda: workers[0].cut)


@pytest.mark.parametrize("policy", ["manual", "cache_aware"])
def test_a_worker_that_dies_one_that_joins_and_one_that_comes_back(policy, stand, tmp_path):
    import httpx

    first, second, third = stand(), stand(), stand()
    with before([first, second], tmp_path, policy) as (at, found):
        chains(found, [f"c{i}" for i in range(12)])
        assert second.keys
        second.stop()
        with pytest.raises(RuntimeFault, match="206"):
            wait(found.flush())
        chains(found, [f"c{i}" for i in range(12)])  # those of the second move
        assert httpx.post(f"{at.url}/workers", json={"url": third.url}, trust_env=False).status_code == 202
        until(lambda: third.url in [one.url for one in wait(found.transport._listed())])
        chains(found, [f"d{i}" for i in range(24)])
        assert third.keys
        second.start()
        had, i = len(second.keys), 0

        def used():
            nonlocal i
            i += 1
            chains(found, [f"e{i}-{j}" for j in range(12)], 1)
            return len(second.keys) > had

        until(used)


def test_a_gateway_is_ready_when_its_workers_are_there(stand, tmp_path):
    with gateway([stand().url], tmp_path) as at:
        assert gateway_ready(at.url, 1)
        assert not gateway_ready(at.url, 2)
        assert at.alive()
    assert not at.alive()
    assert not gateway_ready(at.url, 0)


def test_a_gateway_that_cannot_start_shows_its_log(stand, tmp_path):
    with (
        pytest.raises(RuntimeFault, match=r"(?s)gateway runtime.*ended with status.*unrecognized"),
        gateway([stand().url], tmp_path, flags=["--no-such-flag"]),
    ):
        pass


# --- before a runtime -----------------------------------------------------------------------------------------


def test_a_runtime_through_the_gateway_is_the_same(runtimes, engine, tmp_path):
    direct = engine(runtimes["draft"].url, "draft")
    with before([runtimes["draft"]], tmp_path, settings=Settings()) as (at, found):
        assert (found.limits, found.identity, found.codec.key) == (direct.limits, direct.identity, direct.codec.key)
        prompt = direct.codec.encode("Start with 39. Multiply by 2. What is the result?")
        asked = Request(np.asarray(prompt, np.int32), route=Route("q", "0"))
        sampling = {"max_new_tokens": 12, "temperature": 0.0, "ignore_eos": True}
        written, own = (wait(one.generate(asked, sampling)) for one in (found, direct))
        assert written.ids == own.ids
        longer = Request(np.asarray([*prompt, *own.ids], np.int32), route=Route("q", "0"))
        scores, others = (wait(one.score(longer, len(prompt))) for one in (found, direct))
        assert scores.logprobs == pytest.approx(others.logprobs, abs=1e-4)
        assert scores.spent.cached_tokens > len(prompt) // 2
        first, other = (wait(one.next_token(asked, [5, 20])) for one in (found, direct))
        assert first.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        wait(found.flush())
        transport = Transport(at.url, "draft", Settings())
        try:
            assert wait(_refused(transport)) == direct.limits.context
        finally:
            wait(transport.close())
