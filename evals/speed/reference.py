"""A loop that behaves as the method's published code does, to be measured against.

The m chains of a question run together, and the next question begins when the slowest of them has ended. A chain is a
list of texts; for each turn they are joined, rendered by the runtime's chat endpoint and tokenised anew, with at most
16 requests at the draft and 8 at the target at once. A chunk is scored by a request of its own, which also decodes one
token and asks for top log-probabilities, and where the chunk begins is found by tokenising what comes before it. Seen
in ``ref_async.py`` of the method's repository; written anew, and other in four respects, so that accuracy, chunks and
take-over rate are comparable: an assistant's text is continued and not followed by a new turn; scores are of the text
that the models see and not of one without the chat template, which also spares the target a second prefix; chunks end
at the bench's stop strings, where the published code sends none; and the gate is the bench's own. Its m is 16.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from a1_sgl.answers import final_answer
from a1_sgl.conformal import Decider
from a1_sgl.engine import Scope, Settings, SGLang, wait
from a1_sgl.errors import ConfigError, RuntimeFault
from a1_sgl.evals.speed.arms import Arm
from a1_sgl.session import Backend
from a1_sgl.session.context import enclosing
from a1_sgl.types import Call, CallKind, ChainEvent, ChunkEvent, Listener, Question, Result, Usage, VerdictEvent

DRAFT_REQUESTS, TARGET_REQUESTS = 16, 8
"""At once, as the published code has them."""
_PATIENCE = 24_000.0


@dataclass(frozen=True)
class Reference(Arm):
    """`a1` as the published code would run it."""

    _turn: list[asyncio.Lock] = field(default_factory=list, compare=False, repr=False)

    @property
    def together(self) -> bool:
        """A question's chains wait for its slowest."""
        return True

    @property
    def at_once(self) -> int:
        """A question's chains."""
        return self.chains

    def configuration(self, backend: Backend) -> dict[str, Any]:
        """As of an `Arm`."""
        return super().configuration(backend) | {"program": "reference"}

    def run(
        self, question: Question, samples: Sequence[int], backend: Backend, gate: Decider | None, listener: Listener
    ) -> Result:
        """Runs one question, once those before it have ended.

        Raises:
            ConfigError: as `check`.
            RuntimeFault: a request failed.
            ChainAborted: the run was stopped.
        """
        assert gate is not None
        return wait(self._question(question, samples, backend, gate, listener, enclosing() or Scope()))

    async def _question(
        self, question: Question, samples: Sequence[int], backend: Backend, gate: Decider, listener: Listener,
        scope: Scope,
    ) -> Result:  # fmt: skip
        check(backend)
        if not self._turn:
            self._turn.append(asyncio.Lock())
        async with self._turn[0], _Side(backend, "draft", DRAFT_REQUESTS) as draft, _Side(
            backend, "target", TARGET_REQUESTS
        ) as target:  # fmt: skip
            chains = [_Chain(self, question, sample, draft, target, gate, listener, scope) for sample in samples]
            events = await asyncio.gather(*(chain.run() for chain in chains))
        return Result(question, tuple(events), (), Usage.of([]), self.voted)


def check(backend: Backend) -> None:
    """Whether the loop can speak to these runtimes.

    Raises:
        ConfigError: it cannot.
    """
    for role in ("draft", "target"):
        engine = backend.roles.named(role).engine
        if not isinstance(engine, SGLang):
            raise ConfigError(
                f"the reference loop speaks to one {role} runtime over HTTP, and not to {engine.name}, a "
                f"{type(engine).__name__}; name one URL, or leave the arm out"
            )


class _Side:
    """One of the two runtimes, as an HTTP client sees it."""

    def __init__(self, backend: Backend, role: str, at_once: int) -> None:
        engine = backend.roles.named(role).engine
        assert isinstance(engine, SGLang)
        self.role, self.engine = role, engine
        self._places = asyncio.Semaphore(at_once)
        settings: Settings = engine.transport.settings
        key = settings.api_key
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        self._client = httpx.AsyncClient(
            timeout=_PATIENCE, headers=headers, trust_env=False,
            verify=settings.verify if engine.url.startswith("https") else False,  # else certificates are read in vain
            # SGLang hangs up after five idle seconds, and this loop does not send anything twice.
            limits=httpx.Limits(max_connections=1000, max_keepalive_connections=1000, keepalive_expiry=2),
        )  # fmt: skip

    async def __aenter__(self) -> _Side:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    async def chat(self, payload: dict[str, Any]) -> tuple[str, bool, Call]:
        """Text, whether the model ended its turn, and what it cost."""
        found, began = await self._post("/v1/chat/completions", payload)
        choice, usage = found["choices"][0], found["usage"]
        cached = ((found.get("sglext") or {}).get("cached_tokens_details") or {}).get("device", 0)
        call = self._call("decode", began, usage["prompt_tokens"], cached, usage["completion_tokens"])
        ended = choice["finish_reason"] == "stop" and not isinstance(choice.get("matched_stop"), str)
        return choice["message"]["content"] or "", ended, call

    async def loss(self, text: str, before: str) -> tuple[float, int, Call]:
        """Mean loss of what comes after `before` in `text`, of how many tokens, and what it cost."""
        start = len(self.engine.codec.encode(before, first=True))
        payload = {
            "text": text, "sampling_params": {"temperature": 0, "max_new_tokens": 1}, "return_logprob": True,
            "logprob_start_len": start, "top_logprobs_num": 1,
        }  # fmt: skip
        found, began = await self._post("/generate", payload)
        meta = found["meta_info"]
        losses = [-entry[0] for entry in meta["input_token_logprobs"][1:] if entry[0] is not None]
        call = self._call(
            "verify", began, meta["prompt_tokens"], meta["cached_tokens"], meta["completion_tokens"]
        )  # fmt: skip
        return statistics.fmean(losses) if losses else 0.0, len(losses), call

    async def _post(self, path: str, payload: dict[str, Any]) -> tuple[Any, float]:
        async with self._places:
            began = time.time()
            try:
                response = await self._client.post(f"{self.engine.url}{path}", json=payload)
                response.raise_for_status()
                return response.json(), began
            except (httpx.HTTPError, ValueError) as error:
                raise RuntimeFault(f"{self.role} runtime at {self.engine.url}{path}: {error!r}") from error

    def _call(self, kind: CallKind, began: float, prompt: int, cached: int, completion: int) -> Call:
        return Call(
            runtime=self.engine.name, role=self.role, kind=kind, prompt_tokens=prompt, cached_tokens=cached,
            completion_tokens=completion, started=began, ended=time.time(),
        )  # fmt: skip


