"""Scopes: what stops, and what that stops."""

import threading

import pytest

from a1_sgl.engine.loop import on_loop, wait
from a1_sgl.engine.scope import Scope
from a1_sgl.errors import ChainAborted


async def _settled():
    """Everything that was handed to the loop before has been done."""


@pytest.fixture(autouse=True)
def _running():
    """Before there is a loop nothing is under way, and stopping aborts nothing."""
    wait(_settled())


class Work:
    def __init__(self):
        self.aborts = []

    def abort(self):
        self.aborts.append(on_loop())


def test_stopping_aborts_what_is_under_way_on_the_loop():
    scope, work, over = Scope(), Work(), Work()
    scope.enter(work.abort)
    scope.leave(scope.enter(over.abort))
    scope.stop()
    wait(_settled())
    assert (work.aborts, over.aborts) == ([True], [])


def test_a_stopped_scope_takes_no_more():
    scope, work = Scope(), Work()
    assert not scope.stopped
    scope.check()
    scope.stop()
    assert scope.stopped
    with pytest.raises(ChainAborted):
        scope.check()
    with pytest.raises(ChainAborted):
        scope.enter(work.abort)
    wait(_settled())
    assert work.aborts == []


def test_what_stops_a_scope_stops_those_within_and_no_other():
    backend = Scope()
    question, other = Scope(backend), Scope(backend)
    chain, sibling = Scope(question), Scope(question)
    works = {scope: Work() for scope in (backend, question, other, chain, sibling)}
    for scope, work in works.items():
        scope.enter(work.abort)
    chain.stop()
    wait(_settled())
    assert [scope.stopped for scope in works] == [False, False, False, True, False]
    assert [bool(work.aborts) for work in works.values()] == [False, False, False, True, False]
    question.stop()
    wait(_settled())
    assert [scope.stopped for scope in works] == [False, True, False, True, True]
    assert [bool(work.aborts) for work in works.values()] == [False, True, False, True, True]
    assert Scope(chain).stopped


def test_a_scope_within_two_is_stopped_by_either():
    for which in (0, 1):
        around = Scope(), Scope()
        both, work = Scope(*around), Work()
        both.enter(work.abort)
        around[which].stop()
        wait(_settled())
        assert both.stopped
        assert work.aborts == [True]


def test_leaving_leaves_all_scopes_around():
    outer = Scope()
    inner, work = Scope(outer), Work()
    handle = inner.enter(work.abort)
    inner.leave(handle)
    inner.leave(handle)  # twice is once
    outer.stop()
    inner.stop()
    wait(_settled())
    assert work.aborts == []


def test_two_entries_of_one_function_are_two():
    scope, work = Scope(), Work()
    first, second = scope.enter(work.abort), scope.enter(work.abort)
    assert first != second
    scope.leave(first)
    scope.stop()
    wait(_settled())
    assert work.aborts == [True]


def test_leaving_twice_leaves_alone_what_came_meanwhile():
    scope, seen = Scope(), []

    def abort():
        seen.append(1)

    first = scope.enter(abort)
    scope.leave(first)
    second = scope.enter(abort)  # the very same function
    third = scope.enter(abort)
    scope.leave(first)
    scope.leave(third)
    assert len({first, second, third}) == 3
    scope.stop()
    wait(_settled())
    assert seen == [1]


def test_an_abort_may_leave_the_scope():
    scope, seen = Scope(), []
    handles = []

    def abort():
        seen.append(1)
        for handle in handles:
            scope.leave(handle)

    handles += [scope.enter(abort), scope.enter(lambda: abort())]
    scope.stop()
    wait(_settled())
    assert seen
    scope.stop()
    wait(_settled())
    assert len(seen) <= 2


def test_stopping_from_many_threads():
    scope, work = Scope(), Work()
    scope.enter(work.abort)
    threads = [threading.Thread(target=scope.stop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait(_settled())
    assert scope.stopped
    assert all(work.aborts)
    assert work.aborts


def test_stopping_on_the_loop_is_at_once():
    async def run():
        scope, work = Scope(), Work()
        scope.enter(work.abort)
        scope.stop()
        return work.aborts

    assert wait(run()) == [True]
