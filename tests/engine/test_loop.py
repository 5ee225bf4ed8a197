"""The event loop, and code without ``await`` on it."""

import asyncio
import concurrent.futures
import contextvars
import gc
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from a1_sgl.engine import loop
from a1_sgl.engine.loop import aside, elsewhere, on_loop, stack, submit, wait

LONG = 30.0
"""Seconds after which a test gives up; nothing is expected to take nearly as long."""
where = contextvars.ContextVar("where", default="nowhere")


async def give(value, seconds=0.0):
    await asyncio.sleep(seconds)
    return value


async def fail(error):
    await asyncio.sleep(0)
    raise error


def until(reached):
    """Waits until `reached`."""
    last = time.monotonic() + LONG
    while not reached():
        assert time.monotonic() < last, "it never came to that"
        time.sleep(0.005)


class Endless:
    """A coroutine that only a cancellation ends, and what has become of it."""

    def __init__(self):
        self.begun, self.ended = threading.Event(), threading.Event()

    async def run(self):
        self.begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.02)
            self.ended.set()


# --- waiting --------------------------------------------------------------------------------------------------


def test_waiting_from_a_plain_thread():
    assert not on_loop()
    assert wait(give(3)) == 3
    with pytest.raises(KeyError, match="gone"):
        wait(fail(KeyError("gone")))
    with pytest.raises(TimeoutError):  # the coroutine's own
        wait(fail(TimeoutError()))


def test_waiting_from_a_stack():
    def body(one, *, other):
        assert on_loop()
        first = wait(give(one))
        with pytest.raises(KeyError):
            wait(fail(KeyError()))
        return first + wait(give(other))

    assert wait(stack(body, 1, other=2)) == 3


def test_what_a_stack_raises():
    def body():
        wait(give(1))
        raise ValueError("so")

    with pytest.raises(ValueError, match="so"):
        wait(stack(body))


def test_a_stack_in_a_stack():
    def inner(depth):
        return wait(stack(inner, depth - 1)) + 1 if depth else wait(give(0))

    assert wait(stack(inner, 20)) == 20


def test_a_coroutine_of_the_loop_must_await():
    async def wrong():
        return wait(give(1))

    async def wrong_too():
        return aside(len, "abc")

    for one in (wrong, wrong_too):
        with pytest.raises(RuntimeError, match="await the coroutine"):
            wait(one())


def test_an_interrupt_cancels_and_is_raised_when_that_has_ended():
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals go to the main thread")
    work, main = Endless(), threading.get_ident()

    def interrupt():
        work.begun.wait(LONG)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        wait(work.run())
    assert work.ended.is_set()
    thread.join()


def test_an_interrupt_that_wakes_nobody_is_seen():
    """A signal just before a thread falls asleep is set down for it, but does not wake it."""
    script = """
        import _thread, asyncio, threading, time
        from a1_sgl.engine.loop import wait

        begun = threading.Event()

        async def endless():
            begun.set()
            await asyncio.sleep(3600)

        def interrupt():
            begun.wait()
            time.sleep(1)  # by now the main thread is asleep
            _thread.interrupt_main()

        threading.Thread(target=interrupt, daemon=True).start()
        try:
            wait(endless())
        except KeyboardInterrupt:
            print("seen")
    """
    assert _python(script) == "seen"


def test_a_second_interrupt_gives_up():
    script = """
        import asyncio, signal, threading
        from a1_sgl.engine.loop import wait

        begun, cancelled, main = threading.Event(), threading.Event(), threading.get_ident()

        async def stubborn():
            begun.set()
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    cancelled.set()

        def interrupt():
            for what in (begun, cancelled):
                what.wait()
                signal.pthread_kill(main, signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        try:
            wait(stubborn())
        except KeyboardInterrupt:
            print(cancelled.is_set())
    """
    assert _python(script) == "True"


def test_a_cancelled_task_is_done_only_when_it_has_ended():
    work = Endless()
    task = submit(work.run())
    assert work.begun.wait(LONG)
    task.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        task.result(LONG)
    assert work.ended.is_set()


def test_a_cancellation_before_the_start():
    work, held, go = Endless(), threading.Event(), threading.Event()

    async def hold():
        held.set()
        go.wait(LONG)

    holding = submit(hold())
    assert held.wait(LONG)
    task = submit(work.run())
    task.cancel()
    go.set()
    holding.result(LONG)
    with pytest.raises(concurrent.futures.CancelledError):
        task.result(LONG)
    assert not work.begun.is_set()


