"""Routes, and what stands before them: who may ask, how large a request may be, and what an error looks like."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, FastAPI, Header
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from a1_sgl import __version__
from a1_sgl.errors import wrong as said
from a1_sgl.serve.job import Job
from a1_sgl.serve.keys import Owner
from a1_sgl.serve.refusals import Refusal, broken
from a1_sgl.serve.requests import ChatRequest, CompletionRequest, Options, Request
from a1_sgl.serve.service import Service

log = logging.getLogger(__name__)
ABORT = "a1.abort"
"""Where a connection's scope has what ends it at once, read or not."""
GONE = 499
"""What counts as the status of a request whose client went away before it was answered."""
CLOSED = ("/metrics", "/live")
"""Routes besides ``/v1/`` that want a key, where there are keys."""


def create_app(service: Service, pages: Sequence[APIRouter] = ()) -> FastAPI:
    """The application.

    Args:
        pages: more routes, such as a page at ``/``; they are open, as ``/health`` is, unless `CLOSED` has them.
    """
    app = FastAPI(
        title="a1 serve", version=__version__, docs_url=None, redoc_url=None,
        description="Programs for test-time scaling as the models of an OpenAI-compatible server.",
    )  # fmt: skip
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)
    app.include_router(_routes(service))
    for page in pages:
        app.include_router(page)
    app.add_middleware(Guard, service=service, routes=frozenset(app.openapi()["paths"]))
    return app


