"""What a program is: an ``@sgl.function`` and a declaration of what it needs."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import inspect
import queue
import reprlib
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from sglang.lang.backend.base_backend import BaseBackend
from sglang.lang.global_config import global_config as sglang_settings
from sglang.lang.interpreter import ProgramState
from sglang.lang.ir import SglFunction

from a1_sgl.conformal import Decider, TwoStage, find_score
from a1_sgl.engine import aside, stack, submit, wait
from a1_sgl.engine.loop import elsewhere
from a1_sgl.errors import ConfigError, told
from a1_sgl.programs.parameters import Parameter, parameters
from a1_sgl.registry import headline
from a1_sgl.session import Backend, Query
from a1_sgl.types import Event, Listener, Question, Result, Watch

Needs = Literal["none", "optional", "required"]

_SAMPLING = frozenset(inspect.signature(SglFunction.run).parameters) - {
    "self", "args", "kwargs", "max_new_tokens", "n", "stream", "backend", "use_thread"
}  # fmt: skip
"""What SGLang's ``run`` takes for sampling and a program passes on; lengths are the program's own."""


@dataclass(frozen=True)
class Program:
    """An ``@sgl.function`` of the form ``def name(s, query[, gate], own=default, ...)``, and what it needs.

    Attributes:
        function: the program itself; it takes a `Query`, and a gate if it needs one, beside its own parameters.
        samples: how many chains it writes unless told otherwise.
        gate: whether it takes a gate from `a1_sgl.conformal`, and whether it can do without.
        takes_over: whether the target writes too; it then runs on a pair only.
        joint: whether the chains of a question depend on each other, and so run all or none.
        settles: whether what a chain is when its turn ends stays as it is; not so where chains become others' forks.
        vote, rate: how the answer is made of the chains' answers unless told otherwise, as in `Query`.
        source: hash of the file it comes from, where that is not this library.
    """

    function: SglFunction
    samples: int = 4
    gate: Needs = "none"
    takes_over: bool = False
    joint: bool = False
    vote: str = "majority"
    rate: str | None = None
    source: str | None = None
    settles: bool = True

    def __post_init__(self) -> None:
        leading = ["s", "query", "gate"][: 2 if self.gate == "none" else 3]
        if (found := list(self._parameters)[: len(leading)]) != leading:
            raise ConfigError(
                f"program {self.name} must begin ({', '.join(leading)}, ...), not ({', '.join(found)}, ...); "
                "what it is declared with says whether it takes a gate"
            )
        try:
            own = self._own
        except ConfigError as error:
            raise ConfigError(f"program {self.name}: {error}") from error
        for name in own:
            if name in _SHARED or name in _SAMPLING:
                raise ConfigError(f"program {self.name}: {name} means something else in all programs; rename it")

    # --- running ----------------------------------------------------------------------------------------------

    def run(
        self,
        *,
        question: str | Question,
        backend: Backend | None = None,
        samples: int | Sequence[int] | None = None,
        gate: Decider | None = None,
        listener: Listener | None = None,
        vote: str | None = None,
        rate: str | None = None,
        audit: str | None = None,
        grader: str | None = None,
        seed: int | None = None,
        losses: bool = False,
        chain_tokens: int | None = None,
        chain_stop: Sequence[str] = (),
        seeded_by: str | None = None,
        watch: Watch | None = None,
        **settings: Any,
    ) -> ProgramState:
        """Runs the program; the state's ``ret_value`` is its `Result`.

        The program and all of its chains run on the event loop, so that a listener, and a gate or score of one's own,
        must not block; `a1_sgl.session.aside` is for what does.

        Args:
            question: a text, or a `Question`.
            backend: the runtimes; None is ``sglang.set_default_backend``'s.
            samples: how many chains; or, where they do not depend on each other, their numbers.
            gate: decides on chunks; shared by all chains of all questions that it is given to.
            listener: told of every event.
            vote, rate, audit, grader, seed, losses: as in `Query`; None is the program's way.
            chain_tokens, chain_stop, seeded_by, watch: as in `Query`.
            settings: its own parameters, sampling parameters and stop strings (`a1_sgl.programs.chunking`).

        Raises:
            ConfigError: an argument that it does not take, runtimes that cannot play its roles, or something other than
                a `Result` that it returned.
            RuntimeFault: every chain broke off.
            ChainAborted: it was stopped from outside.
        """
        query = self._query(
            question, samples, listener=listener, vote=vote, rate=rate, audit=audit, grader=grader, seed=seed,
            losses=losses, chain_tokens=chain_tokens, chain_stop=chain_stop, seeded_by=seeded_by, watch=watch,
        )  # fmt: skip
        return wait(self._run(query, backend, gate, settings))

    async def arun(
        self,
        *,
        question: str | Question,
        backend: Backend | None = None,
        samples: int | Sequence[int] | None = None,
        gate: Decider | None = None,
        listener: Listener | None = None,
        vote: str | None = None,
        rate: str | None = None,
        audit: str | None = None,
        grader: str | None = None,
        seed: int | None = None,
        losses: bool = False,
        chain_tokens: int | None = None,
        chain_stop: Sequence[str] = (),
        seeded_by: str | None = None,
        watch: Watch | None = None,
        **settings: Any,
    ) -> ProgramState:
        """Like `run`, to be awaited in any event loop. Cancelling it aborts its chains and waits for their end."""
        query = self._query(
            question, samples, listener=listener, vote=vote, rate=rate, audit=audit, grader=grader, seed=seed,
            losses=losses, chain_tokens=chain_tokens, chain_stop=chain_stop, seeded_by=seeded_by, watch=watch,
        )  # fmt: skip
        return await elsewhere(self._run(query, backend, gate, settings))

    def stream(self, **arguments: Any) -> Generator[Event, None, Result]:
        """Runs the program and yields its events as they come; the `Result` is the generator's return value.

        The last event is the question's `AnswerEvent`. Closing the generator aborts its chains.

        Args:
            arguments: as `run` takes them, but for ``listener``.

        Raises:
            A1Error: as `run` does.
        """
        events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        task = submit(self._told(events.put, arguments))
        task.add_done_callback(lambda _: events.put(None))
        try:
            while (event := aside(events.get)) is not None:
                yield event
        finally:
            if not task.done():
                task.cancel()
                aside(task.exception)
        return cast(Result, task.result().ret_value)

    async def astream(self, **arguments: Any) -> AsyncGenerator[Event, None]:
        """Like `stream`, in any event loop; cancelling whoever iterates, or closing it, aborts its chains."""
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        here = asyncio.get_running_loop()

        def put(event: Event | None) -> None:
            here.call_soon_threadsafe(events.put_nowait, event)

        running = asyncio.ensure_future(elsewhere(self._told(put, arguments)))
        running.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
        finally:
            running.cancel()  # of no consequence where it is over
            await asyncio.wait([running])
        await running

    # --- what it says of itself -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The function's name."""
        return str(self.function.func.__name__)

    @property
    def about(self) -> str:
        """First line of its docstring."""
        return headline(self.function.func.__doc__)

    @property
    def own(self) -> list[str]:
        """Its own parameters."""
        return list(self._own)

    def default(self, name: str) -> Any:
        """The default of one of its own parameters."""
        return self._own[name].default

    def check(self, name: str, value: Any) -> Any:
        """A value of one of its own parameters, as it takes it.

        Raises:
            ConfigError: the value is of another kind or out of range, or it has no such parameter.
        """
        if name not in self._own:
            raise ConfigError(f"program {self.name} has no parameter {name!r}; it has {', '.join(self.own)}")
        try:
            return self._own[name].take(value)
        except ConfigError as error:
            raise ConfigError(f"program {self.name}: {error}") from error

    def check_roles(self, pair: bool) -> None:
        """Raises ConfigError where it needs a pair of runtimes and there is none."""
        if self.takes_over and not pair:
            raise ConfigError(
                f"program {self.name} needs a draft and a target, who takes over; run it with "
                "Backend.connect(draft=URL, target=URL)"
            )

    def logprobs(self, gate: Decider | None, score: str | None = None) -> int | None:
        """What is asked of the writer's generations, as in `Query`: for `gate`, and for `score` if it has that.

        Raises:
            ValueError: there is no such score.
        """
        by = [gate.first] if isinstance(gate, TwoStage) else []
        if "score" in self.own:
            by.append(find_score(score or self.default("score")))
        return max((one.likeliest for one in by if one.likeliest is not None), default=None)

    @cached_property
    def _parameters(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(self.function.func).parameters)

    @cached_property
    def _own(self) -> dict[str, Parameter]:
        return parameters(self.function.func, list(self._parameters)[2 if self.gate == "none" else 3 :])

    # --- inside -----------------------------------------------------------------------------------------------

    def _query(
        self, question: str | Question, samples: int | Sequence[int] | None, *, vote: str | None, rate: str | None,
        audit: str | None, grader: str | None, chain_stop: Sequence[str], **rest: Any,
    ) -> Query:  # fmt: skip
        query = Query.of(
            question, self.samples if samples is None else samples, vote=vote or self.vote, rate=rate or self.rate,
            audit=audit or Query.audit, grader=grader or Query.grader,
            chain_stop=chain_stop if isinstance(chain_stop, str) else tuple(chain_stop), **rest,
        )  # fmt: skip
        if self.joint and query.samples != tuple(range(query.chains)):
            raise ConfigError(
                f"program {self.name}: the chains of a question depend on each other, so it takes how many, not "
                f"{samples}"
            )
        return query

    def _run(
        self, query: Query, backend: Backend | None, gate: Decider | None, settings: dict[str, Any]
    ) -> Coroutine[Any, Any, ProgramState]:
        if gate is None and self.gate == "required":
            raise ConfigError(f"program {self.name} needs a gate, such as a1_sgl.conformal.make('marginal', 0.25)")
        if gate is not None and self.gate == "none":
            raise ConfigError(f"program {self.name} takes no gate")
        if gate is not None and not (callable(gate) and hasattr(gate, "begin")):
            raise ConfigError(f"a gate is one of a1_sgl.conformal, such as make('marginal', 0.25), not {gate!r}")
        if backend is None:
            backend = sglang_settings.default_backend
        if not isinstance(backend, BaseBackend):
            raise ConfigError(
                f"a backend is a Backend, such as Backend.connect(draft=URL, target=URL), not {backend!r}"
            )
        if unknown := [name for name in settings if name not in self.own and name not in _SAMPLING]:
            raise ConfigError(
                f"program {self.name} has no parameter {unknown[0]!r}; it has {', '.join(self.own)}, and SGLang's "
                "sampling parameters"
            )
        if isinstance(backend, Backend):
            self.check_roles(backend.roles.successor is not None)
        settings = {name: self.check(name, one) if name in self._own else one for name, one in settings.items()}
        query = replace(query, logprobs=self.logprobs(gate, settings.get("score")))
        if self.gate != "none":
            settings = {"gate": gate, **settings}
        running = self._checked(stack(self.function.run, query=query, backend=backend, use_thread=False, **settings))
        if gate is None:
            return running
        gate.begin(query.question.id)  # now, so that questions are submitted in the order in which they are asked
        return _ended(running, gate, query.question.id)

    async def _checked(self, running: Coroutine[Any, Any, ProgramState]) -> ProgramState:
        state = await running
        if not isinstance(state.ret_value, Result):
            what = reprlib.repr(state.ret_value)
            raise ConfigError(
                f"program {self.name} returned {what} and must return a Result: what run_chains, Group.run or "
                "Group.finish returns"
            )
        return state

    def _told(self, listener: Listener, arguments: dict[str, Any]) -> Coroutine[Any, Any, ProgramState]:
        if "listener" in arguments:
            raise ConfigError("a stream is the listener; run() takes one")
        return stack(self.run, listener=listener, **arguments)