def test_a_stack_sees_its_cancellation():
    work, seen = Endless(), []

    def body():
        try:
            wait(work.run())
        except asyncio.CancelledError:
            seen.append("cancelled")
            seen.append(wait(give("after all")))  # it may still clear up
            raise

    task = submit(stack(body))
    assert work.begun.wait(LONG)
    task.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        task.result(LONG)
    assert seen == ["cancelled", "after all"]
    assert work.ended.is_set()


def test_a_thousand_stacks_cost_no_thread():
    before, most = threading.active_count(), 0
    together = None

    def body(number):
        nonlocal most
        wait(arrive())
        most = max(most, threading.active_count())
        return number

    arrived = 0

    async def arrive():
        nonlocal arrived
        arrived += 1
        if arrived == 1000:
            together.set()
        await together.wait()

    async def run():
        nonlocal together
        together = asyncio.Event()
        return await asyncio.gather(*(stack(body, number) for number in range(1000)))

    assert wait(run()) == list(range(1000))
    assert most <= before + 1  # the loop's own, if it was not there before


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
@pytest.mark.parametrize("on_a_stack", [False, True])
def test_what_would_end_a_thread_does_not_end_the_loop(error, on_a_stack):
    def body():
        wait(give(1))
        raise error

    other = submit(give("other", 0.05))
    with pytest.raises(type(error)):
        wait(stack(body) if on_a_stack else fail(error))
    assert other.result(LONG) == "other"
    assert wait(give("next")) == "next"


def test_a_loop_that_was_stopped_is_replaced():
    script = """
        from a1_sgl.engine import loop
        from a1_sgl.engine.loop import aside, stack, wait

        async def give(value):
            return value

        assert wait(give(1)) == 1
        thread = loop._thread
        loop._loop.call_soon_threadsafe(loop._loop.stop)
        thread.join()
        print(wait(stack(lambda: wait(give(2)) + aside(int, 1))))
    """
    assert _python(script) == "3"


def test_nothing_of_a_stack_stays():
    import weakref

    class Thing:
        pass

    kept = []

    def body():
        thing = Thing()
        kept.append(weakref.ref(thing))
        wait(give(1))
        with pytest.raises(KeyError):
            wait(fail(KeyError(thing)))

    wait(stack(body))
    wait(give(0))
    gc.collect()
    assert kept[0]() is None


# --- contexts -------------------------------------------------------------------------------------------------


def test_a_stack_runs_in_the_context_of_whoever_made_it():
    def body(mine):
        before = where.get()
        where.set(mine)
        wait(give(1, 0.001))
        return before, where.get(), aside(where.get)

    async def run():
        where.set("there")
        return await asyncio.gather(*(stack(body, number) for number in range(3))), where.get()

    found, after = wait(run())
    assert found == [("there", number, number) for number in range(3)]
    assert after == "there"
    where.set("here")
    assert wait(stack(body, 7)) == ("here", 7, 7)
    assert where.get() == "here"


def test_a_task_runs_in_the_context_of_whoever_starts_it():
    async def seen():
        return where.get()

    token = where.set("mine")
    try:
        assert submit(seen()).result(LONG) == "mine"
        assert wait(seen()) == "mine"
    finally:
        where.reset(token)


def test_a_thousand_stacks_each_in_a_context_of_its_own():
    def body(number):
        where.set(number)
        wait(give(1))
        return where.get()

    async def run():
        return await asyncio.gather(*(stack(body, number) for number in range(1000)))

    assert wait(run()) == list(range(1000))


# --- aside ----------------------------------------------------------------------------------------------------


def test_aside_lets_the_others_go_on():
    go = threading.Event()

    def blocked():
        return aside(lambda: go.wait(LONG) and not on_loop())

    def other():
        wait(give(0))
        go.set()
        return "went on"

    async def run():
        return await asyncio.gather(stack(blocked), stack(other))

    assert wait(run()) == [True, "went on"]


def test_aside_from_a_plain_thread_is_a_call():
    assert aside(threading.get_ident) == threading.get_ident()
    with pytest.raises(KeyError):
        wait(stack(lambda: aside({}.__getitem__, "none")))


def test_many_may_be_aside_and_wait_for_one_another():
    barrier = threading.Barrier(40)

    def inner():
        return aside(barrier.wait, LONG)

    def outer():  # runs something on the loop from aside, which goes aside itself
        return aside(lambda: wait(stack(inner)))

    async def run():
        return await asyncio.gather(*(stack(outer) for _ in range(40)))

    assert sorted(wait(run())) == list(range(40))