def _routes(service: Service) -> APIRouter:
    router = APIRouter()

    async def complete(http: HttpRequest, request: Request, key: str | None) -> Response:
        name = http.scope["a1.request"]
        job = await service.submit(request, http.scope["a1.owner"], name, key)
        if not request.stream:
            return await _whole(http, job)
        try:
            await _unless_gone(http, job.begun(service.settings.keep_alive))
        except BaseException:
            job.leave()
            raise
        return Stream(job, service.settings.keep_alive, service.settings.stall)

    @router.post("/v1/chat/completions")
    async def chat(http: HttpRequest, request: ChatRequest, idempotency_key: str | None = Header(None)) -> Response:
        """OpenAI's chat completions."""
        return await complete(http, request, idempotency_key)

    @router.post("/v1/completions")
    async def text(
        http: HttpRequest, request: CompletionRequest, idempotency_key: str | None = Header(None)
    ) -> Response:
        """OpenAI's completions: a text is continued as it stands."""
        return await complete(http, request, idempotency_key)

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """What can be asked for."""
        return service.models.listed()

    @router.get("/v1/models/{model}")
    async def model(model: str) -> dict[str, Any]:
        """One of them."""
        return service.models.shown(model)

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server lives."""
        return {"status": "ok"}

    @router.get("/ready")
    async def ready() -> Response:
        """Whether it takes requests."""
        if (why := service.ready) is not None:
            return JSONResponse({"status": why}, 503, {"Retry-After": "5"})
        return JSONResponse({"status": "ready"})

    @router.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


async def _whole(http: HttpRequest, job: Job) -> Response:
    """The response in one piece, unless the client goes away before it is there."""
    try:
        return JSONResponse(await _unless_gone(http, job.result()))
    except _Gone:
        return Response(status_code=GONE)
    finally:
        job.leave()


class _Gone(Exception):
    """The client went away."""


async def _unless_gone(http: HttpRequest, awaited: Any) -> Any:
    """What is awaited.

    Raises:
        _Gone: the client went away first.
    """
    task, gone = asyncio.ensure_future(awaited), asyncio.create_task(_gone(http.receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _Gone
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.wait((task, gone))
        task.cancelled() or task.exception()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Stream(Response):
    """Server-sent events of a job, for as long as the client reads them."""

    def __init__(self, job: Job, keep_alive: float, stall: float) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._job, self._keep_alive, self._stall = job, keep_alive, stall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""

        async def pump() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for frame in self._job.frames(self._keep_alive):
                async with asyncio.timeout(self._stall):  # a reader who does not read
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        tasks = [asyncio.create_task(pump()), asyncio.create_task(_gone(receive))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self._job.leave()
            await asyncio.wait(tasks)
            if not tasks[0].cancelled() and (error := tasks[0].exception()) is not None:
                log.info("request %s: its reader was given up: %s", self._job.id, type(error).__name__)
                scope.get(ABORT, lambda: None)()


# --- errors -----------------------------------------------------------------------------------------------------


async def _refused(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return JSONResponse(error.body, error.status, error.headers)


async def _invalid(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()[0]
    place = [part for part in found["loc"] if part not in ("body", "header", "path", "query")]
    if found["type"] == "json_invalid":
        message, param = "the body is no JSON", None
    else:
        message = said(found).removeprefix("Value error, ")
        word = message.partition(" ")[0]
        param = ".".join(map(str, place)) or (word if word.isidentifier() and word in _FIELDS else None)
        message = f"{'.'.join(map(str, place))}: {message}" if place else message
        if found["type"] == "extra_forbidden" and len(place) == 1 and place[0] in Options.model_fields:
            message += f'; as an option of A1 it goes into the field a1: {{"a1": {{"{place[0]}": ...}}}}'
    return await _refused(http, Refusal(400, message[:1000], param=param and param[:200], code="invalid_value"))


_FIELDS = {*ChatRequest.model_fields, *CompletionRequest.model_fields}


async def _plain(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(Refusal(error.status_code, str(error.detail)).body, error.status_code, error.headers)


class Guard:
    """Stands before the routes: names each request, asks for its key, reads its body within limits, and answers for
    whatever goes wrong behind it."""

    def __init__(self, app: ASGIApp, service: Service, routes: frozenset[str]) -> None:
        self._app, self._service, self._routes = app, service, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name, path, status = f"req_{secrets.token_hex(12)}", scope["path"], 0
        scope["a1.request"] = name

        async def respond(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", name.encode())]
            await send(message)

        try:
            headers = {key.lower(): value.decode("latin-1") for key, value in scope["headers"]}
            self._check_host(headers.get(b"host", ""))
            scope["a1.owner"] = self._owner(path, headers.get(b"authorization"))
            body = await self._body(receive, headers.get(b"content-length"))
            await self._app(scope, _replayed(body, receive), respond)
        except Refusal as refusal:
            await _sent(scope, receive, respond, refusal)
        except (asyncio.CancelledError, _Gone):
            raise
        except Exception as error:
            log.error("request %s failed", name, exc_info=error)
            if status:  # it has begun, and cannot be taken back
                raise
            await _sent(scope, receive, respond, broken(name))
        finally:
            self._service.metrics.request(path if path in self._routes else "other", status or GONE)

    def _owner(self, path: str, authorization: str | None) -> Owner | None:
        if path.startswith("/v1/") or path in CLOSED:
            return self._service.keys.owner(authorization)
        return None

    def _check_host(self, host: str) -> None:
        hosts = self._service.settings.hosts
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if hosts is not None and name.strip("[]").lower() not in hosts:
            raise Refusal(400, "this server is not called that; a1 serve --allow-host says what it may be called",
                          code="unknown_host")  # fmt: skip

    async def _body(self, receive: Receive, length: str | None) -> bytes:
        most = self._service.settings.body
        large = Refusal(413, f"a request has at most {most} bytes", code="request_too_large")
        if length is not None and length.isdecimal() and int(length[:20]) > most:
            raise large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._service.settings.upload):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(408, "whoever asked is gone", code="client_gone")
                    parts.append(message.get("body", b""))
                    if (size := size + len(parts[-1])) > most:
                        raise large
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal(408, "the request's body did not come in time", code="upload_timeout") from None


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body in one piece, and then what comes."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _sent(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    with suppress(OSError):
        await JSONResponse(refusal.body, refusal.status, refusal.headers)(scope, receive, send)
