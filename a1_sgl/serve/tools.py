"""Calls of tools in what a model wrote, read by SGLang's own parsers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from a1_sgl.errors import ConfigError


def check(name: str) -> None:
    """Refuses a parser that SGLang does not have.

    Raises:
        ConfigError: it has none of that name.
    """
    known = _parser().ToolCallParserEnum
    if name not in known:
        raise ConfigError(f"--tool-parser {name}: SGLang has {', '.join(known)}")


def calls(text: str, tools: Sequence[dict[str, Any]], parser: str) -> tuple[str, tuple[dict[str, Any], ...]]:
    """What is no call, and the calls as OpenAI has them. What cannot be read as a call is text."""
    from sglang.srt.entrypoints.openai.protocol import Tool

    read = _parser()([Tool(**tool) for tool in tools], parser)
    try:
        said, found = read.parse_non_stream(text)
    except Exception:  # whatever a parser raises at what a model wrote
        return text, ()
    return said.strip() if found else text, tuple(
        {"index": number, "id": f"call_{uuid4().hex[:24]}", "type": "function",
         "function": {"name": one.name, "arguments": one.parameters}}
        for number, one in enumerate(found)
    )  # fmt: skip


def _parser() -> Any:
    from a1_sgl import session as _session  # noqa: F401  so that sglang can be without a GPU

    from sglang.srt.function_call.function_call_parser import FunctionCallParser  # isort: skip

    return FunctionCallParser
