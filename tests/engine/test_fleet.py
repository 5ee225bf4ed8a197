"""Each chain stays on the runtime that holds its prefix, and moves where that is down."""

import asyncio

import numpy as np
import pytest

from a1_sgl.engine import Fleet, Request, Route, Scope, Settings, submit, wait
from a1_sgl.engine import fleet as fleet_module
from a1_sgl.errors import ChainAborted, ConfigError, RuntimeFault
from a1_sgl.programs import self_consistency
from a1_sgl.session import Backend, Roles
from a1_sgl.testing import FakeEngine

from .stand import until


def ask(question, chain="", scope=None):
    ids = np.asarray(list(f"{question} {chain}".encode()), dtype=np.int32)
    return Request(ids, scope or Scope(), Route(question, chain))


def routes(engine):
    return [call.request.route for call in engine.calls]


def make(n=2, **rest):
    members = [FakeEngine("x", name=f"m{i}", **rest) for i in range(n)]
    return Fleet(members, "draft"), members


def test_a_fleet_serves_one_model():
    with pytest.raises(ConfigError, match="a on one and b on two"):
        Fleet([FakeEngine(name="one", model="a"), FakeEngine(name="two", model="b")], "draft")
    with pytest.raises(ConfigError, match="no runtime"):
        Fleet([], "draft")


def test_its_limits_are_the_tightest():
    fleet = Fleet([FakeEngine(context=100), FakeEngine(context=80)], "draft")
    assert (fleet.limits.context, fleet.limits.longest_prompt) == (80, 73)
    assert fleet.capabilities.seeds is True
    assert fleet.capabilities.images is False


def test_chains_stay_with_their_question():
    fleet, members = make(delay=0.001)

    async def all_():
        await asyncio.gather(*(fleet.prefill(ask(f"q{i}")) for i in range(4)))
        await asyncio.gather(*(fleet.generate(ask(f"q{i}", str(j)), {}) for i in range(4) for j in range(3)))

    submit(all_()).result(60)
    homes = [{route.question for route in routes(member)} for member in members]
    assert not homes[0] & homes[1]
    assert [len(home) for home in homes] == [2, 2]


def test_a_chain_leaves_a_crowded_question_at_its_beginning_and_stays_where_it_went():
    fleet, members = make(delay=0.05)

    async def all_():
        await fleet.prefill(ask("q"))
        await asyncio.gather(*(fleet.generate(ask("q", str(j)), {}) for j in range(40)))
        first = [{route.chain for route in routes(member)} for member in members]
        await asyncio.gather(*(fleet.generate(ask("q", str(j)), {}) for j in range(40)))
        return first, [{route.chain for route in routes(member)} for member in members]

    before, after = submit(all_()).result(60)
    assert before == after
    assert all(len(one - {""}) > 10 for one in after)


def test_what_is_on_a_runtime_that_goes_down_moves_and_is_answered():
    fleet, members = make(delay=600)
    members[1]._delay = 0.0

    async def all_():
        fleet._homes[Route("q")] = 0
        going = asyncio.ensure_future(fleet.generate(ask("q", "0"), {}))
        while not members[0].running:
            await asyncio.sleep(0)
        members[0].available = False
        found = await going
        members[0].available = True
        members[0]._delay = 0.0
        return found, await fleet.generate(ask("q", "0"), {})

    found, again = submit(all_()).result(60)
    assert (found.text, found.aborted, found.spent.runtime) == ("x", False, "m1")
    assert again.spent.runtime == "m1"


def test_a_fault_that_is_no_outage_does_not_move():
    fleet, members = make(faults=lambda call: RuntimeFault("refused"))
    with pytest.raises(RuntimeFault, match="refused"):
        wait(fleet.prefill(ask("q")))
    assert sum(len(member.calls) for member in members) == 1


def test_what_is_stopped_does_not_move():
    fleet, members = make(delay=600)
    scope = Scope()

    async def all_():
        going = asyncio.ensure_future(fleet.prefill(ask("q", scope=scope)))
        while not any(member.running for member in members):
            await asyncio.sleep(0)
        scope.stop()
        await going

    with pytest.raises(ChainAborted):
        submit(all_()).result(60)
    assert sum(len(member.calls) for member in members) == 1


def test_nothing_is_placed_on_a_runtime_that_is_down():
    fleet, members = make(3)
    members[0].available = members[2].available = False
    for i in range(5):
        assert wait(fleet.generate(ask(f"q{i}"), {})).spent.runtime == "m1"
    assert fleet.available
    members[0].available, members[1].available = True, False
    assert wait(fleet.generate(ask("q0"), {})).spent.runtime == "m0"  # it moves
    members[1].available = True
    assert wait(fleet.generate(ask("q0"), {})).spent.runtime == "m0"  # and stays


