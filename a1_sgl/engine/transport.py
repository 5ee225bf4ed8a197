"""HTTP to one runtime: retries, a circuit, a limit that adapts, and aborts that arrive.

What fails in passing loses nothing and slows the run down:

- a runtime that cannot be reached opens the circuit: requests wait, one probe asks whether it is back;
- 429 and 503 are waited out, as long as ``Retry-After`` says where it does, and lower the limit of requests in flight;
- a cut connection, silence, a server error or an unusable answer is repeated under a fresh request id with growing
  pauses, the old one being aborted; silence lowers the limit too, since who has too much to do says nothing either,
  and what is repeated then comes in pieces.

`Settings.patience` bounds the waiting for a runtime, `Settings.attempts` how often one request may be answered badly.
"""

from __future__ import annotations

import asyncio
import atexit
import errno
import itertools
import logging
import math
import os
import random
import re
import resource
import ssl
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import aiohttp
import orjson
from aiohttp.abc import AbstractStreamWriter
from pydantic import SecretStr
from yarl import URL

from a1_sgl.engine import gateway
from a1_sgl.engine.answers import Unusable, json, refused, said
from a1_sgl.engine.gateway import Worker
from a1_sgl.engine.loop import loop, submit
from a1_sgl.engine.pace import Pace
from a1_sgl.engine.protocol import NOWHERE, Ids, Load, Route
from a1_sgl.engine.scope import Scope
from a1_sgl.errors import ChainAborted, ConfigError, RuntimeFault

log = logging.getLogger(__name__)
T = TypeVar("T")
Payload = Mapping[str, Any]

_BUSY = (429, 503)
_BROKEN = (408, 500, 504)
_RESENT = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0)
"""Pauses, in seconds, between aborts of one request: one that is not registered yet is ignored without a word."""
_number = itertools.count()
_process = f"{random.SystemRandom().getrandbits(48):012x}"


@dataclass(frozen=True)
class Settings:
    """How to speak to a runtime.

    Attributes:
        silence: seconds without a sign of life after which a request is repeated; each piece of a stream is one.
        patience: seconds for which a runtime that is down or refuses is waited for before its requests fail.
        attempts: how often a request may be answered badly.
        in_flight: most requests in flight; lowered while the runtime refuses some.
        api_key: sent as a bearer token; never shown.
        verify: False, or a file of certificates, for TLS that the system's own do not vouch for.
        pause, longest_pause: seconds before the first repetition and the longest before any.
    """

    silence: float = 180.0
    patience: float = 300.0
    attempts: int = 12
    in_flight: int = 1024
    api_key: SecretStr | None = None
    verify: bool | str = True
    pause: float = 0.05
    longest_pause: float = 2.0

    def __post_init__(self) -> None:
        for name in ("silence", "patience", "attempts", "in_flight"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}")


class _Passing(Exception):
    """A failure that may pass. `bad` counts against `Settings.attempts`, anything else against the patience alone."""

    def __init__(self, message: str, *, bad: bool, after: float | None = None) -> None:
        super().__init__(message)
        self.bad, self.after = bad, after