# --- a loop that is blocked -----------------------------------------------------------------------------------


def test_a_thread_that_the_loop_itself_waits_for_is_told(monkeypatch):
    monkeypatch.setattr(loop, "UNSERVED", 0.5)
    ran, found = [], []

    async def never():
        ran.append(1)

    def worker():
        try:
            wait(never())
        except RuntimeError as error:
            found.append(str(error))

    def body():  # what a program within a program does without use_thread=False
        thread = threading.Thread(target=worker)
        thread.start()
        thread.join(LONG)
        return "body"

    assert wait(stack(body)) == "body"
    assert len(found) == 1
    assert "aside(" in found[0]
    assert "use_thread=False" in found[0]
    wait(give(0))
    assert not ran  # nor later on


def test_what_has_begun_may_take_its_time(monkeypatch):
    monkeypatch.setattr(loop, "UNSERVED", 0.2)
    assert wait(give("slow", 0.6)) == "slow"


def test_an_interrupt_while_the_loop_is_blocked():
    """Nothing waits for a loop that does not even begin."""
    script = """
        import signal, threading, time
        from a1_sgl.engine.loop import submit, wait

        held = threading.Event()

        async def hold():
            held.set()
            time.sleep(3600)

        async def nothing():
            pass

        submit(hold())
        held.wait()
        main = threading.get_ident()
        threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
        try:
            wait(nothing())
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert _python(script) == "interrupted"


def _python(script):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=4 * LONG
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_child_forked_from_within_a_body_has_a_loop_of_its_own():
    script = """
        import os, threading
        from a1_sgl.engine.loop import stack, wait

        async def thread():
            return threading.get_ident()

        def body():
            child = os.fork()
            if not child:  # which must not go on with the copy of its parent's loop that it stands on
                os._exit(0 if wait(thread()) == wait(stack(lambda: wait(thread()))) != threading.get_ident() else 1)
            return os.waitpid(child, 0)[1]

        print(wait(stack(body)))
    """
    assert _python(script) == "0"


def test_a_forked_child_has_a_loop_of_its_own():
    script = """
        import os
        from a1_sgl.engine.loop import aside, stack, wait

        async def give(value):
            return value

        def body():
            return wait(give(1)) + aside(int, 2)

        assert wait(stack(body)) == 3
        child = os.fork()
        if not child:
            os._exit(0 if wait(stack(body)) == 3 else 1)
        print(os.waitpid(child, 0)[1])
    """
    assert _python(script) == "0"


# --- other loops ----------------------------------------------------------------------------------------------


def test_from_another_loop():
    async def run():
        assert not on_loop()
        with pytest.raises(KeyError):
            await elsewhere(fail(KeyError()))
        return await asyncio.gather(*(elsewhere(give(number, 0.001)) for number in range(20)))

    assert asyncio.run(run()) == list(range(20))


def test_from_the_loop_itself():
    async def run():
        return await elsewhere(give(5))

    assert wait(run()) == 5


@pytest.mark.parametrize("by", ["cancel", "timeout"])
def test_cancelled_on_another_loop_it_ends_here_first(by):
    work = Endless()

    async def run():
        if by == "timeout":
            await asyncio.wait_for(elsewhere(work.run()), 0.2)
        task = asyncio.create_task(elsewhere(work.run()))
        await asyncio.to_thread(work.begun.wait, LONG)
        task.cancel()
        await task

    with pytest.raises(TimeoutError if by == "timeout" else asyncio.CancelledError):
        asyncio.run(run())
    assert work.ended.is_set() or not work.begun.is_set()


def test_a_stack_from_another_loop_is_cancelled_there():
    work, seen = Endless(), []

    def body():
        try:
            wait(work.run())
        except asyncio.CancelledError:
            seen.append(wait(give("cleared up")))
            raise

    async def run():
        task = asyncio.create_task(elsewhere(stack(body)))
        await asyncio.to_thread(work.begun.wait, LONG)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())
    assert seen == ["cleared up"]


def test_soon_is_at_once_on_the_loop():
    seen = []

    async def run():
        loop.soon(lambda: seen.append(on_loop()))
        return list(seen)

    assert wait(run()) == [True]
    loop.soon(lambda: seen.append(on_loop()))
    until(lambda: len(seen) == 2)
    assert seen == [True, True]
