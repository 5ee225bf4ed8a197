"""From a request to what is to be done: everything that can be refused is refused here, before anything is begun."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from a1_sgl.answers import GRADERS
from a1_sgl.engine import Codec
from a1_sgl.errors import ConfigError
from a1_sgl.programs import Program, stop_strings
from a1_sgl.serve.gate import Level
from a1_sgl.serve.models import Model
from a1_sgl.serve.refusals import wrong
from a1_sgl.serve.requests import ChatRequest, Defaults, Effort, Options, Request
from a1_sgl.session import Backend, find_rate
from a1_sgl.session.group import prompt as rendered
from a1_sgl.types import Question
from a1_sgl.voting import find_vote

if TYPE_CHECKING:
    from a1_sgl.serve.service import Service


@dataclass(frozen=True)
class Plan:
    """What one request asks for, all of it checked.

    Attributes:
        model, backend, gate: what answers it, where, and what decides on its chunks, if anything.
        question: what is asked; each of the `n` answers asks it under an id of its own.
        n: answers, each a run of the program of its own.
        chains: of each run.
        settings: what the program is run with.
        stop, tokens: as `Query.chain_stop` and `Query.chain_tokens`.
        prompt_tokens: of the writer, as this server counts them; the response has the runtime's own count.
        reasoning, thinking: as `split` takes them.
        deadline: seconds until the answer must be whole.
        stream, usage: whether it is streamed, and whether the stream ends with its usage.
        bounded: whether its chains may be cut off where the program alone would let them go on.
    """

    chat: bool
    model: Model
    backend: Backend
    gate: Level | None
    question: Question
    n: int
    chains: int
    settings: dict[str, Any]
    stop: tuple[str, ...]
    tokens: int
    prompt_tokens: int
    reasoning: Effort
    thinking: bool
    deadline: float
    stream: bool
    usage: bool
    bounded: bool = False
    seed: int | None = None
    tools: tuple[dict[str, Any], ...] = ()
    parser: str | None = None

    @property
    def live(self) -> bool:
        """Whether the chain's text is shown as it is settled."""
        return self.chains == 1 and self.model.program.settles

    @property
    def codec(self) -> Codec:
        """The writer's."""
        return self.backend.roles.writer.engine.codec


async def plan(service: Service, request: Request) -> Plan:
    """What `request` comes to.

    Raises:
        Refusal: the request cannot be honoured; the field is named.
    """
    settings = service.settings
    model = service.models.find(request.model)
    defaults = service.defaults.of(model.id)
    asked, usual = request.a1, defaults.a1
    program = model.program
    where = asked.runtime or usual.runtime or model.runtime
    backend = _backend(service, model, None if where == "both" else where, asked)
    chains = asked.chains or usual.chains or model.chains
    if request.n * chains > settings.chains:
        raise wrong(
            f"{request.n} answers of {chains} chains are {request.n * chains}; a request may have {settings.chains}",
            "a1.chains" if asked.chains else "n", "too_many_chains",
        )  # fmt: skip
    deadline = asked.deadline or min(usual.deadline or settings.deadline, settings.deadline)
    if deadline > settings.deadline:
        raise wrong(f"a request has at most {settings.deadline:g} s", "a1.deadline")
    own = _own(program, asked, usual, service.parameters)
    chunks = _chunks(asked.chunking or usual.chunking, service)
    vote, rate, grader = _votes(asked, usual, model, service)
    chat = isinstance(request, ChatRequest)
    tools, parser = _tools(service, request, backend, chains)
    question = _question(request, defaults, tools)
    longest, count, text = await _prompt(backend, question, chat)
    tokens = _budget(request, defaults, settings.tokens, longest)
    if "max_tokens" in program.own and "max_tokens" not in asked.own:
        own["max_tokens"] = tokens
    sampling = {
        "temperature": _first(request.temperature, defaults.temperature, service.sampling.get("temperature"), 1.0),
        "top_p": _first(request.top_p, defaults.top_p, service.sampling.get("top_p"), 1.0),
        **{name: value for name in ("top_k", "min_p") if (value := getattr(request, name)) is not None},
    }
    level = _gate(service, program, asked, usual, own, None if backend is service.backend else where)
    template = str(backend.roles.writer.engine.codec.tokenizer.chat_template or "")
    auto: Effort = "think" if "</think>" in template else "open"
    return Plan(
        chat=chat, model=model, backend=backend, gate=level, question=question, n=request.n, chains=chains,
        settings={**own, **sampling, "stop": chunks, "vote": vote, "rate": rate, "grader": grader},
        stop=tuple(request.stop), tokens=tokens, prompt_tokens=count,
        reasoning=(asked.reasoning or usual.reasoning or service.settings.reasoning or auto) if chat else "none",
        thinking=text.rstrip().endswith("<think>"), deadline=deadline, stream=request.stream,
        usage=request.stream_options is not None and request.stream_options.include_usage, seed=request.seed,
        tools=tools, parser=parser,
        bounded=bool(request.stop) or request.limit is not None or defaults.max_tokens is not None,
    )  # fmt: skip


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _backend(service: Service, model: Model, where: str | None, asked: Options) -> Backend:
    names = {role.name for role in service.backend.roles.all}
    if where is not None and where not in names:
        raise wrong(f"there is no {where} behind this server", "a1.runtime")
    backend = service.alone(where)
    try:
        model.program.check_roles(backend.roles.successor is not None)
    except ConfigError as error:
        raise wrong(f"model {model.id} needs a draft and a target, not the {where} alone", "a1.runtime") from error
    return backend


