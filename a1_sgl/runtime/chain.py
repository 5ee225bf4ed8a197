"""A chain: one branch of a question, as programs see it.

A chain is one branch of an SGLang program's state. Draft and target write to the same state in turn; its transcript
keeps the ids that each runtime knows the text by.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from a1_sgl.answers import boxes, final_answer, stated_answer
from a1_sgl.conformal import SCORES, Decider, Decision, Evidence, Score
from a1_sgl.errors import ChainAborted, ConfigError
from a1_sgl.runtime import chat, judge
from a1_sgl.runtime.endpoint import Endpoint
from a1_sgl.runtime.inflight import InFlight
from a1_sgl.runtime.options import CallOptions
from a1_sgl.runtime.pair import DraftTarget
from a1_sgl.runtime.transcript import Transcript
from a1_sgl.types import (
    PROGRAM,
    CalibrationEvent,
    Call,
    ChainEvent,
    Chunk,
    ChunkEvent,
    DropEvent,
    DropReason,
    Ending,
    Listener,
    Loss,
    Question,
    RatingEvent,
    VerdictEvent,
)

MEAN_LOSS = SCORES["mean_loss"]


@dataclass(frozen=True)
class Scored:
    """A chunk's score, higher is stranger, the tokens it is of and the calls it took, the verifier's first."""

    value: float
    tokens: int
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class _Begun:
    """A generation under way: its name, if there was room for one, and what the chain was like before it."""

    name: str | None
    start: int
    room: int


class Chain:
    """One branch: chunks of text after a prompt, written by one runtime or by a draft and a target.

    A program calls its steps in whatever order its method asks, and `end_turn` after each turn. Every step is reported
    to the listener. One thread at a time.

    Attributes:
        question, sample: whose chain it is, and its number.
        turn: turns that are over.
        take_overs: how often the target wrote.
        ending: why it is complete; None while it goes on.
        chunks: what it consists of.
        scores: of those chunks that were scored, by `Chunk.start`.
        rating: what its program ranks it by, higher better.
    """

    def __init__(
        self, state: ProgramState, backend: Endpoint | DraftTarget, question: Question, sample: int, listener: Listener,
        *, seed: int | None = None,
    ) -> None:  # fmt: skip
        self.state, self.backend, self.question, self.sample = state, backend, question, sample
        self.turn = 0
        self.take_overs = 0
        self.ending: Ending | None = None
        self.chunks: list[Chunk] = []
        self.scores: dict[int, float] = {}
        self.rating: float | None = None
        self._listener, self._seed = listener, seed
        self._prompt = Transcript.of(state.stream_executor)
        self._answers, self._inherited = 0, 0
        self._written = itertools.count()
        self._pending: _Begun | None = None
        self._started = time.time()
        self._gate: Decider | None = None
        self._calls = InFlight()
        options = CallOptions.of(state.stream_executor)
        self._options = replace(options, scopes=(*options.scopes, self._calls))
        self._options.save(state.stream_executor)

    # --- the runtimes -----------------------------------------------------------------------------------------

    @property
    def writer(self) -> Endpoint:
        """Who writes: the draft of a pair, or the one runtime there is."""
        return self.backend.draft if isinstance(self.backend, DraftTarget) else self.backend

    @property
    def verifier(self) -> Endpoint:
        """Who scores: the target of a pair, or the one runtime there is."""
        return self.backend.target if isinstance(self.backend, DraftTarget) else self.backend

    # --- writing ----------------------------------------------------------------------------------------------

    def draft(self, max_tokens: int, **sampling: Any) -> Chunk:
        """The writer continues the chain by at most `max_tokens` tokens."""
        return self.write(self.writer, max_tokens, **sampling)

    def target(self, max_tokens: int, **sampling: Any) -> Chunk:
        """The target takes over for at most `max_tokens` tokens.

        Raises:
            ConfigError: there is one runtime only.
        """
        if not isinstance(self.backend, DraftTarget):
            raise ConfigError("this program needs a draft and a target; run it with backend=DraftTarget(...)")
        self.take_overs += 1
        return self.write(self.backend.target, max_tokens, **sampling)

    def write(self, author: Endpoint, max_tokens: int, **sampling: Any) -> Chunk:
        """`author` continues the chain until a stop string, its end token or `max_tokens` tokens.

        Sampling parameters and stop strings are those the program was run with, but for what `sampling` names. A chunk
        of white space alone is continued: a stop string met at once says nothing. What `begin` began is taken up.
        """
        self.ending = None
        if self._pending is None:
            self.begin(author, max_tokens, **sampling)
        assert self._pending is not None
        begun, self._pending = self._pending, None
        text, ended = "", False
        ids: list[int] = []
        calls: list[Call] = []
        left, name = min(max_tokens, begun.room), begun.name
        while left > 0 and not ended and not text.strip():
            said, meta = self._collect(name or self._submit(author, left, sampling))
            name = None
            text, ids, ended = text + said, ids + meta["output_ids"], meta["ended"]
            calls.append(meta["call"])
            if not meta["call"].completion_tokens:
                break
            left -= meta["call"].completion_tokens
        tokens = sum(call.completion_tokens for call in calls)
        chunk = self._add(Chunk(author.name, text, tuple(ids), ended, begun.start), tokens, tuple(calls))
        # Not what is left: a character torn at the end was taken back, which leaves room for a piece of it.
        if self.ending is None and tokens >= begun.room:
            self.ending = "context"
        return chunk

    def begin(self, author: Endpoint, max_tokens: int, **sampling: Any) -> None:
        """`author` begins what the next `write` will return, by the same author; this returns at once."""
        assert self._pending is None
        start, room = len(self._transcript().pieces), self._room()
        left = min(max_tokens, room)
        self._pending = _Begun(self._submit(author, left, sampling) if left > 0 else None, start, room)

    def append(self, text: str) -> Chunk:
        """The program itself puts `text` into the chain, which thereby goes on."""
        start = len(self._transcript().pieces)
        self.state += text
        self.state.sync()
        self._transcript()
        self.ending = None
        return self._add(Chunk(PROGRAM, text, (), False, start), 0, ())

    def drop(self, chunk: Chunk, reason: DropReason = "replaced") -> None:
        """Takes `chunk`, the last of the chain, back out of it; the chain goes on."""
        kept = Transcript(self._transcript().pieces[: chunk.start])
        executor = self.state.stream_executor
        executor.text_ = executor.text_[: kept.chars]
        kept.save(executor)
        self.chunks.remove(chunk)
        self.scores.pop(chunk.start, None)
        self._answers, self.ending = len(boxes(self.text)), None
        self._dropped(chunk, reason)

    def trim(self, chunk: Chunk, suffix: str) -> None:
        """Takes `suffix` off `chunk`, the last of the chain, if it ends with it."""
        if not suffix or not chunk.text.endswith(suffix):
            return
        (author,) = (e for e in endpoints(self.backend) if e.name == chunk.author)
        text, ids = chunk.text.removesuffix(suffix), chunk.ids
        while ids and len(author.tokenizer.decode(ids, skip_special_tokens=True)) > len(text):
            ids = ids[:-1]
        if author.tokenizer.decode(ids, skip_special_tokens=True) != text:  # one token for text and suffix
            ids = author.encode(text)
        executor = self.state.stream_executor
        kept = Transcript(self._transcript().pieces[: chunk.start])
        executor.text_ = executor.text_[: kept.chars] + text
        kept.plus(text, {author.tokenizer_key: ids}).save(executor)
        self.chunks[-1] = replace(chunk, text=text, ids=ids)

    def end_turn(self) -> bool:
        """Counts the turn; True if the chain is complete."""
        self.turn += 1
        return self.ending is not None

    # --- judging ----------------------------------------------------------------------------------------------

    def loss(self, chunk: Chunk) -> tuple[Loss, Call]:
        """The verifier's loss on `chunk`, which must be the last of the chain.

        An end token is a token of its chunk, so that ending too early is scored too. Where tokenizers differ, the
        losses are those of the verifier's own tokens for the chunk's text.

        Raises:
            RuntimeFault: the runtime gave no value for some token.
            ValueError: the chunk is empty.
        """
        return self._loss(chunk.start, chunk.ended, self.verifier)

    def score(self, chunk: Chunk, score: Score = MEAN_LOSS) -> Scored:
        """Scores `chunk`, the last of the chain. Errors as in `loss`."""
        loss, call = self.loss(chunk)
        if score.needs_draft:
            # A scoring call, not the log-probabilities of generation: those are at the sampling temperature.
            draft, draft_call = self._loss(chunk.start, chunk.ended, self.writer)
            scored = Scored(score(Evidence(loss.values, draft.values)), loss.tokens, (call, draft_call))
        else:
            scored = Scored(score(Evidence(loss.values)), loss.tokens, (call,))
        self.scores[chunk.start] = scored.value
        return scored

    def rate(self, ask: str = judge.STEP, *, cue: str = "") -> judge.Rating:
        """The verifier answers a judge prompt about the text so far, from 0 to 9; the chain is left as it is.

        With a `cue`, such as ``Wait``, it is not asked in words: the rating is 9 times the chance that it would not go
        on with the cue's first token. That costs no prompt, and suits a verifier that corrects itself aloud.

        A chain that leaves no room for the prompt in the context is rated by its end: its oldest tokens are left out.

        Raises:
            ConfigError: the tokenizer does not write every digit as one token.
        """
        endpoint, messages = self.verifier, self.question.messages
        if cue:
            logprobs, call = endpoint.next_token(
                self._transcript().ids(endpoint), [endpoint.encode(cue)[0]], self._options
            )
            return judge.Rating.doubted(math.exp(logprobs[0]), call)
        suffix = chat.after(endpoint.tokenizer, messages, ask) + judge.LEAD
        lead = list(endpoint.encode(suffix))
        digits = [endpoint.encode(suffix + digit) for digit in judge.DIGITS]
        if any(list(one[:-1]) != lead for one in digits):
            raise ConfigError(f"{endpoint}: its tokenizer does not write a digit as one token, which a rating needs")
        prefix = self._transcript().ids(endpoint)
        most = endpoint.longest_prompt - len(lead) - self._options.image_tokens.get(endpoint.key, 0)
        if (over := len(prefix) - most) > 0:
            asked = len(self._prompt.ids(endpoint))
            prefix = [*prefix[:asked], *prefix[asked + over :]]
        return judge.Rating.of(*endpoint.next_token([*prefix, *lead], [one[-1] for one in digits], self._options))

    def judge(self, chunk: Chunk, gate: Decider, *, score: Score = MEAN_LOSS, replace: bool = False) -> bool:
        """Scores `chunk` and asks the gate; True if it is to be handed over. Errors as in `loss`."""
        return self.ask(chunk, self.score(chunk, score), gate, replace=replace).take_over

    def ask(self, chunk: Chunk, scored: Scored, gate: Decider, *, replace: bool = False) -> Decision:
        """Asks the gate about `chunk`, the last of the chain. With `replace` a rejected chunk is dropped."""
        self._gate = gate
        decision = gate(
            scored.value, question=self.question.id, sample=self.sample, turn=self.turn, task=self.question.task
        )  # fmt: skip
        self._verdict(chunk, scored, decision.take_over, replace, decision)
        return decision

    def verdict(self, chunk: Chunk, scored: Scored, take_over: bool, *, replace: bool = False) -> bool:
        """Like `ask`, of a rule that is no gate: reports what it decided."""
        self._verdict(chunk, scored, take_over, replace, None)
        return take_over

    def calibrate(self, chunk: Chunk, gate: Decider, *, score: Score = MEAN_LOSS) -> None:
        """Scores `chunk` and puts the score into the gate's bank; nothing is decided. Errors as in `loss`."""
        scored = self.score(chunk, score)
        gate.calibrate(
            scored.value, question=self.question.id, sample=self.sample, turn=self.turn, task=self.question.task
        )  # fmt: skip
        self._listener(
            CalibrationEvent(
                question=self.question.id, task=self.question.task, score=scored.value, tokens=scored.tokens,
                calls=scored.calls,
            )
        )  # fmt: skip

    # --- branches ---------------------------------------------------------------------------------------------

    def fork(self) -> Chain:
        """A branch that begins with this chain's text; what they share is computed once."""
        branch = Chain(
            _fork(self.state), self.backend, self.question, self.sample, self._listener, seed=self._seed
        )  # fmt: skip
        branch._prompt = self._prompt
        branch._written = self._written  # so that no two branches draw with one seed
        branch.turn, branch._inherited = self.turn, len(self.chunks)
        branch._copy(self)
        return branch

    def become(self, branch: Chain, reason: DropReason = "pruned") -> None:
        """Goes on as `branch`, a fork that nobody else uses; what it does not share with it is dropped."""
        shared = 0
        for mine, theirs in zip(self.chunks, branch.chunks, strict=False):
            if mine is not theirs:
                break
            shared += 1
        for chunk in self.chunks[shared:]:
            self._dropped(chunk, reason)
        self.close()
        self.state, self._pending = branch.state, branch._pending
        self._copy(branch)
        # It is stopped by whoever may stop this chain; the branch's own handle goes with the branch.
        replace(self._options, seed=None).save(self.state.stream_executor)

    def discard(self, reason: DropReason = "rolled back") -> None:
        """Gives a fork up: what it wrote is dropped, and what it has begun is aborted and accounted for."""
        for chunk in self.chunks[self._inherited :]:
            self._dropped(chunk, reason)
        self._calls.stop()
        if self._pending is not None:
            name, self._pending = self._pending.name, None
            if name is not None and (meta := self._wait(name)) is not None:
                self._waste(reason, meta["call"])
        self.close()

    def stop(self) -> None:
        """Aborts what the chain has under way, from any thread; its next step raises `ChainAborted`."""
        self._calls.stop()

    # --- what it holds ----------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """Everything after the prompt."""
        return str(self.state.stream_executor.text_[self._prompt.chars :])

    @property
    def answer(self) -> str | None:
        """The last answer in its text, if there is one; a chain that came to its own end may have stated it unboxed."""
        return stated_answer(self.text) if self.ending == "ended" else final_answer(self.text)

    @property
    def stopped(self) -> bool:
        """Whether it, alone or with others, was stopped."""
        return self._options.stopped

    def whole_loss(self, endpoint: Endpoint) -> tuple[Loss, Call]:
        """The loss of everything after the prompt on `endpoint`: one prefill.

        Raises:
            ValueError: the chain is empty.
        """
        return self._loss(len(self._prompt.pieces), bool(self.chunks) and self.chunks[-1].ended, endpoint)

    def rated(self, by: str, rating: float, call: Call) -> None:
        """Takes note of a rating, and what it cost."""
        self.rating = rating
        self._listener(
            RatingEvent(question=self.question.id, sample=self.sample, by=by, rating=rating, call=call)
        )  # fmt: skip

    def finish(self) -> ChainEvent:
        """Closes the chain. One that was stopped has no answer."""
        ending: Ending = "stopped" if self.stopped else self.ending or "turns"
        event = ChainEvent(
            question=self.question.id, sample=self.sample, text=self.text,
            answer=None if ending == "stopped" else self.answer, ending=ending, turns=self.turn,
            take_overs=self.take_overs, rating=self.rating, started=self._started, ended=time.time(),
        )  # fmt: skip
        self._listener(event)
        return event

    def leave(self) -> None:
        """The chain is over, finished or broken off: its gate need not wait for it."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.finish(self.question.id, self.sample)
        self.close()

    def close(self) -> None:
        """Gives the chain's thread back; it can be read but no longer written."""
        self.state.stream_executor.end()

    # --- inside -----------------------------------------------------------------------------------------------

    def _copy(self, other: Chain) -> None:
        self.ending, self.rating, self._gate = other.ending, other.rating, other._gate
        self.chunks, self.scores = list(other.chunks), dict(other.scores)
        self._answers = other._answers

    def _add(self, chunk: Chunk, tokens: int, calls: tuple[Call, ...]) -> Chunk:
        self.chunks.append(chunk)
        self._listener(
            ChunkEvent(
                question=self.question.id, sample=self.sample, turn=self.turn, author=chunk.author, text=chunk.text,
                tokens=tokens, ended=chunk.ended, calls=calls,
            )
        )  # fmt: skip
        answers = len(boxes(self.text))
        if chunk.ended:
            self.ending = "answered" if answers else "ended"
        elif answers > self._answers:
            self.ending = "answered"
        elif self._room() <= 0:
            self.ending = "context"
        self._answers = answers
        return chunk

    def _verdict(
        self, chunk: Chunk, scored: Scored, take_over: bool, replaced: bool, decision: Decision | None
    ) -> None:  # fmt: skip
        call, draft_call = (*scored.calls, None, None)[:2]
        self._listener(
            VerdictEvent(
                question=self.question.id, sample=self.sample, turn=self.turn, score=scored.value, tokens=scored.tokens,
                p_value=decision.p_value if decision else None, alpha=decision.alpha if decision else None,
                n=decision.n if decision else 0, take_over=take_over, replaced=replaced and take_over, call=call,
                draft_call=draft_call, task=self.question.task,
            )
        )  # fmt: skip
        if take_over and replaced:
            self.drop(chunk)

    def _loss(self, start: int, ended: bool, endpoint: Endpoint) -> tuple[Loss, Call]:
        pieces = self._transcript().pieces
        scored = Transcript(pieces[start:]).ids(endpoint)
        if ended and endpoint.tokenizer.eos_token_id is not None:
            scored.append(endpoint.tokenizer.eos_token_id)
        return endpoint.loss(Transcript(pieces[:start]).ids(endpoint), scored, self._options)

    def _dropped(self, chunk: Chunk, reason: DropReason) -> None:
        self._listener(
            DropEvent(
                question=self.question.id, sample=self.sample, turn=self.turn, author=chunk.author,
                tokens=len(chunk.ids) + chunk.ended, reason=reason,
            )
        )  # fmt: skip

    def _waste(self, reason: DropReason, call: Call) -> None:
        self._listener(
            DropEvent(
                question=self.question.id, sample=self.sample, turn=self.turn, author=call.runtime,
                tokens=call.completion_tokens, reason=reason, calls=(call,),
            )
        )  # fmt: skip

    def _room(self) -> int:
        """Tokens after which the chain can still be sent to every runtime, one kept for an end token."""
        transcript = self._transcript()
        images = self._options.image_tokens
        return min(
            e.longest_prompt - 1 - len(transcript.ids(e)) - images.get(e.key, 0) for e in endpoints(self.backend)
        )  # fmt: skip

    def _transcript(self) -> Transcript:
        transcript = Transcript.of(self.state.stream_executor)
        transcript.save(self.state.stream_executor)
        return transcript

    def _submit(self, author: Endpoint, max_tokens: int, sampling: dict[str, Any]) -> str:
        executor = self.state.stream_executor
        executor.backend = author
        number = next(self._written)
        if self._seed is not None:
            name = f"{self._seed}\0{self.question.id}\0{self.sample}\0{number}".encode()
            drawn = int.from_bytes(hashlib.blake2b(name, digest_size=4).digest()) >> 1
            replace(CallOptions.of(executor), seed=drawn).save(executor)
        name_ = f"chunk{number}"
        self.state += sgl.gen(name_, max_tokens=max_tokens, **sampling)
        return name_

    def _wait(self, name: str) -> dict[str, Any] | None:
        """What the runtime said of a generation; None if it failed."""
        executor = self.state.stream_executor
        # A generation that failed sets its event and leaves no value; SGLang keeps the reason on the executor, whose
        # thread is gone by then, so nothing may be submitted afterwards.
        executor.variable_event[name].wait()
        meta: dict[str, Any] = executor.meta_info.get(name, {})
        return meta if "call" in meta else None

    def _collect(self, name: str) -> tuple[str, dict[str, Any]]:
        executor = self.state.stream_executor
        meta = self._wait(name)
        if meta is None:
            executor.worker.join()
            raise executor.error_
        if meta["stopped"]:
            raise ChainAborted(f"chain {self.sample}: stopped", meta["call"])
        return executor.variables[name], meta


def endpoints(backend: Endpoint | DraftTarget) -> tuple[Endpoint, ...]:
    """The runtimes behind a backend."""
    return (backend.draft, backend.target) if isinstance(backend, DraftTarget) else (backend,)


def _fork(state: ProgramState) -> ProgramState:
    """A fork without SGLang's own prefill of the common text, which has been computed already."""
    return state.fork(1)[0]