class _Chain:
    """One chain: a history of texts."""

    def __init__(
        self, arm: Reference, question: Question, sample: int, draft: _Side, target: _Side, gate: Decider,
        listener: Listener, scope: Scope,
    ) -> None:  # fmt: skip
        self._scope = scope
        self._question, self._sample, self._gate, self._listener = question, sample, gate, listener
        self._draft, self._target = draft, target
        own = {name: arm.strategy.default(name) for name in arm.strategy.own} | arm.arguments
        self._turns, self._replace = own["turns"], own["take_over"] == "replace"
        self._tokens = {"draft": own["draft_tokens"], "target": own["target_tokens"]}
        self._join = arm.stop[0] if arm.stop else ""
        self._sampling = {**arm.sampling, **({"stop": arm.stop} if arm.stop else {})}
        self._history: list[str] = []

    async def run(self) -> ChainEvent:
        """Runs it to its end."""
        started, turn, take_overs, answer = time.time(), 0, 0, None
        for turn in range(1, self._turns + 1):
            self._scope.check()
            chunk = await self._write(self._draft, turn - 1)
            if not chunk:
                break
            if await self._rejected(chunk, turn - 1):
                take_overs += 1
                await self._write(self._target, turn - 1)
            answer = final_answer(self._text())
            if answer is not None and not self._sampling.get("ignore_eos"):
                break
        event = ChainEvent(
            question=self._question.id, sample=self._sample, text=self._text(), answer=answer,
            ending="turns" if answer is None else "answered", turns=turn, take_overs=take_overs, started=started,
            ended=time.time(),
        )  # fmt: skip
        self._listener(event)
        return event

    async def _write(self, side: _Side, turn: int) -> str:
        messages: list[Any] = list(self._question.messages)
        text = self._text() + (self._join if self._history else "")
        codec, limits = side.engine.codec, side.engine.limits
        room = limits.longest_prompt - 1 - len(codec.encode(codec.render(messages) + text, first=True))
        if room < 1:  # the published code would be refused here, and end
            return ""
        going = {"continue_final_message": True} if text else {}
        if text:
            messages.append({"role": "assistant", "content": text})
        said, ended, call = await side.chat(
            {
                "model": "default", "messages": messages, "max_tokens": min(self._tokens[side.role], room),
                "return_cached_tokens_details": True, **self._sampling, **going,
            }
        )  # fmt: skip
        if said:
            self._history.append(said)
        self._listener(
            ChunkEvent(
                question=self._question.id, sample=self._sample, turn=turn, author=side.role, text=said,
                tokens=call.completion_tokens, ended=ended, calls=(call,),
            )
        )  # fmt: skip
        return said

    async def _rejected(self, chunk: str, turn: int) -> bool:
        prompt = self._target.engine.codec.render(self._question.messages)
        earlier = self._join.join(self._history[:-1])
        before = prompt + earlier + (self._join if earlier else "")
        score, tokens, call = await self._target.loss(before + chunk, before)
        decision = self._gate(
            score, question=self._question.id, sample=self._sample, turn=turn, task=self._question.task
        )  # fmt: skip
        self._listener(
            VerdictEvent(
                question=self._question.id, sample=self._sample, turn=turn, score=score, tokens=tokens,
                p_value=decision.p_value, alpha=decision.alpha, n=decision.n, take_over=decision.take_over,
                replaced=decision.take_over and self._replace, call=call, task=self._question.task,
            )
        )  # fmt: skip
        if decision.take_over and self._replace:
            self._history.pop()
        return decision.take_over

    def _text(self) -> str:
        return self._join.join(self._history)