class _Told(Exception):
    """A stream that tells of an error in place of an answer."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status, self.body = status, body


class Limit:
    """At most so many requests in flight: halved when the runtime refuses one or says nothing to it, and one more for
    each round of answers.

    First come, first served.
    """

    def __init__(self, most: int) -> None:
        self.most, self.now, self.busy = most, float(most), 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._lowered = 0.0

    async def acquire(self, flight: _Flight) -> None:
        """Waits for a place.

        Raises:
            ChainAborted: the flight was stopped meanwhile.
        """
        if self.busy < int(self.now) and not self._queue:
            self.busy += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            await flight.until(place)
        except BaseException:
            if place.done() and not place.cancelled():
                self.release()
            else:
                place.cancel()
            raise

    def release(self) -> None:
        """Gives the place to the next."""
        self.busy -= 1
        self._admit()

    def answered(self) -> None:
        """The runtime copes."""
        if self.now < self.most:
            self.now = min(self.most, self.now + 1 / self.now)
            self._admit()

    def refused(self, within: float = 1.0) -> None:
        """The runtime, or this machine, does not; what else was refused `within` these seconds is the same refusal."""
        if (now := time.monotonic()) - self._lowered > within:
            self.now, self._lowered = max(1.0, min(self.now, self.busy) / 2), now

    def _admit(self) -> None:
        while self._queue and self.busy < int(self.now):
            place = self._queue.popleft()
            if not place.done():
                self.busy += 1
                place.set_result(None)


class _Flight:
    """A request from its first attempt to its last, as far as stopping it is concerned."""

    __slots__ = ("_transport", "_waiting", "abandoned", "headers", "rid", "stopped", "task")

    def __init__(self, transport: Transport, route: Route) -> None:
        self._transport, self.headers = transport, gateway.affinity(route)
        self.rid: str | None = None
        self.stopped = self.abandoned = False
        self.task: asyncio.Task[Any] | None = None
        self._waiting: asyncio.Future[Any] | None = None

    def stop(self) -> None:
        """Ends it: what waits stops waiting, what was sent is aborted."""
        if self.stopped:
            return
        self.stopped = True
        if self._waiting is not None:
            self._waiting.cancel()
        if self.rid is not None:
            self._transport.background(self._abort(self.rid))

    async def until(self, waiting: asyncio.Future[Any]) -> None:
        """Waits for `waiting`, or until it is stopped."""
        self.check()
        self._waiting = waiting
        try:
            await waiting
        except asyncio.CancelledError:
            self.check()
            raise
        finally:
            self._waiting = None

    async def pause(self, seconds: float) -> None:
        """Waits so long, or until it is stopped."""
        future = asyncio.get_running_loop().create_future()
        handle = asyncio.get_running_loop().call_later(seconds, _settle, future)
        try:
            await self.until(future)
        finally:
            handle.cancel()

    def check(self) -> None:
        """Raises ChainAborted if it was stopped."""
        if self.stopped:
            raise ChainAborted(f"{self._transport}: stopped")

    async def _abort(self, rid: str) -> None:
        """Aborts until the request is over; if that does not help, lets go of its connection, which ends it too."""
        for pause in _RESENT:
            if not await self._transport.abort(rid):
                break
            await asyncio.sleep(pause)
            if self.rid != rid:
                return
        if self.rid == rid:
            self.abandon()

    def abandon(self) -> None:
        """Lets go of its connection, if it has one."""
        if self.task is not None and not self.abandoned:
            self.abandoned = True
            self.task.cancel()


class _Down:
    """An open circuit: why it was opened, and whether the runtime has not come back when it is over."""

    def __init__(self, error: Exception) -> None:
        self.error, self.over, self.for_good = error, asyncio.Event(), False


class Transport:
    """Requests to one runtime. All coroutines run on the event loop."""

    def __init__(self, url: str, name: str, settings: Settings) -> None:
        """
        Raises:
            ConfigError: a URL that is none.
        """
        try:
            parsed = URL(url) if url.startswith(("http://", "https://")) else URL()
        except ValueError:  # a port that is no number, say
            parsed = URL()
        if not parsed.host:
            raise ConfigError(f"{name} runtime: {url!r} is not a URL; it must look like http://127.0.0.1:30000")
        if parsed.user is not None or parsed.password is not None:  # not shown: it may be a password
            raise ConfigError(f"{name} runtime: a URL must not hold a user or a password; give an API key instead")
        self.url, self.name, self.settings = url.rstrip("/"), name, settings
        self._tls = _tls(settings.verify)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            with suppress(ValueError, OSError):  # some systems say "no limit" and mean another
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        files = hard if hard != resource.RLIM_INFINITY else 1 << 20
        self.limit = Limit(max(1, min(settings.in_flight, (files - 128) // 2)))  # a pair shares the files
        self.pace = Pace(settings.silence)
        self._session: aiohttp.ClientSession | None = None
        self._down: _Down | None = None  # while the circuit is open
        self._probing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._flights: set[_Flight] = set()
        self._workers: asyncio.Task[list[Worker] | None] | None = (
            None  # what is behind a gateway, and when it was asked
        )
        self._asked = 0.0
        self._closed = False

    def __str__(self) -> str:
        return f"{self.name} runtime {self.url}"

    @property
    def available(self) -> bool:
        """False while the circuit is open."""
        return self._down is None

    @property
    def load(self) -> Load:
        """What is under way and what waits."""
        busy = self.limit.busy
        return Load(busy, max(0, len(self._flights) - busy), int(self.limit.now))

    # --- requests ---------------------------------------------------------------------------------------------

    async def get(self, path: str, at: str | None = None) -> Any:
        """What the runtime answers to a question about itself, as JSON. Not repeated.

        Args:
            at: the worker to ask, where this is a gateway; None asks the runtime itself.

        Raises:
            RuntimeFault: it cannot be reached, or answers with an error or something that is not JSON.
        """
        return await self._plain("GET", path, at)

    async def post(self, path: str) -> Any:
        """Like `get`, of a command."""
        return await self._plain("POST", path)

    async def call(
        self, payload: Payload | Callable[[], Payload], scope: Scope, read: Callable[[bytes], T], route: Route = NOWHERE
    ) -> tuple[T, float]:
        """Posts to ``/generate`` and reads the answer; returns it and when the attempt that was answered began.

        Of an answer in pieces, each of which is a sign of life, the last is read.

        Args:
            payload: the request, or what makes it for each attempt.
            read: makes something of the answer; raises `Unusable` where it cannot.
            route: what the request shares a prefix with, for a gateway to know.

        Raises:
            RuntimeFault: the runtime refused, or did no better for as long as `Settings` allows.
            ChainAborted: the scope was stopped; `spent` is empty: an aborted request that was answered returns it.
        """
        with self._flight(scope, route) as flight:
            return await self._repeat(flight, payload, _last, read)

    async def pieces(
        self, payload: Mapping[str, Any], scope: Scope, route: Route = NOWHERE
    ) -> AsyncGenerator[bytes, None]:
        """The pieces of a streamed answer as they come; errors as in `call`. Once begun, a stream is not repeated."""
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        begun = False

        async def last(response: aiohttp.ClientResponse) -> bytes:
            nonlocal begun
            found = b""
            async with aclosing(_data(response)) as data:
                async for piece in data:
                    found, begun = piece, True
                    queue.put_nowait(piece)
            return found

        async def fill(flight: _Flight) -> None:
            try:
                again = lambda: not begun  # noqa: E731
                await self._repeat(flight, {**payload, "stream": True}, last, lambda body: body, again)
            finally:
                queue.put_nowait(None)

        with self._flight(scope, route) as flight:
            filling = asyncio.ensure_future(fill(flight))
            try:
                while (piece := await queue.get()) is not None:
                    yield piece
                await filling
            finally:
                if not filling.done():  # nobody listens any more
                    flight.stop()
                    await asyncio.wait([filling])
                filling.cancelled() or filling.exception()

    async def abort(self, rid: str) -> bool:
        """Tells the runtime to stop a request; False where there is nobody to tell, or nobody who listens.

        SGLang's gateway does not pass aborts on, so that its workers are told, all of them: which one has the request
        the gateway alone knows.
        """
        try:
            if await self._tell(self.url, rid) != 404:
                return True  # a runtime that refuses is there, and may do better next time
        except TimeoutError:
            return False
        except (aiohttp.ClientError, OSError):
            return self.available
        workers = await self.workers()
        told = await asyncio.gather(*(self._tell(one.url, rid) for one in workers), return_exceptions=True)
        return any(status == 200 for status in told)

    def background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs `work` beside everything else; `close` waits for it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Aborts requests under way and gives connections back."""
        self._closed = True
        if self._probing is not None:
            self._probing.cancel()
        for flight in list(self._flights):
            flight.stop()
        last = time.monotonic() + 5.0
        while (self._flights or self._tasks) and time.monotonic() < last:
            await asyncio.sleep(0.01)
        for flight in list(self._flights):  # it does not listen
            flight.abandon()
        for task in list(self._tasks):
            task.cancel()
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        if self._session is not None:
            await self._session.close()
            self._session = None

    def forked(self) -> None:
        """In a fork: what is under way is the parent's, and so are its connections."""
        _parents.append((self._session, self._down, self._probing, self._tasks, self._flights, self._workers))
        self._session = self._down = self._probing = self._workers = None
        self._tasks, self._flights, self.limit = set(), set(), Limit(self.limit.most)

    # --- inside -----------------------------------------------------------------------------------------------

    @property
    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._check_open()
            key = self.settings.api_key
            self._session = aiohttp.ClientSession(
                # SGLang closes a connection that was idle for five seconds; giving it up earlier avoids the race.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3.0, ssl=self._tls, loop=loop()),
                headers={"Authorization": f"Bearer {key.get_secret_value()}"} if key else {},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=self.settings.silence),
                read_bufsize=1 << 20,
            )
            _open.add(self)
        return self._session

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeFault(f"{self}: its connections were closed")

    @contextmanager
    def _flight(self, scope: Scope, route: Route) -> Iterator[_Flight]:
        """A flight that `scope` stops, and `close` too."""
        self._check_open()
        flight = _Flight(self, route)
        handle = scope.enter(flight.stop)
        self._flights.add(flight)
        try:
            yield flight
        finally:
            self._flights.discard(flight)
            scope.leave(handle)

    async def _repeat(
        self,
        flight: _Flight,
        payload: Payload | Callable[[], Payload],
        body_of: Callable[[aiohttp.ClientResponse], Any],
        read: Callable[[bytes], T],
        again: Callable[[], bool] = lambda: True,
    ) -> tuple[T, float]:
        bad = tries = 0
        failing: float | None = None
        while True:
            flight.check()
            if self._down is not None:
                await self._back(flight, self._down)
            queued = time.monotonic()
            await self.limit.acquire(flight)
            if failing is not None:  # others' turns are no waiting for the runtime
                failing += time.monotonic() - queued
            started = time.time()
            try:
                flight.check()  # a place that was given and a stop may come together
                found = read(await self._send(flight, payload() if callable(payload) else payload, body_of))
                self.limit.answered()
                return found, started
            except Unusable as error:
                failure = _Passing(f"{self}: {error}", bad=True)
            except _Passing as error:
                failure = error
            finally:
                self.limit.release()
            flight.check()
            now = time.monotonic()
            failing = now if failing is None else failing
            bad, tries = bad + failure.bad, tries + 1
            left = self.settings.patience - (now - failing)
            if bad >= self.settings.attempts or left < 0 or not again():
                raise RuntimeFault(str(failure)) from failure.__cause__
            pause = min(self.settings.longest_pause, self.settings.pause * 2 ** min(tries - 1, 10))
            pause *= random.uniform(0.5, 1.0)
            await flight.pause(min(max(pause, failure.after or 0.0), left))

    async def _send(
        self, flight: _Flight, payload: Mapping[str, Any], body_of: Callable[[aiohttp.ClientResponse], Any]
    ) -> bytes:
        """One attempt."""
        rid = f"a1-{_process}-{next(_number)}"
        flight.rid, flight.task = rid, asyncio.current_task()
        answered = False
        try:
            async with asyncio.timeout(self.settings.silence):  # of a runtime that does not even take the request, too
                response = await self._client.post(
                    f"{self.url}/generate",
                    data=_Body({**payload, "rid": rid}),
                    headers=flight.headers,
                    allow_redirects=False,
                )
            async with response:
                if response.status == 200:
                    found: bytes = await body_of(response)
                    answered = True
                    return found
                refusal = await response.read()
            answered = True
            raise self._refused(response.status, refusal, response.headers)
        except _Told as told:
            answered = True
            raise self._refused(told.status, told.body, {}) from None
        except asyncio.CancelledError:
            if flight.abandoned and (task := asyncio.current_task()) is not None:
                task.uncancel()
                answered = True
                raise ChainAborted(f"{self}: stopped") from None
            raise
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            answered = True
            if _errno(error) in (errno.EMFILE, errno.ENFILE):
                self.limit.refused()
                raise _Passing(f"{self}: this machine has no more open files ({_plainly(error)})", bad=False) from error
            if _untrusted(error):
                raise RuntimeFault(f"{self}: {_plainly(error)}; {_TRUST}") from error
            self._lost(error)
            raise _Passing(f"{self}: /generate failed ({_plainly(error)}); is the runtime up?", bad=False) from error
        except TimeoutError as error:
            self.limit.refused(self.settings.silence)
            self.pace.silent()
            raise _Passing(f"{self}: /generate gave no answer within {self.settings.silence:g} s", bad=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Passing(f"{self}: /generate failed ({_named(error)}); is the runtime up?", bad=False) from _cause(
                error
            )
        finally:
            flight.rid = flight.task = None
            if not answered and self._session is not None:  # it may still run there
                self.background(self._forget(rid))

    async def _forget(self, rid: str) -> None:
        await self.abort(rid)
        await asyncio.sleep(0.5)
        await self.abort(rid)

    def _refused(self, status: int, body: bytes, headers: Mapping[str, str]) -> Exception:
        text, code = f"{self}: /generate answered {status}: {said(body)}", headers.get(gateway.ERROR, "")
        if code == gateway.NO_WORKERS:  # none that works is no reason to send fewer later
            return _Passing(text, bad=False)
        if status in _BUSY:
            self.limit.refused()
            return _Passing(text, bad=False, after=_after(headers.get("Retry-After")))
        if status == 502 or code.startswith("call_upstream"):
            return _Passing(text, bad=False)  # a gateway's word for a cut connection
        if status in _BROKEN:
            return _Passing(text, bad=True)
        if 300 <= status < 400:
            return RuntimeFault(f"{self}: /generate is at {headers.get('Location')}; give that address")
        if status in (401, 403):
            return RuntimeFault(f"{text}; it wants another API key")
        return RuntimeFault(text)

    async def _plain(self, method: str, path: str, at: str | None = None) -> Any:
        failure: Exception | None = None
        try:
            async with self._client.request(method, f"{at or self.url}{path}", timeout=_PLAIN) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failure = error
        if failure is not None:  # raised here, so that it does not carry along what `_cause` leaves out
            fix = _TRUST if _untrusted(failure) else "is the runtime up?"
            raise RuntimeFault(f"{self}: {path} failed ({_named(failure)}); {fix}") from _cause(failure)
        if response.status != 200:
            raise RuntimeFault(f"{self}: {path} answered {response.status}: {said(body)}")
        try:
            return json(body) if body.lstrip()[:1] in (b"{", b"[") or method == "GET" else body
        except Unusable as error:
            raise RuntimeFault(f"{self}: {path} gave {error}") from error

    # --- the circuit ------------------------------------------------------------------------------------------

    def _lost(self, error: Exception) -> None:
        """Opens the circuit: the runtime cannot be reached."""
        if self._down is None:
            log.warning("%s is down; its requests wait up to %g s for it", self, self.settings.patience)
            self._down = _Down(error)
            self._probing = self.background(self._probe(self._down))

    async def _probe(self, down: _Down) -> None:
        """Asks now and then whether the runtime is back, and closes the circuit; in the end in any case."""
        pause, since = self.settings.pause, time.monotonic()
        try:
            while time.monotonic() - since < self.settings.patience:
                await asyncio.sleep(pause)
                try:
                    async with self._client.get(f"{self.url}/health", timeout=_SHORT) as response:
                        if response.status != 503:  # which is what a runtime says that still loads its model
                            log.warning("%s is back after %.1f s", self, time.monotonic() - since)
                            return
                except (aiohttp.ClientError, TimeoutError, OSError):
                    pass
                pause = min(self.settings.longest_pause, 1.5 * pause)
            down.for_good = True
        finally:
            self._down = None
            down.over.set()

    async def _back(self, flight: _Flight, down: _Down) -> None:
        """Waits until the circuit is closed.

        Raises:
            RuntimeFault: the runtime did not come back.
        """
        waiting = asyncio.ensure_future(down.over.wait())
        try:
            await flight.until(waiting)
        finally:
            waiting.cancel()
        if down.for_good:
            raise RuntimeFault(
                f"{self}: not reached for {self.settings.patience:g} s ({_plainly(down.error)}); is the runtime up?"
            ) from down.error

    # --- behind a gateway -------------------------------------------------------------------------------------

    async def workers(self) -> list[Worker]:
        """A gateway's workers, none where this is no gateway; asked for once in ten seconds at most."""
        now = time.monotonic()
        if self._workers is None or now - self._asked > _KNOWN:
            self._asked, self._workers = now, self.background(self._listed())
        found = await asyncio.shield(self._workers)
        if found is None:  # it could not say, so that the next one asks again
            self._workers = None
        return found or []

    async def _listed(self) -> list[Worker] | None:
        for path in ("/workers", "/list_workers"):
            try:
                return gateway.listed(await self._plain("GET", path))
            except RuntimeFault:
                continue
        return None

    async def _tell(self, url: str, rid: str) -> int:
        """Aborts a request there; the status of the answer."""
        async with self._client.post(f"{url}/abort_request", json={"rid": rid}, timeout=_SHORT) as response:
            return response.status


class _Body(aiohttp.BytesPayload):
    """A request in JSON, let go of when it is sent: while a long prompt waits, it would weigh more than the chain."""

    def __init__(self, payload: Mapping[str, Any]) -> None:
        body = orjson.dumps({**payload, "input_ids": orjson.Fragment(_listed(payload["input_ids"]))})
        super().__init__(body, content_type="application/json")

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        value, self._value, self._consumed = self._value, b"", True
        await writer.write(value)


def _listed(ids: Ids) -> bytes:
    """Ids in JSON, in stretches: for an array orjson reserves ten times the memory, which tears holes in the heap."""
    stretches = [ids[i : i + 1024] for i in range(0, len(ids), 1024)]
    return b"[%s]" % b",".join([orjson.dumps(one, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1] for one in stretches])


_KNOWN = 10.0
"""Seconds for which a gateway's list of workers is good."""
_SHORT = aiohttp.ClientTimeout(total=5.0, sock_connect=2.0)
_PLAIN = aiohttp.ClientTimeout(total=30.0, sock_connect=10.0)
_TRUST = "see the option for certificates, or is it http://?"


def _tls(verify: bool | str) -> ssl.SSLContext | bool:
    if isinstance(verify, bool):
        return verify
    try:
        return ssl.create_default_context(cafile=verify)
    except OSError as error:  # an SSLError too, of a file that holds none
        raise ConfigError(f"the certificates in {verify} cannot be used ({error}); it must be a PEM file") from error


def _untrusted(error: Exception) -> bool:
    """Whether a connection failed for good, over TLS; not when it was cut in the middle of the handshake."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return True
    cut = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
    return isinstance(error, aiohttp.ClientConnectorSSLError) and not isinstance(error.os_error, cut)


def _errno(error: Exception) -> int | None:
    return error.errno if isinstance(error, OSError) else None


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {_plainly(error)}"


def _plainly(error: Exception) -> str:
    """What it says, but for how aiohttp was to check certificates, also where there are none."""
    return re.sub(r" ssl:(?:\w+|<[^>]*>)(?= \[)", "", str(error))


def _cause(error: Exception) -> Exception | None:
    """`error`, unless it holds the request's headers, and so the API key."""
    return None if isinstance(error, aiohttp.ClientResponseError) else error


async def _last(response: aiohttp.ClientResponse) -> bytes:
    """An answer, of server-sent events the last data. One that should be a stream and is none is the reader's to judge.

    As `_data`, without the generators, which would cost as much a piece as its reading does.
    """
    if response.content_type != "text/event-stream":
        return await response.read()
    found, rest, whole, read = b"", b"", False, response.content.readany
    while block := await read():
        complete, rest = _events(rest + block)
        for data in complete:
            if data == _DONE:
                whole = True
            else:
                found = data
    if not whole:
        raise aiohttp.ClientPayloadError(_BROKE_OFF)
    return found


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _data(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """The data of server-sent events.

    Raises:
        _Told: one of them tells of an error.
        aiohttp.ClientPayloadError: the stream broke off before its end was announced.
    """
    rest, whole = b"", False
    async for block in response.content.iter_any():
        complete, rest = _events(rest + block)
        for data in complete:
            if data == _DONE:
                whole = True
            else:
                yield data
    if not whole:
        raise aiohttp.ClientPayloadError(_BROKE_OFF)


_DONE = b"[DONE]"
_BROKE_OFF = "the stream broke off"


def _events(text: bytes) -> tuple[list[bytes], bytes]:
    """The data of the events that are complete, and what is left over.

    Raises:
        _Told: one of them tells of an error.
    """
    *events, rest = text.split(b"\n\n")
    found = [line[5:].strip() for event in events for line in event.split(b"\n") if line.startswith(b"data:")]
    for data in found:
        if data.startswith(b'{"error"'):
            raise _Told(_status(data), data)
        if b'"status_code"' in data and (refusal := refused(data)) is not None:
            raise _Told(*refusal)
    return found, rest


def _status(data: bytes) -> int:
    """The status that an error in a stream would have had otherwise."""
    try:
        code = json(data)["error"]["code"]
    except (Unusable, KeyError, TypeError):
        return 500
    return code if type(code) is int and 400 <= code < 600 else 500


def _after(header: str | None) -> float | None:
    """Seconds that a ``Retry-After`` asks for, a minute at most."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), 60.0) if math.isfinite(seconds) else None


_open: weakref.WeakSet[Transport] = weakref.WeakSet()
"""Those that have connections."""


@atexit.register
def _at_exit() -> None:
    """Closes what a script has left open: nothing it asked for runs on, and nobody complains of open sessions."""
    closing = [submit(transport.close()) for transport in list(_open)]
    for one in closing:
        with suppress(Exception):
            one.result(6.0)


_parents: list[Any] = []
"""What a fork has of its parent's, kept since it would complain when it is collected."""


def _forked() -> None:
    for transport in list(_open):
        transport.forked()
    _open.clear()


os.register_at_fork(after_in_child=_forked)