def test_where_all_are_down_a_request_waits_with_its_own():
    fleet, members = make()
    home = wait(fleet.generate(ask("q"), {})).spent.runtime
    for member in members:
        member.available = False
    assert not fleet.available
    assert wait(fleet.generate(ask("q"), {})).spent.runtime == home


def test_an_outage_that_ends_a_request_moves_it():
    fleet, members = make()

    def down(call):
        members[0].available = False
        return RuntimeFault("unreachable")

    members[0]._faults = down
    found = wait(fleet.score(ask("q"), 1))
    assert found.spent.runtime == "m1"
    members[1].available = False
    members[1]._faults = lambda call: RuntimeFault("the last one")
    with pytest.raises(RuntimeFault, match="the last one"):
        wait(fleet.score(ask("q"), 1))


def test_routes_are_remembered_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(fleet_module, "_REMEMBERED", 3)
    fleet, _ = make()
    for i in (0, 1, 2, 0, 3):  # the least recently used one goes
        wait(fleet.prefill(ask(f"q{i}")))
    assert [route.question for route in fleet._homes] == ["q2", "q0", "q3"]
    wait(fleet.prefill(ask("")))  # that shares nothing is not remembered
    assert len(fleet._homes) == 3


def test_what_close_aborts_is_not_begun_again():
    fleet, members = make(delay=600)

    async def all_():
        going = asyncio.ensure_future(fleet.generate(ask("q"), {}))
        while not any(member.running for member in members):
            await asyncio.sleep(0)
        await fleet.close()
        return await going

    assert submit(all_()).result(60).aborted
    assert sum(len(member.calls) for member in members) == 1


def test_cancelling_who_awaits_ends_the_request():
    fleet, members = make(delay=600)

    async def all_():
        going = asyncio.ensure_future(fleet.generate(ask("q"), {}))
        while not any(member.running for member in members):
            await asyncio.sleep(0)
        going.cancel()
        await asyncio.wait([going])
        return going.cancelled()

    assert submit(all_()).result(60)
    assert not any(member.running for member in members)
    assert fleet._busy == [0, 0]


async def _streamed(fleet, request):
    return [piece async for piece in fleet.stream(request, {})]


def test_a_stream():
    fleet, _ = make()
    *pieces, last = wait(_streamed(fleet, ask("q")))
    assert "".join(pieces) == last.text == "x"
    assert fleet._busy == [0, 0]


def test_a_stream_moves_before_it_begins():
    fleet, members = make(delay=600)
    members[1]._delay = 0.0

    async def all_():
        going = asyncio.ensure_future(_streamed(fleet, ask("q")))
        while not members[0].running:
            await asyncio.sleep(0)
        members[0].available = False
        return await going

    assert submit(all_()).result(60)[-1].spent.runtime == "m1"
    assert fleet._busy == [0, 0]


def test_a_stream_that_nobody_listens_to_is_closed_at_once():
    fleet, members = make()
    ended = []

    async def endless(request, sampling):
        try:
            while True:
                yield "x"
        finally:
            ended.append(1)

    members[0].stream = endless

    async def all_():
        stream = fleet.stream(ask("q"), {})
        found = [await anext(stream), await anext(stream)], list(fleet._busy)
        await stream.aclose()
        return found

    assert submit(all_()).result(60) == (["x", "x"], [1, 0])
    assert ended == [1]
    assert fleet._busy == [0, 0]


def test_every_member_is_closed_though_one_fails():
    fleet, members = make()
    closed = []

    async def fails():
        raise RuntimeFault("no")

    async def closes():
        closed.append(1)

    members[0].close, members[1].close = fails, closes
    with pytest.raises(RuntimeFault, match="no"):
        wait(fleet.close())
    assert closed == [1]


def test_a_program_runs_on_it():
    fleet, members = make(3, delay=0.001)
    with Backend(Roles.alone(fleet, "target")) as backend:
        for i in range(6):
            result = self_consistency.run(question=f"q{i}", samples=4, backend=backend, max_tokens=8).ret_value
            assert len(result.chains) == 4
    assert sum(len(member.calls) for member in members) == 6 * 5


def test_a_runtime_that_comes_back_gets_new_questions_and_no_others(stand, engine):
    stands = [stand(), stand()]
    quick = Settings(patience=60.0, pause=0.02, longest_pause=0.2)
    members = [engine(one.url, f"m{i}", settings=quick) for i, one in enumerate(stands)]
    fleet = Fleet(members, "target")

    def homes(names):
        async def at_once():
            return await asyncio.gather(*(fleet.prefill(ask(name, "0")) for name in names))

        return {found.runtime for found in submit(at_once()).result(60)}

    assert homes("abcd") == {"m0", "m1"}
    stands[1].stop()
    assert homes("abcd") == {"m0"}  # they are answered there
    assert not members[1].available
    stands[1].start()
    until(lambda: members[1].available)
    assert homes("abcd") == {"m0"}
    assert homes("efgh") == {"m0", "m1"}