async def _ended(running: Coroutine[Any, Any, ProgramState], gate: Decider, question: str) -> ProgramState:
    try:
        return await running
    finally:
        gate.end(question)


_SHARED = frozenset((
    "s", "query", "gate", "question", "samples", "listener", "vote", "rate", "audit", "grader", "seed", "losses",
    "backend", "chain_tokens", "chain_stop", "seeded_by", "watch",
))  # fmt: skip
"""What no program may call a parameter of its own."""


def program(
    *, samples: int = 4, gate: Needs = "none", takes_over: bool = False, joint: bool = False, vote: str = "majority",
    rate: str | None = None, settles: bool = True,
) -> Callable[[SglFunction], Program]:  # fmt: skip
    """Declares the ``@sgl.function`` below it a `Program`, with what it needs; arguments as there.

    Raises:
        ConfigError: the function does not have the form that is declared.
    """

    def declare(function: SglFunction) -> Program:
        if not isinstance(function, SglFunction):
            raise ConfigError(f"{function!r} is no @sgl.function; @program(...) stands above it")
        return Program(function, samples, gate, takes_over, joint, vote, rate, settles=settles)

    return declare


def find_program(name: str) -> Program:
    """The program of that name, or, of a name like ``path/to/file.py:name``, the one in that file.

    Raises:
        ConfigError: there is none, its file cannot be loaded, or it does not keep the contract.
    """
    from a1_sgl.programs import PROGRAMS

    path, colon, inner = name.rpartition(":")
    if not colon:
        if name.endswith(".py"):
            raise ConfigError(f"program {name!r} names a file; say which program in it: {name}:NAME")
        if name not in PROGRAMS:
            raise ConfigError(f"unknown program {name!r}; known: {', '.join(PROGRAMS)}, or path/to/file.py:NAME")
        return PROGRAMS[name]
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"program {name!r}: there is no file {path}")
    source = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    module = _load(file.resolve(), source)
    found = getattr(module, inner, None)
    if isinstance(found, SglFunction):
        raise ConfigError(
            f"program {name!r}: {inner} is an @sgl.function, but nothing says what it needs; put "
            "@a1_sgl.programs.program(...) above it"
        )
    if not isinstance(found, Program):
        known = [key for key, value in vars(module).items() if isinstance(value, Program)]
        raise ConfigError(f"program {name!r}: {path} has no program {inner!r}; it has {', '.join(known) or 'none'}")
    return replace(found, source=source)


