"""What SGLang answers to ``/generate``, checked once and made into typed records.

Everything that is known of SGLang's answers is here. Checked against 0.5.23.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import orjson

from a1_sgl.engine.protocol import Served

PROMPT_RESERVE = 7
"""Tokens by which the longest admitted prompt is shorter than the context."""


class Unusable(Exception):
    """An answer without what was asked for; a runtime that was merely disturbed may do better next time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        text, ids: what was generated, with stop strings, an end token and whatever is torn at the end.
        matched: the end token, or the stop string, that was met.
        aborted: whether the runtime gave up, or was told to; the counts are then what it says, else 0.
        message: why it gave up, if it says.
        meta: everything it says about the request.
    """

    text: str
    ids: list[int]
    matched: int | str | None
    aborted: bool
    message: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    meta: dict[str, Any]

    @property
    def ended(self) -> bool:
        """Whether an end token was sampled, and not a stop string met or the length reached."""
        return self.matched is _END or isinstance(self.matched, int)


_END: Any = "\0end"


def read(body: bytes) -> Answer:
    """The answer in `body`.

    Raises:
        Unusable: it is not JSON, or not of the shape of an answer.
    """
    found = json(body)
    if not isinstance(found, dict) or not isinstance(meta := found.get("meta_info"), dict):
        raise Unusable(f"no answer to a generation but {short(body)}")
    reason = meta.get("finish_reason")
    if not isinstance(reason, dict) or reason.get("type") not in ("stop", "length", "abort"):
        raise Unusable(f"no finish_reason in {short(body)}")
    aborted = reason["type"] == "abort"
    text, ids = found.get("text", "" if aborted else None), found.get("output_ids") or []
    if not isinstance(text, str) or not isinstance(ids, list) or not all(type(one) is int and one >= 0 for one in ids):
        raise Unusable(f"no text and ids in {short(body)}")
    said = [meta.get(name) for name in ("prompt_tokens", "cached_tokens", "completion_tokens")]
    counts = [count if type(count) is int and count >= 0 else None for count in said]
    if None in counts and not aborted:  # a request that is aborted while it waits is answered with none of them
        raise Unusable(f"no token counts in {short(body)}")
    prompt, cached, completion = [count or 0 for count in counts]
    matched = reason.get("matched")
    if reason["type"] == "stop" and not isinstance(matched, int | str):
        matched = _END
    if not aborted and len(ids) != completion:
        raise Unusable(
            f"{completion} tokens generated but {len(ids)} ids in the answer; the runtime must not run with "
            "--incremental-streaming-output or --skip-tokenizer-init"
        )
    message = str(reason.get("message") or "aborted")
    if reason["type"] != "stop":
        matched = None
    return Answer(text, ids, matched, aborted, message, prompt, cached, completion, meta)


def scored(meta: Mapping[str, Any], count: int) -> tuple[float, ...]:
    """Log-probabilities of the last `count` tokens of the prompt.

    The first position that was asked for comes back without a value, so that one more was asked for.

    Raises:
        Unusable: a value is missing, is no finite number, or there are too few or too many.
    """
    entries = meta.get("input_token_logprobs")
    entries = entries[1:] if isinstance(entries, list) else []
    values = [_value(entry) for entry in entries]
    good = [value for value in values if value is not None]
    if len(values) != count or len(good) != count:
        raise Unusable(
            f"asked for the log-probabilities of {count} tokens, got {len(good)}; does the runtime return input "
            "log-probabilities?"
        )
    return tuple(good)


def sampled(answer: Answer, likeliest: int) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
    """Log-probabilities of the tokens that were generated, and those of the likeliest ones at the first place.

    They are temperature-scaled unless the runtime has ``SGLANG_RETURN_ORIGINAL_LOGPROB=1``. One of the likeliest that
    has no chance at all is left out.

    Raises:
        Unusable: a value is missing, is no log-probability, or there are too few or too many; of an aborted answer
            what there is is taken.
    """
    entries = answer.meta.get("output_token_logprobs")
    values = [_value(entry) for entry in entries] if isinstance(entries, list) else []
    known = [value for value in takewhile(lambda value: value is not None, values[: len(answer.ids)])]
    if not answer.aborted and (len(values) != len(answer.ids) or len(known) != len(values)):
        raise Unusable(f"{len(answer.ids)} tokens generated, and {len(known)} log-probabilities of them in the answer")
    own = tuple(value for value in known if value is not None)
    if not likeliest or not own:
        return own, None
    listed = answer.meta.get("output_top_logprobs")
    first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], list) else []
    top = tuple(value for value in map(_value, first) if value is not None)
    if not 0 < math.fsum(map(math.exp, top)) <= 1.001:  # above 1 by rounding alone
        if answer.aborted:
            return own, None
        raise Unusable(f"asked for the {likeliest} likeliest first tokens, got {len(top)} log-probabilities")
    return own, top


def next_token(meta: Mapping[str, Any], choices: Sequence[int]) -> tuple[float, ...]:
    """Log-probabilities of `choices` as the next token.

    Raises:
        Unusable: the answer has none for one of them.
    """
    listed = meta.get("output_token_ids_logprobs")
    entries = listed[0] if isinstance(listed, list) and len(listed) == 1 and isinstance(listed[0], list) else []
    listed = [entry for entry in entries if isinstance(entry, list) and len(entry) > 1]
    values = {entry[1]: _value(entry) for entry in listed if type(entry[1]) is int}
    found = [values.get(token) for token in choices]
    for token, value in zip(choices, found, strict=True):
        if value is None:
            raise Unusable(f"no log-probability for token {token} as the next one")
    return tuple(value for value in found if value is not None)


def served(meta: Mapping[str, Any]) -> Served:
    """Where the time went, as far as the runtime tells: all of it only with ``--enable-metrics``."""
    begun, filled = _seconds(meta.get("forward_entry_time")), _seconds(meta.get("prefill_finished_time"))
    prefill = None if begun is None or filled is None else max(0.0, filled - begun)
    return Served(_seconds(meta.get("e2e_latency")), _seconds(meta.get("queue_time")), prefill)


def _seconds(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return float(value) if good else None


def _value(entry: Any) -> float | None:
    value = entry[0] if isinstance(entry, list) and entry else None
    if (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value <= 1e-3
    ):  # above 0 by rounding alone
        return float(value)
    return None


def json(body: bytes) -> Any:
    """What `body` says.

    Raises:
        Unusable: it is not JSON; a NaN, which is none, included.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unusable(f"an answer that is not JSON: {short(body)}") from error


def refused(body: bytes) -> tuple[int, bytes] | None:
    """The status and body with which a piece of a stream would have been refused without one: by then a stream has been
    answered with 200, and SGLang puts its status into the abort. None of any other piece."""
    try:
        reason = orjson.loads(body)["meta_info"]["finish_reason"]
        code = reason["status_code"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    if reason.get("type") != "abort" or type(code) is not int or not 400 <= code < 600:
        return None
    return code, orjson.dumps({"error": {"message": str(reason.get("message") or "aborted")}})


def said(body: bytes) -> str:
    """What an error's body says, in short and in one line."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "a page of HTML" if body.lstrip()[:1] == b"<" else " ".join(body[:200].decode(errors="replace").split())
    error = found.get("error") if isinstance(found, dict) else None
    if isinstance(error, dict) and "message" in error:
        return " ".join(str(error["message"])[:1000].split())
    return str(error or found)[:200]


def short(body: bytes) -> str:
    """The beginning of `body`, to be shown."""
    return repr(body[:80].decode(errors="replace"))
