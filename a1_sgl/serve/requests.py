"""Requests as OpenAI has them. What is not honoured is refused by its name, and never left aside in silence.

A field that is null is as good as absent. Fields that change nothing of an answer (``user``, ``metadata``, ...) are
taken; those that would change it and cannot be honoured are taken only with the value that asks for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from a1_sgl import reading
from a1_sgl.errors import ConfigError, named

Effort = Literal["think", "open", "none"]
"""Where reasoning ends: at ``</think>``; where the final answer's paragraph begins; or all of a text is the answer."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


def _only(why: str, *values: Any) -> AfterValidator:
    """Takes these values, which ask for nothing, and refuses what would have to be honoured."""

    def check(value: Any) -> Any:
        if value is None or any(value == one and type(value) is type(one) for one in values):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool) and value in [v for v in values if v == 0]:
            return value
        raise ValueError(f"cannot be honoured here: {why}; leave it out")

    return AfterValidator(check)


class Options(_Model):
    """What goes beyond OpenAI: the request's ``a1`` object (``extra_body={"a1": {...}}``).

    Parameters of the program itself, such as ``turns`` and ``take_over``, stand beside these and are checked by the
    program (`a1_sgl.programs.parameters`).
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, hide_input_in_errors=True)

    alpha: Annotated[float, Field(gt=0, lt=1)] | None = None
    chains: Annotated[int, Field(ge=1, strict=True)] | None = None
    vote: str | None = None
    rate: str | None = None
    runtime: Literal["draft", "target", "both"] | None = None
    chunking: str | None = None
    grader: str | None = None
    deadline: Annotated[float, Field(gt=0)] | None = None
    reasoning: Effort | None = None

    @property
    def own(self) -> dict[str, Any]:
        """The program's own parameters."""
        return {name: value for name, value in (self.model_extra or {}).items() if value is not None}


class StreamOptions(_Model):
    """As OpenAI has them."""

    include_usage: bool = False
    include_obfuscation: Annotated[bool | None, _only("nothing is padded", False)] = None


class TextPart(_Model):
    """A part of a message that is text."""

    type: Literal["text"]
    text: str


class Message(_Model):
    """One turn of a conversation.

    ``reasoning_content`` of earlier answers is taken and not shown to the model, as the makers of such models advise.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: Annotated[list[Any] | None, _only("annotations cannot be shown to the model", [])] = None
    audio: Annotated[Any, _only("these models hear nothing")] = None
    function_call: Annotated[Any, _only("use tool_calls")] = None

    @model_validator(mode="after")
    def _whole(self) -> Message:
        if self.content is None and not self.tool_calls:
            raise ValueError("content is missing")
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"a message of role {self.role} calls no tools")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("tool_call_id goes with role tool")
        return self

    def said(self) -> dict[str, Any]:
        """As a chat template takes it: text in one piece."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        role = "system" if self.role == "developer" else self.role
        found: dict[str, Any] = {"role": role, "content": content or ""}
        for name in ("name", "tool_calls", "tool_call_id"):
            if (value := getattr(self, name)) is not None:
                found[name] = value
        return found


class Function(_Model):
    """A function that the model may call."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Annotated[bool | None, _only("nothing constrains what is written", False)] = None


class Tool(_Model):
    """As OpenAI has them."""

    type: Literal["function"]
    function: Function


def _many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _known(value: Any) -> Any:
    """Text must be what UTF-8 can hold: JSON has halves of characters that nothing can be sent with."""
    if isinstance(value, bytes):
        raise ValueError("the body is not sent as JSON; its header is to be Content-Type: application/json")
    if isinstance(value, Mapping):
        value = {name: one for name, one in value.items() if one is not None}
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("the request holds half of a surrogate pair, which is no character") from None
    except (TypeError, ValueError, RecursionError):
        raise ValueError("the request is nested too deeply, or is no JSON") from None
    return value


_PENALTY = "each chunk is a generation of its own, and a runtime would count within it alone"
_LOGPROBS = "an answer has several authors, whose log-probabilities mean different things"


class Common(_Model):
    """What both kinds of completion have."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    n: Annotated[int, Field(ge=1, le=128, strict=True)] = 1
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=1000)]], BeforeValidator(_many), Field(max_length=16)
    ] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(strict=True), AfterValidator(lambda k: _top_k(k))] | None = None
    min_p: Annotated[float, Field(ge=0, lt=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63, strict=True)] | None = None
    a1: Options = Field(default_factory=Options)

    user: str | None = None
    metadata: dict[str, Any] | None = None
    frequency_penalty: Annotated[float | None, _only(_PENALTY, 0.0)] = None
    presence_penalty: Annotated[float | None, _only(_PENALTY, 0.0)] = None
    repetition_penalty: Annotated[float | None, _only(_PENALTY, 1.0)] = None
    logit_bias: Annotated[dict[str, Any] | None, _only("draft and target may have different tokens", {})] = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return _known(value)

    @model_validator(mode="after")
    def _agrees(self) -> Common:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for streams; set stream to true, or leave it out")
        return self


