"""SGLang's frontend language on engines: what ``backend=`` is, for any ``@sgl.function``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from pydantic import SecretStr
from sglang.lang.backend.base_backend import BaseBackend
from sglang.lang.chat_template import get_chat_template_by_model_path
from sglang.lang.choices import ChoicesDecision, ChoicesSamplingMethod
from sglang.lang.interpreter import StreamExecutor
from sglang.lang.ir import SglSamplingParams

from a1_sgl.engine import Engine, Fleet, Generation, Scope, Settings, SGLang, wait
from a1_sgl.errors import ChainAborted, ConfigError, RuntimeFault
from a1_sgl.session.admission import Admission
from a1_sgl.session.context import Context, enclosing
from a1_sgl.session.roles import DRAFT, TARGET, Roles
from a1_sgl.session.transcript import Transcript

_TRANSCRIPT = "a1_sgl.transcript"
_ASKED = ("return_logprob", "logprob_start_len", "top_logprobs_num", "return_text_in_logprobs")
URLs = str | Sequence[str]


class Backend(BaseBackend):  # type: ignore[misc]
    """The runtimes of a program, by role: ``a1.run(question=..., gate=..., backend=Backend.connect(...))``.

    The library's programs ask it for its roles. To any other ``@sgl.function`` it behaves like the runtime that writes,
    and keeps the ids of what was written, as SGLang's own backend does not.

    Attributes:
        roles: who writes, who verifies, who takes over.
        admission: how many chains are in flight at once.
        deadline: seconds after which a chain is given up; None gives it all the time it takes.
    """

    def __init__(self, roles: Roles, *, in_flight: int = 64, deadline: float | None = None) -> None:
        """
        Raises:
            ConfigError: fewer than one chain in flight, a deadline that is over at once, or no roles.
        """
        super().__init__()
        if not isinstance(roles, Roles):
            raise ConfigError(
                f"a Backend has roles, such as Roles.pair(draft, target) or Roles.one(engine), not {roles!r}"
            )
        _check(in_flight, deadline)
        self.roles, self.deadline = roles, deadline
        self.admission = Admission(in_flight)
        self.scope = Scope()
        self.chat_template = get_chat_template_by_model_path(roles.writer.engine.identity.model)

    @classmethod
    def connect(
        cls,
        draft: URLs | None = None,
        target: URLs | None = None,
        *,
        verifier: URLs | None = None,
        in_flight: int = 64,
        deadline: float | None = None,
        settings: Settings | None = None,
        api_key: str | None = None,
    ) -> Backend:
        """Connects to runtimes: to a pair, or to one that plays the role it is named by.

        Args:
            draft, target, verifier: where each listens; several URLs are runtimes of one model, among which the chains
                are spread.
            in_flight: most chains at once.
            deadline: seconds that a chain may take once its prompt is computed.
            settings: how to speak to them.
            api_key: where they want one; `settings` can have it too.

        Raises:
            ConfigError: one runtime is to be both draft and target.
            ConfigError, RuntimeFault: as `SGLang.connect`; runtimes that were connected are let go of again.
        """
        settings = settings or Settings()
        if api_key is not None:
            settings = _with_key(settings, api_key)
        named = {DRAFT: draft, TARGET: target, "verifier": verifier}
        wanted = {name: urls for name, urls in named.items() if urls}
        if not {DRAFT, TARGET} & wanted.keys() or ("verifier" in wanted and len(wanted) < 3):
            raise ConfigError("name the runtimes: draft=URL, target=URL or both; a verifier comes beside a pair")
        _check(in_flight, deadline)  # before anything is connected
        engines = wait(_engines(wanted, settings))
        if {DRAFT, TARGET} <= engines.keys():
            roles = Roles.pair(engines[DRAFT], engines[TARGET], engines.get("verifier"))
        else:
            ((name, engine),) = engines.items()
            roles = Roles.alone(engine, name)
        return cls(roles, in_flight=in_flight, deadline=deadline)

    def alone(self, role: str) -> Backend:
        """The runtime of one role by itself; it shares this one's places and connections, and is not closed."""
        other = Backend(Roles.alone(self.roles.named(role).engine, role), deadline=self.deadline)
        other.admission, other.scope = self.admission, self.scope
        return other

    @property
    def engines(self) -> list[Engine]:
        """The runtimes, each once."""
        return list({id(role.engine): role.engine for role in self.roles.all}.values())

    def abort(self) -> None:
        """Stops everything under way, from any thread; what is run afterwards raises `ChainAborted` at once."""
        self.scope.stop()

    def close(self) -> None:
        """Stops what is under way and gives connections back."""
        self.abort()
        for engine in self.engines:
            wait(engine.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # --- SGLang's backend contract ----------------------------------------------------------------------------

    def get_model_name(self) -> str:
        """The model that writes."""
        return self.roles.writer.engine.identity.model

    def flush_cache(self) -> None:
        """Empties all prefix caches; a runtime refuses while requests run."""
        for engine in self.engines:
            wait(engine.flush())

    def commit_lazy_operations(self, s: StreamExecutor) -> None:
        """SGLang asks for this before a fork: the common text is computed once, on every runtime."""
        for engine in self.engines:
            ids = _transcript(s).ids(engine.codec)
            if len(ids):
                wait(engine.prefill(self._context(s).request(engine, ids)))

    def generate(self, s: StreamExecutor, sampling_params: SglSamplingParams) -> tuple[str, dict[str, Any]]:
        """Continues the state's text. ``meta_info`` gains ``output_ids`` (no end token), ``ended``, ``spent``.

        Raises:
            ChainAborted: it was stopped.
            RuntimeFault: as `Engine` has it.
        """
        engine, transcript = self.roles.writer.engine, _transcript(s)
        request = self._context(s).request(engine, transcript.ids(engine.codec))
        return self._take(s, transcript, engine, wait(engine.generate(request, sampling(sampling_params))))

    def generate_stream(
        self, s: StreamExecutor, sampling_params: SglSamplingParams
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Like `generate`, in pieces of text as they come."""
        engine, transcript = self.roles.writer.engine, _transcript(s)
        request = self._context(s).request(engine, transcript.ids(engine.codec))
        pieces = engine.stream(request, sampling(sampling_params))
        try:
            while (piece := wait(_next(pieces))) is not None:
                if isinstance(piece, Generation):
                    _, meta = self._take(s, transcript, engine, piece)
                    yield "", meta
                else:
                    yield piece, {}
        finally:
            wait(_close(pieces))

    def select(
        self,
        s: StreamExecutor,
        choices: list[str],
        temperature: float,
        choices_method: ChoicesSamplingMethod | None = None,
    ) -> ChoicesDecision:
        """Scores each choice after the state's text and lets `choices_method` decide, as ``sgl.select`` asks.

        Raises:
            ConfigError: a method that needs more than the choices' own scores; nothing is asked of the runtime.
        """
        assert choices_method is not None
        if choices_method.requires_unconditional_logprobs:
            raise ConfigError(f"choices method {type(choices_method).__name__} is not supported")
        engine, transcript, context = self.roles.writer.engine, _transcript(s), self._context(s)
        start, entries = transcript.tokens(engine.codec), []
        for choice in choices:
            longer = transcript.plus(choice)
            scores = wait(engine.score(context.request(engine, longer.ids(engine.codec)), start))
            ids = longer.pieces[-1].ids(engine.codec)
            entries.append([(value, int(token), None) for value, token in zip(scores.logprobs, ids, strict=True)])
        decision = choices_method(
            choices=choices,
            normalized_prompt_logprobs=[sum(one[0] for one in entry) / len(entry) for entry in entries],
            input_token_logprobs=entries,
            output_token_logprobs=[[] for _ in choices],
        )
        s.variables[_TRANSCRIPT] = transcript.plus(decision.decision)
        return decision

    # --- inside -----------------------------------------------------------------------------------------------

    def _context(self, s: StreamExecutor) -> Context:
        scope = enclosing()
        return Context(Scope(self.scope) if scope is None else scope, images=tuple(data for _, data in s.images_))

    def _take(
        self, s: StreamExecutor, transcript: Transcript, engine: Engine, generation: Generation
    ) -> tuple[str, dict[str, Any]]:
        if generation.aborted:
            raise ChainAborted(f"{engine.name} runtime: stopped", generation.spent)
        s.variables[_TRANSCRIPT] = transcript.plus(generation.text, {engine.codec.tokenizer_key: generation.ids})
        mine = {"output_ids": list(generation.ids), "ended": generation.ended, "spent": generation.spent}
        return generation.text, {**generation.meta, **mine}


def sampling(params: SglSamplingParams) -> dict[str, Any]:
    """SGLang's sampling parameters as an `Engine` takes them. Stop strings stay in the text, as they do in the ids."""
    found = {name: value for name, value in params.to_srt_kwargs().items() if value is not None}
    asked = {name: value for name in _ASKED if (value := getattr(params, name, None)) is not None}
    return {**found, **asked, "skip_special_tokens": True, "no_stop_trim": True}


def _transcript(s: StreamExecutor) -> Transcript:
    """A plain program's, among its variables, which SGLang's forks copy."""
    found = s.variables.get(_TRANSCRIPT)
    transcript = (found if isinstance(found, Transcript) else Transcript()).caught_up(s.text_)
    s.variables[_TRANSCRIPT] = transcript
    return transcript


def _check(in_flight: int, deadline: float | None) -> None:
    if not isinstance(in_flight, int) or in_flight < 1:
        raise ConfigError(f"at least one chain must be in flight, not {in_flight!r}")
    if deadline is not None and not (isinstance(deadline, int | float) and deadline > 0):
        raise ConfigError(f"a chain's deadline must be above 0 s, not {deadline!r}")


def _with_key(settings: Settings, key: str) -> Settings:
    from dataclasses import replace

    return replace(settings, api_key=SecretStr(key))


def _check_apart(draft: URLs, target: URLs) -> None:
    theirs = [{url.rstrip("/") for url in ((urls,) if isinstance(urls, str) else urls)} for urls in (draft, target)]
    if both := theirs[0] & theirs[1]:
        raise ConfigError(
            f"{min(both)} is named as draft and as target; a model that verifies itself finds likely what it wrote, "
            "and taking over from itself changes nothing. Name two runtimes, or one alone for a program of one model"
        )


async def _engines(wanted: dict[str, URLs], settings: Settings) -> dict[str, Engine]:
    """Connects to all at once; if one fails, the others are closed."""
    import asyncio

    places = [
        (role, f"{role}-{i}" if not isinstance(urls, str) and len(urls) > 1 else role, url)
        for role, urls in wanted.items()
        for i, url in enumerate((urls,) if isinstance(urls, str) else urls)
    ]
    found = await asyncio.gather(
        *(SGLang.connect(url, name, settings=settings) for _, name, url in places), return_exceptions=True
    )
    failed = [one for one in found if isinstance(one, BaseException)]
    members: dict[str, list[Engine]] = {}
    for (role, _, _), one in zip(places, found, strict=True):
        if not isinstance(one, BaseException):
            members.setdefault(role, []).append(one)
    if not failed:
        try:
            _check_apart(wanted.get(DRAFT, ()), wanted.get(TARGET, ()))
            return {role: some[0] if len(some) == 1 else Fleet(some, role) for role, some in members.items()}
        except ConfigError as error:
            failed.append(error)
    for some in members.values():
        for engine in some:
            await engine.close()
    raise failed[0]


async def _next(pieces: Any) -> str | Generation | None:
    found: str | Generation | None = await anext(pieces, None)
    return found


async def _close(pieces: Any) -> None:
    await pieces.aclose()


__all__ = ["Backend", "RuntimeFault", "sampling"]