def _own(program: Program, asked: Options, usual: Options, card: dict[str, Any]) -> dict[str, Any]:
    """The program's parameters: those of the card and the defaults that it has, then the request's, all of them."""
    found = {name: value for name, value in {**card, **usual.own}.items() if name in program.own}
    for name, value in asked.own.items():
        if name not in program.own:
            raise wrong(
                f"model {program.name} has no option {name[:100]!r}; it has {', '.join(program.own)}, and "
                f"{', '.join(Options.model_fields)}", f"a1.{name[:100]}",
            )  # fmt: skip
        found[name] = value
    for name, value in found.items():
        try:
            found[name] = program.check(name, value)
            if name == "score":
                program.logprobs(None, value)
        except ValueError as error:
            raise wrong(str(error), f"a1.{name}") from error
    return found


def _chunks(name: str | None, service: Service) -> list[str]:
    if name is None:
        return list(service.chunks)
    try:
        return stop_strings(name)
    except ValueError as error:
        raise wrong(str(error), "a1.chunking") from error


def _votes(asked: Options, usual: Options, model: Model, service: Service) -> tuple[str, str | None, str]:
    vote = asked.vote or model.vote or usual.vote or model.program.vote
    rate = asked.rate or usual.rate or model.program.rate
    grader = asked.grader or usual.grader or service.grader
    for name, find, value in (("vote", find_vote, vote), ("rate", find_rate, rate)):
        try:
            if value is not None:
                find(value)
        except ValueError as error:
            raise wrong(str(error), f"a1.{name}") from error
    if grader not in GRADERS:
        raise wrong(f"unknown grader {grader[:100]!r}; known: {', '.join(GRADERS)}", "a1.grader")
    return vote, rate, grader


def _gate(
    service: Service, program: Program, asked: Options, usual: Options, own: dict[str, Any], where: str | None
) -> Level | None:
    alpha = asked.alpha if asked.alpha is not None else usual.alpha
    if program.gate == "none":
        if asked.alpha is not None:
            raise wrong(f"model {program.name} takes no gate, and so no alpha", "a1.alpha")
        return None
    if program.gate == "optional" and alpha is None:
        return None
    score = str(own.get("score", program.default("score"))) if "score" in program.own else program.name
    try:
        return service.gates.at(score if where is None else f"{score} of {where}", alpha or service.gates.kind.alpha)
    except ValueError as error:
        raise wrong(str(error), "a1.alpha") from error


def _tools(
    service: Service, request: Request, backend: Backend, chains: int
) -> tuple[tuple[dict[str, Any], ...], str | None]:
    if not isinstance(request, ChatRequest) or not request.tools or request.tool_choice == "none":
        return (), None
    if not all(role.engine.codec.takes_tools for role in backend.roles.all):
        raise wrong("the chat template of a model here has no place for tools", "tools", "tools_unsupported")
    if service.settings.tool_parser is None:
        raise wrong(
            "nobody said how these models write a call of a tool: a1 serve --tool-parser", "tools", "tools_unsupported"
        )
    if chains > 1:
        raise wrong("calls of tools are no answers that chains could vote on; ask for one chain", "tools")
    return tuple(tool.model_dump(exclude_none=True) for tool in request.tools), service.settings.tool_parser


def _question(request: Request, defaults: Defaults, tools: tuple[dict[str, Any], ...]) -> Question:
    if not isinstance(request, ChatRequest):
        return Question(id="", messages=({"role": "user", "content": request.prompt},), prompt=request.prompt)
    messages = [message.said() for message in request.messages]
    if defaults.system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": defaults.system})
    return Question(id="", messages=tuple(messages), tools=tools)


async def _prompt(backend: Backend, question: Question, chat: bool) -> tuple[int, int, str]:
    """How many tokens an answer may have after it on every runtime, its own tokens and text for the writer."""
    param = "messages" if chat else "prompt"

    def read() -> list[tuple[int, int, str]]:
        found = []
        for role in backend.roles.all:
            codec = role.engine.codec
            text = rendered(codec, question)
            count = len(codec.encode(text, first=True))
            found.append((role.engine.limits.longest_prompt - 1 - count, count, text))
        return found

    try:
        found = await asyncio.to_thread(read)
    except ConfigError as error:
        said = str(error)
        for role in backend.roles.all:  # a path of this machine, perhaps
            said = said.replace(f"the tokenizer {role.engine.codec.tokenizer.name_or_path}", "a tokenizer here")
            said = said.replace(str(role.engine.codec.tokenizer.name_or_path), f"the {role.name}")
        raise wrong(said, param) from error
    except Exception as error:  # templates are programs, and raise what they like
        raise wrong(f"the chat template cannot be filled in with this: {type(error).__name__}", param) from error
    if not found[0][1]:
        raise wrong("there is nothing to go on with", param)
    room = min(left for left, _, _ in found)
    if room < 1:
        raise wrong(
            f"the prompt has {found[0][1]} tokens, and {-room + 1} more than the models' context leaves for it", param,
            "context_length_exceeded",
        )  # fmt: skip
    return room, found[0][1], found[0][2]


def _budget(request: Request, defaults: Defaults, most: int, room: int) -> int:
    """Most tokens of the answer: what is asked for must fit, what is only the default is made to."""
    if request.limit is None:
        return min(defaults.max_tokens or most, most, room)
    param = "max_tokens" if getattr(request, "max_completion_tokens", None) is None else "max_completion_tokens"
    if request.limit > most:
        raise wrong(f"an answer has at most {most} tokens here, not {request.limit}", param, "max_tokens_too_large")
    if request.limit > room:
        raise wrong(
            f"{request.limit} tokens do not fit: the models' context leaves {room} after this prompt", param,
            "context_length_exceeded",
        )  # fmt: skip
    return request.limit
