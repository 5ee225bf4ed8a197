"""The one event loop, and how code that was written without ``await`` runs on it.

All requests of a process go through one loop in one thread. A chain's program is an ordinary function: it runs on that
loop in a greenlet, a stack of its own that is put aside while a request is under way. A thousand chains in flight so
cost a thousand small stacks and no thread, nothing is handed from thread to thread, and nothing needs a lock.

What runs there must not block: `aside` runs a blocking function in a thread and lets the other chains go on.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, cast

from greenlet import getcurrent, greenlet

T = TypeVar("T")
P = ParamSpec("P")

UNSERVED = 30.0
"""Seconds after which a thread no longer waits for a loop that does not even begin with what it asks for."""
AWAKE = 0.5
"""Seconds that a thread sleeps at a time: a signal that comes just before it falls asleep is seen when it wakes."""

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


class _Stack(greenlet):  # type: ignore[misc]
    """A function's stack on the loop; its parent is the loop's own."""


def loop() -> asyncio.AbstractEventLoop:
    """The loop, started when it is first asked for."""
    global _loop, _thread
    with _lock:
        if _loop is None or _thread is None or not _thread.is_alive():
            try:  # comes with SGLang; half the cost of a call is the loop's
                import uvloop

                _loop = uvloop.new_event_loop()
            except ImportError:
                _loop = asyncio.new_event_loop()
            # A daemon, so that a process that is done does not wait for it; sessions end in their own `close`.
            _thread = threading.Thread(target=_run, args=(_loop,), name="a1-sgl loop", daemon=True)
            _thread.start()
        return _loop


def _run(running: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(running)
    while True:
        try:
            return running.run_forever()
        except (SystemExit, KeyboardInterrupt):
            # Raised by something that runs there, it reaches whoever waits for that; the loop goes on for the others.
            pass


def _forked() -> None:
    """A child has its parent's memory and none of its threads: it starts a loop of its own."""
    global _lock, _loop, _thread, _threads
    _lock, _loop, _thread, _threads = threading.Lock(), None, None, _executor()


def on_loop() -> bool:
    """Whether this code runs in the loop's thread."""
    return threading.current_thread() is _thread


def soon(function: Callable[[], None]) -> None:
    """Has the loop call `function`, from any thread; at once where this is the loop's."""
    if on_loop():
        function()
    elif _loop is not None:
        _loop.call_soon_threadsafe(function)


def wait(awaitable: Coroutine[Any, Any, T]) -> T:
    """The result of `awaitable`, from code without ``await``: a chain's stack is put aside, another thread waits.

    A KeyboardInterrupt, or whatever else interrupts a waiting thread, cancels it and is raised when it has ended.

    Raises:
        RuntimeError: called by a coroutine of the loop, which should await instead; or something blocks the loop, such
            as a chain's body that waits for the very thread that calls this.
    """
    current = getcurrent()
    if isinstance(current, _Stack) and on_loop():  # not in a process that was forked from within a chain's body
        assert current.parent is not None
        return cast(T, current.parent.switch(awaitable))
    if on_loop():
        awaitable.close()
        raise RuntimeError("this is the event loop's own thread; await the coroutine, or call from a program's body")
    future = submit(awaitable)
    try:
        _begun(future)
        ended(future)
        return future.result()
    except BaseException:
        if not future.done():
            future.cancel()
            if future.running():  # what has not begun by now never will
                ended(future)
        raise


def _begun(future: concurrent.futures.Future[Any]) -> None:
    """Waits until the loop has begun with it."""
    for _ in range(30):  # in parts, so that a process that was put to sleep is not taken for one that is stuck
        if concurrent.futures.wait([future], UNSERVED / 30).done or future.running():
            return
    raise RuntimeError(
        f"the event loop has not run for {UNSERVED:g} s: a chain's body, a gate or a listener blocks it, and may be "
        "waiting for this very thread; run what blocks with a1_sgl.engine.aside(function, ...), and an SGLang function "
        "within a body with use_thread=False"
    )


def submit(awaitable: Coroutine[Any, Any, T]) -> Task[T]:
    """Starts `awaitable` on the loop, from any thread."""
    return Task(awaitable)


class Task(concurrent.futures.Future[T]):
    """Something that runs on the loop. Unlike asyncio's bridge, it is done only when what it runs has ended."""

    def __init__(self, awaitable: Coroutine[Any, Any, T]) -> None:
        super().__init__()
        self._task: asyncio.Task[T] | None = None
        self._cancelled = False
        context = contextvars.copy_context()
        running = loop()

        def start() -> None:
            self.set_running_or_notify_cancel()
            self._task = running.create_task(awaitable, context=context)
            self._task.add_done_callback(self._finish)
            if self._cancelled:
                self._task.cancel()

        if on_loop():
            start()
        else:
            running.call_soon_threadsafe(start)

    def cancel(self) -> bool:
        """Cancels what runs; it may take a while to end, and so this is done later."""
        self._cancelled = True
        soon(self._cancel)
        return True

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _finish(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.set_exception(concurrent.futures.CancelledError())
        elif (error := task.exception()) is not None:
            self.set_exception(error)
        else:
            self.set_result(task.result())


def ended(future: concurrent.futures.Future[Any]) -> None:
    """Waits for it to end, whatever becomes of it; an interrupt gives up waiting."""
    while not concurrent.futures.wait([future], AWAKE).done:
        pass


def stack(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
    """A coroutine for the loop that runs `function`, which waits with `wait`, in the context of whoever calls this."""
    return _on_stack(contextvars.copy_context(), lambda: function(*args, **kwargs))


async def _on_stack(context: contextvars.Context, function: Callable[[], T]) -> T:
    current = _Stack(function, getcurrent())
    current.gr_context = context
    result = current.switch()
    while not current.dead:
        try:
            value = await cast(Awaitable[Any], result)
        except BaseException:  # a cancellation too is for the function to see
            result = current.throw(*sys.exc_info())
        else:
            result = current.switch(value)
    return cast(T, result)


async def elsewhere(awaitable: Coroutine[Any, Any, T]) -> T:
    """Awaits what must run on the loop, from any event loop; cancelled, it cancels that and waits for its end."""
    if on_loop():
        return await awaitable
    task = submit(awaitable)
    ended = asyncio.wrap_future(task)
    try:
        return await asyncio.shield(ended)
    except asyncio.CancelledError:
        if not ended.done():
            task.cancel()
            await asyncio.wait([ended])
            ended.cancelled() or ended.exception()
        raise


def aside(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a function that blocks in a thread, so that chains go on meanwhile; for bodies, gates and listeners."""
    if not on_loop():
        return function(*args, **kwargs)
    context = contextvars.copy_context()
    return wait(_aside(lambda: context.run(function, *args, **kwargs)))


async def _aside(function: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(_threads, function)


def _executor() -> concurrent.futures.ThreadPoolExecutor:
    # As many threads as chains are aside: what waits there may be for another that wants to be.
    return concurrent.futures.ThreadPoolExecutor(1 << 16, thread_name_prefix="a1-sgl aside")


_threads = _executor()
os.register_at_fork(after_in_child=_forked)
