"""One answer while it is made: from a run's events to what a reader is shown, and to the answer at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from a1_sgl.errors import A1Error
from a1_sgl.serve import tools
from a1_sgl.serve.answers import Answer, finish_reason, tokens_after
from a1_sgl.serve.plan import Plan
from a1_sgl.serve.split import Parts, split
from a1_sgl.types import AnswerEvent, ChainEvent, Event, LostEvent, PromptEvent, Result, Settled, VerdictEvent
from a1_sgl.voting import counted

Show = Callable[[dict[str, Any]], None]


class Choice:
    """What is known of one answer, and what of it was shown.

    A chain by itself is shown as it is settled; of several chains, which vote, each is told of in a line of the
    reasoning when it ends. What was shown is never taken back: a text that does not go on from there is an error.
    """

    def __init__(self, plan: Plan, index: int, show: Show) -> None:
        """
        Args:
            show: takes each delta.
        """
        self.index, self._plan, self._show = index, plan, show
        self._computed: set[str] = set()
        self._settled: dict[int, Settled] = {}
        self._prompt = self._cached = self._decisions = self._over = 0
        self._reasoning = self._content = self._progress = ""

    @property
    def begun(self) -> bool:
        """Whether its prompt is computed on every runtime, so that its chains are under way."""
        return len(self._computed) == len(self._plan.backend.roles.all)

    def hear(self, event: Event) -> None:
        """Takes an event of the run."""
        if isinstance(event, PromptEvent):
            self._computed.add(event.call.role)
            if event.call.role == self._plan.backend.roles.writer.name:
                self._prompt, self._cached = event.call.prompt_tokens, event.call.cached_tokens
        elif isinstance(event, VerdictEvent):
            self._decisions += 1
        if isinstance(event, LostEvent):
            self._settled.pop(event.sample, None)
        if self._plan.chains > 1 and self._plan.chat:
            self._tell(event)

    def watch(self, settled: Settled) -> None:
        """Takes what is settled of a chain."""
        self._settled[settled.sample] = settled
        if not self._plan.live:
            return
        if settled.over is None:
            self._shown(self._parts(_whole(settled.text, self._plan.stop), over=False, cut=False))
        else:  # at once: what its answer counts as is worked out later
            self._shown(self._parts(settled.text, over=True, cut=finish_reason(settled.over) == "length"))

    def finish(self, result: Result) -> Answer:
        """The answer; what of it was not shown yet is shown now, but for its end."""
        plan, chain = self._plan, self._chosen(result)
        finish = finish_reason(chain.ending)
        parts = self._parts(chain.text, over=True, cut=finish == "length")
        calls: tuple[dict[str, Any], ...] = ()
        content = parts.content
        if plan.parser is not None:
            content, calls = tools.calls(content, plan.tools, plan.parser)
            finish = "tool_calls" if calls else finish
        if plan.chains > 1:
            parts = Parts(self._progress, content, parts.at)
        self._shown(Parts(parts.reasoning, content, parts.at), over=True)
        if calls:
            self._show({"tool_calls": list(calls)})
        codecs = {role.name: role.engine.codec for role in plan.backend.roles.all}
        settled = self._settled.get(chain.sample)
        chunks = settled.chunks if settled is not None else ()
        at = len(chain.text) if parts.at is None else parts.at
        return Answer(
            self.index, content, parts.reasoning, finish,
            tokens=sum(chunk.tokens for one in self._settled.values() for chunk in one.chunks),
            answering=tokens_after(chunks, at, codecs) if content or calls else 0,
            prompt=self._prompt, cached=self._cached, about=self._about(result), calls=calls,
        )  # fmt: skip

    # --- inside -----------------------------------------------------------------------------------------------

    def _parts(self, text: str, *, over: bool, cut: bool) -> Parts:
        return split(text, self._plan.reasoning, over=over, cut=cut, thinking=self._plan.thinking)

    def _shown(self, parts: Parts, over: bool = False) -> None:
        """Shows what is new."""
        for name, new, old in (
            ("reasoning_content", parts.reasoning, self._reasoning), ("content", parts.content, self._content)
        ):  # fmt: skip
            if not new.startswith(old):
                raise A1Error(f"answer {self.index}: what was shown was taken back")
            if name == "content" and self._plan.parser is not None and not over:
                continue  # it may turn out to be a call
            if len(new) > len(old):
                self._show({name: new[len(old) :]})
            if name == "content":
                self._content = new
            else:
                self._reasoning = new

    def _tell(self, event: Event) -> None:
        if isinstance(event, ChainEvent):
            self._over += 1
            said = f"answer {event.answer}" if event.answer is not None else f"no answer ({event.ending})"
            by = f", {event.take_overs} of {event.turns} turns by the target" if event.take_overs else ""
            self._line(f"Chain {event.sample + 1} of {self._plan.chains}: {said}{by}.")
        elif isinstance(event, LostEvent):
            self._line(f"Chain {event.sample + 1} of {self._plan.chains} was lost.")
        elif isinstance(event, AnswerEvent) and event.support:
            shares = ", ".join(f"{answer} {share:.0%}" for answer, share in event.support.items())
            self._line(f"Vote ({event.vote}): {shares}.")

    def _line(self, text: str) -> None:
        self._progress += f"{text}\n"
        self._shown(Parts(self._progress, "", None))

    def _chosen(self, result: Result) -> ChainEvent:
        """The chain that says the answer: of those that the vote counts for it, the best rated, the first of equals."""
        answer = result.answer
        key = next((counted(chain) for chain in result.chains if chain.answer == answer and answer is not None), None)
        saying = [chain for chain in result.chains if chain.answer is not None and counted(chain) == key]
        chains = saying or [chain for chain in result.chains if chain.ending != "stopped"] or list(result.chains)
        return max(chains, key=lambda chain: (chain.rating or 0.0, -chain.sample))

    def _about(self, result: Result) -> dict[str, Any]:
        used = result.usage
        return {
            "chains": len(result.chains), "lost": len(result.lost),
            "turns": sum(chain.turns for chain in result.chains),
            "chunks": sum(len(one.chunks) for one in self._settled.values()),
            "decisions": self._decisions,
            "take_overs": sum(chain.take_overs for chain in result.chains),
            "decoded": dict(used.decode), "dropped": dict(used.dropped), "prefilled": dict(used.prefill),
            "cached": used.cached,
        }  # fmt: skip


def _whole(text: str, stops: tuple[str, ...]) -> str:
    """What of a text cannot be the beginning of a stop sequence."""
    for length in range(min(len(text), max(map(len, stops), default=0)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return text[:-length]
    return text
