"""How many chains are in flight at once, in which order, and what becomes of them when they are stopped."""

import asyncio

import pytest

from a1_sgl.engine import Scope, submit, wait
from a1_sgl.errors import ConfigError
from a1_sgl.session.admission import Admission


class Bodies:
    """Bodies that wait to be let go, and what is known of them.

    Attributes:
        began, ended: their numbers, in order.
        most: how many were under way at once.
    """

    def __init__(self):
        self.began, self.ended, self.most = [], [], 0
        self._gates = {}

    def __call__(self, item):
        self.began.append(item)
        self.most = max(self.most, len(self.began) - len(self.ended))
        try:
            wait(self._held(item))
        finally:
            self.ended.append(item)
        if isinstance(item, str):
            raise KeyError(item)
        return 10 * item

    async def _held(self, item):
        await self._gates.setdefault(item, asyncio.Event()).wait()

    async def let(self, *items):
        """Lets them go, and the others come up to where they wait."""
        for item in items:
            self._gates.setdefault(item, asyncio.Event()).set()
            await settled()


async def settled():
    for _ in range(20):
        await asyncio.sleep(0)


def stop_is_not_called():
    raise AssertionError("nothing was cancelled")


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(ConfigError, match=f"at least one chain must be in flight, not {limit}"):
        Admission(limit)


def test_nothing_to_admit_is_no_result():
    assert wait(Admission(2).each(Bodies(), [], stop_is_not_called)) == []


def test_results_are_in_order_whoever_ends_first():
    bodies = Bodies()

    async def run():
        all_of_them = asyncio.ensure_future(Admission(3).each(bodies, [1, 2, 3], stop_is_not_called))
        await bodies.let(3, 1, 2)
        return await all_of_them

    assert wait(run()) == [10, 20, 30]
    assert bodies.ended == [3, 1, 2]


def test_places_go_to_whoever_has_waited_longest_across_questions():
    """The second question's chains are admitted after the first one's, and as soon as any place is free."""
    bodies, admission = Bodies(), Admission(2)

    async def run():
        one = asyncio.ensure_future(admission.each(bodies, [1, 2, 3], stop_is_not_called))
        await settled()
        other = asyncio.ensure_future(admission.each(bodies, [4, 5], stop_is_not_called))
        await settled()
        seen = [list(bodies.began)]
        for item in (2, 3, 1, 4, 5):
            await bodies.let(item)
            seen.append(list(bodies.began))
        return seen, await one, await other

    seen, one, other = wait(run())
    assert seen == [[1, 2], [1, 2, 3], [1, 2, 3, 4], *[[1, 2, 3, 4, 5]] * 3]
    assert (one, other) == ([10, 20, 30], [40, 50])
    assert bodies.most == 2


def test_an_error_is_raised_when_all_have_ended():
    bodies = Bodies()

    async def run():
        all_of_them = asyncio.ensure_future(Admission(2).each(bodies, [1, "bad", 3, "worse"], stop_is_not_called))
        await bodies.let("worse", "bad", 1)
        assert not all_of_them.done()
        await bodies.let(3)
        await all_of_them

    with pytest.raises(KeyError, match="bad"):
        wait(run())
    assert sorted(map(str, bodies.ended)) == ["1", "3", "bad", "worse"]


def test_a_place_is_given_back_by_a_body_that_fails():
    bodies, admission = Bodies(), Admission(1)

    async def run():
        await bodies.let("bad", 1)
        with pytest.raises(KeyError):
            await admission.each(bodies, ["bad"], stop_is_not_called)
        return await admission.each(bodies, [1], stop_is_not_called)

    assert wait(run()) == [10]


def test_cancelled_it_says_so_and_waits_for_what_is_under_way():
    """Twice cancelled, even: what is under way may take a while to end."""
    bodies, stopped = Bodies(), []

    async def run():
        all_of_them = asyncio.ensure_future(Admission(2).each(bodies, [1, 2], lambda: stopped.append(True)))
        await settled()
        for _ in range(2):
            all_of_them.cancel()
            await settled()
            assert not all_of_them.done()
        await bodies.let(1)
        assert not all_of_them.done()
        await bodies.let(2)
        await settled()
        assert all_of_them.cancelled()

    wait(run())
    assert stopped == [True]
    assert bodies.ended == [1, 2]


def test_what_a_cancelled_body_raises_is_not_reported_as_forgotten():
    bodies, forgotten = Bodies(), []

    async def run():
        running = asyncio.get_running_loop()
        before = running.get_exception_handler()
        running.set_exception_handler(lambda _, context: forgotten.append(context))
        try:
            all_of_them = asyncio.ensure_future(Admission(2).each(bodies, ["bad", "worse"], lambda: None))
            await settled()
            all_of_them.cancel()
            await bodies.let("bad", "worse")
            await settled()
            assert all_of_them.cancelled()
            del all_of_them
        finally:
            running.set_exception_handler(before)

    wait(run())
    assert forgotten == []


def test_a_body_may_run_others_in_places_of_their_own():
    """A place is not held twice by whoever asks from within one, so long as there are enough."""
    admission = Admission(2)

    def inner(item):
        return 10 * item

    def outer(item):
        return sum(wait(admission.each(inner, [item, item + 1], stop_is_not_called)))

    assert submit(admission.each(outer, [1], stop_is_not_called)).result(60) == [30]


def test_what_is_stopped_waits_for_no_place():
    bodies, admission, scopes = Bodies(), Admission(1), {item: Scope() for item in (1, 2, 3)}

    async def scenario():
        all_of_them = asyncio.ensure_future(admission.each(bodies, [1, 2, 3], stop_is_not_called, scopes.get))
        await settled()
        assert bodies.began == [1]
        scopes[2].stop()
        await settled()
        assert bodies.began == [1, 2]  # to see that it can do nothing
        await bodies.let(2)
        assert bodies.began == [1, 2]  # it had no place to give back
        await bodies.let(1, 3)
        return await all_of_them

    assert submit(scenario()).result(60) == [10, 20, 30]
