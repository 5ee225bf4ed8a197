"""What goes with a chain's requests besides their ids, and handles to stop programs by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from a1_sgl.engine import NOWHERE, Engine, Ids, Request, Route, Scope
from a1_sgl.types import Watch


@dataclass(frozen=True)
class Context:
    """Of one chain.

    Attributes:
        scope: what may stop its requests.
        route: its question and itself, so that of several runtimes the one with its prefix serves it.
        images: the question's images, as the runtime takes them: URLs, paths it can read, or base64.
        image_tokens: how many tokens the images add to what is sent, by `Codec.key`.
        priority: of its requests, as in `Request`.
        logprobs: what is asked of the writer's generations beside their text, as in `Request`.
        losses: whether verdicts tell the target's loss of every token.
        tokens, stop, watch: the chain's own limit, stop sequences and watch, as in `Query`.
    """

    scope: Scope
    route: Route = NOWHERE
    images: tuple[str, ...] = ()
    image_tokens: Mapping[str, int] = field(default_factory=dict)
    priority: int | None = None
    logprobs: int | None = None
    losses: bool = False
    tokens: int | None = None
    stop: tuple[str, ...] = ()
    watch: Watch | None = None

    def request(self, engine: Engine, ids: Ids) -> Request:
        """The request for `ids` on `engine`."""
        return Request(ids, self.scope, self.route, self.images, self.extra(engine), self.priority, self.logprobs)

    def extra(self, engine: Engine) -> int:
        """Tokens that images add."""
        return self.image_tokens.get(engine.codec.key, 0) if self.image_tokens else 0

    def within(self, scope: Scope, chain: str | None = None) -> Context:
        """The same for a chain with a scope of its own."""
        route = self.route if chain is None else Route(self.route.question, chain)
        return replace(self, scope=scope, route=route)


_STOPPING: ContextVar[Scope | None] = ContextVar("a1_sgl.stopping", default=None)


@contextmanager
def stoppable() -> Iterator[Scope]:
    """Programs run inside the ``with`` block end when its value is stopped, from any thread."""
    around = enclosing()
    with stopping(Scope() if around is None else Scope(around)) as scope:
        yield scope


@contextmanager
def stopping(scope: Scope) -> Iterator[Scope]:
    """Programs run inside the ``with`` block lie within `scope`."""
    token = _STOPPING.set(scope)
    try:
        yield scope
    finally:
        _STOPPING.reset(token)


def enclosing() -> Scope | None:
    """The scope of the block, or the chain, around this, if there is one."""
    return _STOPPING.get()