def _top_k(value: int) -> int:
    if value != -1 and value < 1:
        raise ValueError(f"must be at least 1, or -1 for all, not {value}")
    return value


class ChatRequest(Common):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, strict=True)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, strict=True)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Annotated[Any, _only("nothing makes a model call a tool, or a certain one", "auto", "none")] = None
    parallel_tool_calls: Annotated[bool | None, _only("nothing keeps a model from calling several", True)] = None
    logprobs: Annotated[bool | None, _only(_LOGPROBS, False)] = None
    top_logprobs: Annotated[int | None, _only(_LOGPROBS, 0)] = None
    response_format: Annotated[
        dict[str, Any] | None, _only("nothing constrains what is written", {"type": "text"})
    ] = None  # fmt: skip
    reasoning_effort: Annotated[str | None, _only("say it with the model and its a1 options")] = None
    verbosity: Annotated[str | None, _only("the models know no such thing", "medium")] = None
    modalities: Annotated[list[Any] | None, _only("answers are text", ["text"])] = None
    audio: Annotated[Any, _only("answers are text")] = None
    prediction: Annotated[Any, _only("nothing is predicted by the client")] = None
    functions: Annotated[list[Any] | None, _only("use tools")] = None
    function_call: Annotated[Any, _only("use tools")] = None
    web_search_options: Annotated[Any, _only("nothing is searched for")] = None
    store: Annotated[bool | None, _only("nothing is stored for the client", False)] = None
    service_tier: Annotated[str | None, _only("there is one tier", "auto", "default")] = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise ValueError("max_tokens and max_completion_tokens are the same thing; give one of them")
        return self

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer, reasoning included."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Common):
    """``POST /v1/completions``."""

    prompt: Annotated[str, Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, strict=True)] | None = None
    best_of: Annotated[int | None, _only("say it with the model, such as best_of_n", 1)] = None
    echo: Annotated[bool | None, _only("a prompt is not said again", False)] = None
    suffix: Annotated[str | None, _only("nothing is written towards an end", "")] = None
    logprobs: Annotated[int | None, _only(_LOGPROBS)] = None

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer."""
        return self.max_tokens


Request = ChatRequest | CompletionRequest


class Defaults(_Model):
    """What a request is taken to say where it says nothing: a file's content.

    ``models`` says more, or other things, for single models by their names.
    """

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    system: str | None = None
    a1: Options = Field(default_factory=Options)
    models: dict[str, Defaults] = Field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Defaults:
        """Reads a YAML or JSON file.

        Raises:
            ConfigError: it cannot be read, or a field of it is wrong.
        """
        content = reading.from_yaml(path)
        try:
            return cls.model_validate(content or {})
        except ValidationError as error:
            raise ConfigError(f"{path}: {named(error.errors()[0])}") from error

    def of(self, model: str) -> Defaults:
        """Those of one model: its own, and what is common to all where it has none."""
        mine = self.models.get(model)
        return self if mine is None else self.under(mine)

    def under(self, nearer: Defaults) -> Defaults:
        """What `nearer` says, and these where it says nothing."""
        found: dict[str, Any] = {}
        for one in (self, nearer):
            found |= one.model_dump(exclude_none=True, exclude={"models", "a1"})
        a1 = {**self.a1.model_dump(exclude_none=True), **nearer.a1.model_dump(exclude_none=True)}
        return Defaults(**found, a1=Options(**a1), models={**self.models, **nearer.models})