def check_defaults(given: Mapping[str, Any]) -> None:
    """Refuses values that none of the library's programs takes by these names, as a task's defaults.

    Raises:
        ConfigError: no program has such a parameter, or none takes that value for it.
    """
    from a1_sgl.programs import PROGRAMS

    for name, value in given.items():
        having = [one for one in PROGRAMS.values() if name in one.own]
        if not having:
            known = dict.fromkeys(own for one in PROGRAMS.values() for own in one.own)
            raise ConfigError(f"no program has a parameter {name!r}; there are {', '.join(known)}")
        refused: list[ConfigError] = []
        for one in having:
            try:
                one.check(name, value)
            except ConfigError as error:
                refused.append(error)
        if len(refused) == len(having):
            raise refused[0]


_OURS = "a1_sgl_user_"
"""What modules are called that are loaded here; one whose file has changed since, or that failed, is loaded again."""


@cache  # what a file registers, such as a score, it can register once
def _load(file: Path, source: str) -> ModuleType:
    """The module that `file` is while it has that hash; the one that was imported already, if it was."""
    for name, module in list(sys.modules.items()):  # the script that runs, or something that it imported
        there = getattr(module, "__dict__", {}).get("__file__") or ""
        if not name.startswith(_OURS) and Path(there).name == file.name and Path(there).resolve() == file:
            return module
    where = hashlib.sha256(str(file.parent).encode()).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"{_OURS}{where}_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's file raises
        raise ConfigError(f"{file} cannot be loaded: {told(error)}") from error
    return module
