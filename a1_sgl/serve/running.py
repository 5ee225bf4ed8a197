"""The server itself: uvicorn on the project's event loop, from its socket to its orderly end."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import APIRouter
from uvicorn.protocols.http.h11_impl import H11Protocol

from a1_sgl.engine import ended, submit, wait
from a1_sgl.engine.loop import Task
from a1_sgl.errors import ConfigError, RuntimeFault, first_line
from a1_sgl.serve.app import ABORT, create_app
from a1_sgl.serve.service import Service

LOOPBACK = ("127.0.0.1", "localhost", "::1")
IDLE = 60
"""Seconds until an idle connection is closed. Clients close theirs sooner, `httpx` after 5: if a server does so first,
it does so as the next request is on its way."""


class Protocol(H11Protocol):
    """Uvicorn's, which also tells an application how to end a connection whose other end does not read.

    To close it would wait for what was written to be read.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As uvicorn's."""
        super().connection_made(transport)
        inner = self.app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope[ABORT] = transport.abort
            await inner(scope, receive, send)

        self.app = app


@dataclass(frozen=True)
class Running:
    """A server that runs: where, and until when."""

    url: str
    task: Task[None]

    def wait(self) -> None:
        """Until it is interrupted.

        Raises:
            RuntimeFault: it ended by itself.
        """
        ended(self.task)
        raise RuntimeFault("the server ended by itself")


@contextmanager
def running(
    service: Service,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    cert: Path | None = None,
    key: Path | None = None,
    pages: Sequence[APIRouter] = (),
) -> Iterator[Running]:
    """Serves for the length of a ``with`` block, at whose end requests are drained and the gate is saved.

    Args:
        port: where it listens; 0 is any that is free.
        cert, key: PEM files, for TLS.

    Raises:
        ConfigError: nobody can listen there, or the files are no certificate and its key.
    """
    listening = _bound(host, port)
    scheme = "http" if cert is None else "https"
    try:
        config = uvicorn.Config(
            create_app(service, pages), log_config=None, access_log=False, server_header=False, lifespan="off",
            ws="none", http=Protocol, timeout_graceful_shutdown=5, timeout_keep_alive=IDLE, proxy_headers=False,
            ssl_certfile=cert, ssl_keyfile=key,
        )  # fmt: skip
        try:
            config.load()
        except OSError as error:  # what ssl raises is one too
            raise ConfigError(f"--tls-cert {cert} and --tls-key {key} cannot be used: {first_line(error)}") from error
        server = uvicorn.Server(config)

        async def serve() -> None:
            service.start()
            await server.serve(sockets=[listening])

        task = submit(serve())
        try:
            while not server.started:
                if task.done():
                    task.result()
                    raise RuntimeFault("the server ended before it had begun")
                time.sleep(0.01)
            name = f"[{host}]" if ":" in host else host
            yield Running(f"{scheme}://{name}:{listening.getsockname()[1]}", task)
        finally:
            try:
                wait(service.drain())
            finally:  # a second interrupt does not wait for requests; the gate is saved all the same
                server.should_exit = True
                wait(_over(task))
                wait(service.close())
    finally:
        listening.close()


async def _over(task: Task[None]) -> None:
    with suppress(Exception, asyncio.CancelledError):
        await asyncio.wrap_future(task)


def _bound(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(found[0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise ConfigError(f"nobody can listen at {host}:{port}: {why}; name another --host or --port") from error
    return listening
