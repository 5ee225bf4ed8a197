"""A chain: one branch of a question, as programs see it."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from a1_sgl.answers import boxes, final_answer, stated_answer
from a1_sgl.conformal import UNSEEN, Decider, Decision, Screening, TwoStage, find_score
from a1_sgl.engine import Generation, Scope, stack, wait
from a1_sgl.errors import ChainAborted, ConfigError
from a1_sgl.session import judge, scoring
from a1_sgl.session.account import Account
from a1_sgl.session.branch import Branch
from a1_sgl.session.context import Context
from a1_sgl.session.roles import Role, Roles
from a1_sgl.session.scoring import Scored
from a1_sgl.types import (
    PROGRAM,
    CalibrationEvent,
    Call,
    CallKind,
    ChainEvent,
    Chunk,
    ChunkEvent,
    DropReason,
    Ending,
    Question,
    RatingEvent,
    Settled,
    VerdictEvent,
)

if TYPE_CHECKING:
    from a1_sgl.session.auditor import Auditor


@dataclass(frozen=True)
class _Begun:
    """A generation under way: whose, what the chain was like before it, and the task, if there was room for one."""

    author: Role
    start: int
    room: int
    scope: Scope
    task: asyncio.Task[Generation] | None


class Chain:
    """One branch: chunks of text after a prompt, written by whoever plays the roles of its backend.

    A program calls its steps in whatever order its method asks, and `end_turn` after each turn. Every step is reported
    to the account. A chain runs on one stack of the event loop; its branch is made when it takes its first step.

    Attributes:
        question, sample: whose chain it is, and its number.
        roles: who writes, verifies and takes over.
        turn: turns that are over.
        attempt: how often this turn's chunk was drawn again.
        take_overs: how often the successor wrote.
        ending: why it is complete; None while it goes on.
        chunks: what it consists of.
        scores: of those chunks that were scored, by `Chunk.start`.
        rating: what its program ranks it by, higher better.
        asked: pieces of its transcript that are the prompt.
    """

    def __init__(
        self, question: Question, sample: int, roles: Roles, context: Context, account: Account,
        branch: Callable[[], Branch], asked: int, seeds: Iterator[int | None], forks: set[Chain], auditor: Auditor,
    ) -> None:  # fmt: skip
        """
        Args:
            branch: makes its branch.
            seeds: of its generations, shared with its forks, so that no two draw with one seed.
            forks: where forks are noted until they are given up or taken over; the group's.
            auditor: audits what a gate draws for it; the group's.
        """
        self.question, self.sample, self.roles, self.context, self.account = question, sample, roles, context, account
        self.turn = self.attempt = self.take_overs = 0
        self.ending: Ending | None = None
        self.chunks: list[Chunk] = []
        self.scores: dict[int, float] = {}
        self.rating: float | None = None
        self.asked = asked
        self.started = time.time()
        self._make: Callable[[], Branch] | None = branch
        self._branch: Branch | None = None
        self._seeds, self._forks, self._auditor = seeds, forks, auditor
        self._answers = 0
        self._stop_at: int | None = None  # where in the text a stop sequence begins that it came to
        self._pending: _Begun | None = None
        self._gate: Decider | None = None

    @property
    def branch(self) -> Branch:
        """Its text.

        Raises:
            RuntimeError: the chain was given up, or is over.
        """
        if self._branch is None:
            if self._make is None:
                raise RuntimeError(f"chain {self.sample} was given up or is over; it has no text any more")
            self._branch, self._make = self._make(), None
            self.started = time.time()
        return self._branch

    # --- writing ----------------------------------------------------------------------------------------------

    def draft(self, max_tokens: int, **sampling: Any) -> Chunk:
        """The writer continues the chain by at most `max_tokens` tokens."""
        return self.write(self.roles.writer, max_tokens, **sampling)

    def target(self, max_tokens: int, *, live: bool = False, **sampling: Any) -> Chunk:
        """The successor takes over for at most `max_tokens` tokens; `live` as in `write`.

        Raises:
            ConfigError: nobody takes over.
        """
        if self.roles.successor is None:
            raise ConfigError("this program needs a draft and a target; run it with Backend.connect(draft=, target=)")
        self.take_overs += 1
        return self.write(self.roles.successor, max_tokens, live=live, **sampling)

    def write(self, author: Role, max_tokens: int, *, live: bool = False, **sampling: Any) -> Chunk:
        """`author` continues the chain until a stop string, its end token or `max_tokens` tokens.

        Sampling parameters and stop strings are those the program was run with, but for what `sampling` names. A chunk
        of white space alone is continued: a stop string met at once says nothing. What `begin` began for this author is
        taken up, and what it began for another one is rolled back. Where the chain came to a stop sequence, this goes
        on before it, as it goes on without the token with which an author ended its turn.

        Args:
            live: what is written will stay, whatever comes of it, so that a watch is told of it piece by piece.
        """
        self._cut()
        self.ending = None
        if self._pending is not None and self._pending.author is not author:
            self._roll_back("rolled back")
        heard = self._live() if live and self.context.watch is not None and self._pending is None else None
        if self._pending is None and heard is None:
            self.begin(author, max_tokens, **sampling)
        begun = self._pending or _Begun(
            author, len(self.branch.transcript.pieces), self.room(), Scope(self.context.scope), None
        )
        self._pending = begun
        task, left = begun.task, min(max_tokens, begun.room)
        text, ended, length = "", False, len(self.text)
        ids: tuple[int, ...] = ()
        logprobs: tuple[float, ...] | None = ()
        first: tuple[float, ...] | None = None
        calls: list[Call] = []
        try:
            while left > 0 and not ended and not text.strip() and self._stops(self.text, length) is None:
                if task is not None:
                    said, task = wait(_result(task)), None
                else:
                    said = self._generate(self.branch, author, left, sampling, self.context, heard)
                text, ids, ended = text + said.text, ids + said.ids, said.ended
                logprobs = None if logprobs is None or said.logprobs is None else logprobs + said.logprobs
                first = first or said.first
                calls.append(self.account.call(said.spent, author.name, "decode"))
                if not said.spent.completion_tokens:
                    break
                left -= said.spent.completion_tokens
        except Exception as error:
            self._pending = None
            for made in calls:
                self.account.waste(made, "stopped", self.sample, self.turn)
            if isinstance(error, ChainAborted):
                self.broken_off(error, author, "decode")
            raise
        self._pending = None
        tokens = sum([made.completion_tokens for made in calls])
        budget = min(max_tokens, begun.room)
        written = Chunk(author.name, text, ids, ended, begun.start, budget, logprobs, first, tokens)
        chunk = self._add(written, tokens, tuple(calls))
        # Not what is left: a character torn at the end was taken back, which leaves room for a piece of it.
        if self.ending is None and tokens >= begun.room:
            self.ending = self._full
        return chunk

    def begin(self, author: Role, max_tokens: int, **sampling: Any) -> None:
        """`author` begins what the next `write` will return; this returns at once."""
        assert self._pending is None
        start, room = len(self.branch.transcript.pieces), self.room()
        left, task, scope = min(max_tokens, room), None, Scope(self.context.scope)
        if left > 0:
            running = stack(self._generate, self.branch, author, left, sampling, self.context.within(scope))
            task = wait(_begun(running))
        self._pending = _Begun(author, start, room, scope, task)

    def append(self, text: str) -> Chunk:
        """The program itself puts `text` into the chain, which thereby goes on."""
        start = len(self.branch.transcript.pieces)
        self.branch.append(text)
        self.ending = None
        return self._add(Chunk(PROGRAM, text, (), False, start), 0, ())

    def drop(self, chunk: Chunk, reason: DropReason = "replaced") -> None:
        """Takes `chunk`, the last of the chain, back out of it; the chain goes on.

        Raises:
            ValueError: it is not the last.
        """
        self.check_last(chunk, "dropped")
        self.branch.keep(chunk.start)
        self.chunks.remove(chunk)
        self.scores.pop(chunk.start, None)
        self._answers, self.ending, self._stop_at = len(boxes(self.text)), None, None
        self.account.let_go(chunk, reason, self.sample, self.turn)

    def check_last(self, chunk: Chunk, what: str) -> None:
        """Raises ValueError unless `chunk` is the last of the chain, the one that can be `what`."""
        if not self.chunks or self.chunks[-1].start != chunk.start:
            where = "another chunk came after it" if chunk in self.chunks else "it is not in the chain, or no more"
            raise ValueError(f"only the last chunk of a chain can be {what}; of {chunk.text[:40]!r}, {where}")

    def trim(self, chunk: Chunk, suffix: str) -> None:
        """Takes `suffix` off `chunk`, the last of the chain, if it ends with it."""
        if not suffix or not chunk.text.endswith(suffix):
            return
        codec = self.roles.named(chunk.author).engine.codec
        text, ids = chunk.text.removesuffix(suffix), chunk.ids
        while ids and len(codec.decode(ids)) > len(text):
            ids = ids[:-1]
        logprobs = chunk.logprobs and chunk.logprobs[: len(ids)] + chunk.logprobs[len(chunk.ids) :]
        if codec.decode(ids) != text:  # one token for text and suffix
            ids, logprobs = codec.encode(text, plain=True), None
        self.branch.keep(chunk.start)
        self.branch.append(text, {codec.tokenizer_key: ids})
        kept = replace(chunk, text=text, ids=ids, logprobs=logprobs)
        self.account.swap(chunk, kept)
        self.chunks[-1] = kept

    def end_turn(self) -> bool:
        """Counts the turn; True if the chain is complete."""
        self.turn, self.attempt = self.turn + 1, 0
        self._settle()
        return self.ending is not None

    # --- judging ----------------------------------------------------------------------------------------------

    def score(self, chunk: Chunk, score: str = "mean_loss") -> Scored:
        """Scores `chunk`, the last of the chain, by that score. Errors as in `scoring.score` and `find_score`."""
        scored = scoring.score(self, chunk, find_score(score))
        self.scores[chunk.start] = scored.value
        return scored

    def rate(self, ask: str = judge.STEP, *, cue: str = "") -> judge.Rating:
        """The verifier's rating of the text so far, as `scoring.rate` has it."""
        return scoring.rate(self, ask, cue)

    def judge(
        self, chunk: Chunk, gate: Decider, *, score: str | Callable[[Chunk], Scored] = "mean_loss",
        replace: bool = False,
    ) -> bool:  # fmt: skip
        """Scores `chunk`, the last of the chain, and asks the gate; True if it is to be handed over.

        A gate of two stages is shown the draft's evidence first; what that accepts is not scored.

        Args:
            score: what it is judged by: a name in `a1_sgl.conformal.SCORES`, or a function that scores it.
            replace: whether a rejected chunk is dropped.
        """
        screening = self._screen(chunk, gate) if isinstance(gate, TwoStage) else None
        if screening is not None and screening.accepted:
            scored = Scored(UNSEEN, scoring.tokens_of(chunk))
        else:
            scored = self.score(chunk, score) if isinstance(score, str) else score(chunk)
        return self._ask(chunk, scored, gate, replace, screening).take_over

    def ask(self, chunk: Chunk, scored: Scored, gate: Decider, *, replace: bool = False) -> Decision:
        """Asks the gate about `chunk`, the last of the chain, which was scored whatever a first stage would say.

        With `replace` a rejected chunk is dropped. Where the gate wants an accepted chunk audited, that begins, and the
        chain goes on.
        """
        return self._ask(chunk, scored, gate, replace, None)

    def verdict(self, chunk: Chunk, scored: Scored, take_over: bool, *, replace: bool = False) -> bool:
        """Like `ask`, of a rule that is no gate: reports what it decided."""
        self._verdict(chunk, scored, take_over, replace, None, None)
        return take_over

    def calibrate(self, chunk: Chunk, gate: Decider, *, score: str = "mean_loss") -> None:
        """Scores `chunk` and puts the score into the gate's bank; nothing is decided."""
        scored = self.score(chunk, score)
        gate.calibrate(scored.value, **self._place)
        self.account.tell(
            CalibrationEvent(
                question=self.question.id, task=self.question.task, score=scored.value, tokens=scored.tokens,
                calls=scored.calls,
            )
        )  # fmt: skip

    def rated(self, by: str, rating: float, call: Call) -> None:
        """Takes note of a rating, and what it cost."""
        self.rating = rating
        self.account.tell(RatingEvent(question=self.question.id, sample=self.sample, by=by, rating=rating, call=call))

    # --- branches ---------------------------------------------------------------------------------------------

    def fork(self) -> Chain:
        """A branch that begins with this chain's text; what they share is computed once."""
        fork = self.apart(self.context.within(Scope(self.context.scope)), self.account, self._seeds)
        fork._gate = self._gate
        self._forks.add(fork)
        return fork

    def apart(self, context: Context, account: Account, seeds: Iterator[int | None]) -> Chain:
        """A chain that begins with this one's text and is nobody's fork: it has its own scope, account and seeds."""
        branch = self.branch.fork()
        found = Chain(
            self.question, self.sample, self.roles, context, account, lambda: branch, self.asked, seeds, self._forks,
            self._auditor,
        )  # fmt: skip
        found.turn, found.attempt = self.turn, self.attempt
        found._copy(self)
        for chunk in found.chunks:
            account.hold(chunk)
        return found

    def become(self, branch: Chain, reason: DropReason = "pruned") -> None:
        """Goes on as `branch`, a fork that nobody else uses; what it does not share with it is given up."""
        self._roll_back(reason)
        for chunk in self.chunks:
            self.account.let_go(chunk, reason, self.sample, self.turn)
        self._branch, self._pending = branch.branch, branch._pending
        self._gate = branch._gate or self._gate
        self._copy(branch)
        branch._pending = None
        branch._over()

    def discard(self, reason: DropReason = "rolled back") -> None:
        """Gives a fork up: what it has begun is aborted and accounted for, and what it wrote is let go."""
        self._roll_back(reason)
        for chunk in self.chunks:
            self.account.let_go(chunk, reason, self.sample, self.turn)
        self._over()

    def stop(self) -> None:
        """Aborts what the chain has under way, from any thread; its next step raises `ChainAborted`."""
        self.context.scope.stop()

    # --- what it holds ----------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """Everything after the prompt."""
        pieces = self.branch.transcript.pieces[self.asked :]
        return "".join([piece.text for piece in pieces])

    @property
    def answer(self) -> str | None:
        """The last answer in its text, if there is one; a chain that came to its own end may have stated it unboxed."""
        came_to_its_end = self.ending == "stop" or (bool(self.chunks) and self.chunks[-1].ended)
        text = self.text[: self._stop_at]
        return stated_answer(text) if came_to_its_end else final_answer(text)

    @property
    def full(self) -> bool:
        """Whether nothing more may be written, for want of room or since it came to a stop sequence."""
        return self.ending in ("context", "length", "stop")

    @property
    def tokens(self) -> int:
        """How many its authors' runtimes counted."""
        return sum([chunk.tokens for chunk in self.chunks])

    def room(self) -> int:
        """Tokens that the chain may still have: as many as it was asked to, and as leave it so that it can be sent to
        every runtime, one kept for an end token."""
        transcript = self.branch.transcript
        context = min(
            role.engine.limits.longest_prompt - 1 - transcript.tokens(role.engine.codec)
            - self.context.extra(role.engine)
            for role in self.roles.all
        )  # fmt: skip
        return context if self.context.tokens is None else min(context, self.context.tokens - self.tokens)

    def finish(self, stopped: bool) -> ChainEvent:
        """Closes the chain. One that was `stopped` has no answer."""
        ending: Ending = "stopped" if stopped else self.ending or "turns"
        self._settle(ending)
        event = ChainEvent(
            question=self.question.id, sample=self.sample, text=self.text[: self._stop_at],
            answer=None if stopped else self.answer, ending=ending, turns=self.turn,
            take_overs=self.take_overs, rating=self.rating, started=self.started, ended=time.time(),
        )  # fmt: skip
        self.account.tell(event)
        return event

    def leave(self) -> None:
        """The chain is over, finished or broken off: its gate need not wait for it, its branch is given back."""
        self._roll_back("stopped")
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.finish(self.question.id, self.sample)
        self._over()

    def broken_off(self, error: ChainAborted, role: Role, kind: CallKind) -> None:
        """Accounts for a request that was stopped, once."""
        spent, error.spent = error.spent, None
        if spent is not None:
            self.account.waste(self.account.call(spent, role.name, kind), "stopped", self.sample, self.turn)

    # --- inside -----------------------------------------------------------------------------------------------

    @property
    def _full(self) -> Ending:
        """Which of its limits a chain without room has come to."""
        return "context" if self.context.tokens is None or self.tokens < self.context.tokens else "length"

    def _stops(self, text: str, before: int = 0) -> int | None:
        """Where in `text` a stop sequence begins, the first one, that ends after `before`."""
        found = [text.find(stop, max(0, before - len(stop) + 1)) for stop in self.context.stop]
        return min((at for at in found if at >= 0), default=None)

    def _cut(self) -> None:
        """Takes off what begins with the stop sequence that it came to."""
        at, self._stop_at = self._stop_at, None
        while at is not None and self.chunks:
            chunk = self.chunks[-1]
            begin = len(self.text) - len(chunk.text)
            if begin < at:
                self.trim(chunk, chunk.text[at - begin :])
                break
            self.drop(chunk, "stopped")

    def _settle(self, over: Ending | None = None) -> None:
        """Nobody takes its text back any more."""
        if self.context.watch is not None:
            self.context.watch(Settled(self.sample, tuple(self.chunks), self.text[: self._stop_at], over))

    def _live(self) -> Callable[[str], None]:
        """Tells the watch of what is written from here on, piece by piece."""
        watch, text, chunks = self.context.watch, self.text, tuple(self.chunks)
        assert watch is not None

        def hear(piece: str) -> None:
            nonlocal text
            text += piece
            watch(Settled(self.sample, chunks, text[: self._stops(text)]))

        return hear

    def _generate(
        self, branch: Branch, author: Role, max_tokens: int, sampling: dict[str, Any], context: Context,
        heard: Callable[[str], None] | None = None,
    ) -> Generation:  # fmt: skip
        """On a branch that was named when it was begun: by the time it runs the chain may have become another."""
        params = {"max_tokens": max_tokens, **sampling}
        if self.context.stop:
            mine = sampling.get("stop", branch.stop)
            params["stop"] = [*((mine,) if isinstance(mine, str) else mine or ()), *self.context.stop]
        if author is not self.roles.writer:
            context = replace(context, logprobs=None)
        generation = branch.generate(author.engine, context, params, next(self._seeds), heard)
        if generation.aborted:
            raise ChainAborted(f"chain {self.sample}: stopped", generation.spent)
        return generation

    def _roll_back(self, reason: DropReason) -> None:
        """Aborts what `begin` began, and accounts for it."""
        begun, self._pending = self._pending, None
        if begun is None or begun.task is None:
            return
        begun.scope.stop()
        spent = None
        try:
            spent = wait(_result(begun.task)).spent
            self.branch.keep(begun.start)
        except ChainAborted as error:
            spent = error.spent
        except Exception:  # whatever it failed at is of no consequence any more
            pass
        if spent is not None:
            made = self.account.call(spent, begun.author.name, "decode")
            self.account.waste(made, reason, self.sample, self.turn)

    def _over(self) -> None:
        """Gives its text back."""
        self.chunks, self._branch, self._make = [], None, None
        self._forks.discard(self)

    def _copy(self, other: Chain) -> None:
        self.ending, self.rating = other.ending, other.rating
        self.chunks, self.scores = list(other.chunks), dict(other.scores)
        self._answers, self._stop_at = other._answers, other._stop_at

    def _add(self, chunk: Chunk, tokens: int, calls: tuple[Call, ...]) -> Chunk:
        self.chunks.append(chunk)
        self.account.hold(chunk)
        self.account.tell(
            ChunkEvent(
                question=self.question.id, sample=self.sample, turn=self.turn, author=chunk.author, text=chunk.text,
                tokens=tokens, ended=chunk.ended, calls=calls,
            )
        )  # fmt: skip
        # A box is complete only with its brace.
        answers = len(boxes(self.text)) if "}" in chunk.text else self._answers
        if chunk.author != PROGRAM and self.context.stop:
            self._stop_at = self._stops(self.text, len(self.text) - len(chunk.text))
        if self._stop_at is not None:
            self.ending = "stop"
        elif chunk.ended:
            self.ending = "answered" if answers else "ended"
        elif answers > self._answers and not self.branch.endless:
            self.ending = "answered"
        elif self.room() <= 0:
            self.ending = self._full
        self._answers = answers
        return chunk

    @property
    def _place(self) -> dict[str, Any]:
        """What a gate calls the chunk that is decided on."""
        return {
            "question": self.question.id, "sample": self.sample, "turn": self.turn, "task": self.question.task,
            "attempt": self.attempt,
        }  # fmt: skip

    def _screen(self, chunk: Chunk, gate: TwoStage) -> Screening:
        self._gate = gate
        return gate.screen(scoring.score(self, chunk, gate.first).value, **self._place)

    def _ask(
        self, chunk: Chunk, scored: Scored, gate: Decider, replaced: bool, screening: Screening | None
    ) -> Decision:  # fmt: skip
        self._gate = gate
        decision = gate(scored.value, **self._place)
        self._verdict(chunk, scored, decision.take_over, replaced, decision, screening)
        if decision.audit:
            self._auditor.begin(self, chunk, gate)
        return decision

    def _verdict(
        self, chunk: Chunk, scored: Scored, take_over: bool, replaced: bool, decision: Decision | None,
        screening: Screening | None,
    ) -> None:  # fmt: skip
        verify, own = (*scored.calls, None, None)[:2]
        self.account.tell(
            VerdictEvent(
                question=self.question.id, sample=self.sample, turn=self.turn, attempt=self.attempt,
                score=scored.value, tokens=scored.tokens,
                p_value=decision.p_value if decision else None, alpha=decision.alpha if decision else None,
                n=decision.n if decision else 0, take_over=take_over, replaced=replaced and take_over,
                audit=decision.audit if decision else False, call=verify, draft_call=own, task=self.question.task,
                screening=screening, losses=scored.losses, rating=scored.rating,
            )
        )  # fmt: skip
        if take_over and replaced:
            self.drop(chunk)


def seeds(seed: int | None, *names: object) -> Iterator[int | None]:
    """A seed for each generation of a chain, branches included; None for ever where there is none."""
    for number in itertools.count():
        if seed is None:
            yield None
            continue
        name = "\0".join(map(str, (seed, *names, number))).encode()
        yield int.from_bytes(hashlib.blake2b(name, digest_size=4).digest()) >> 1


async def _begun(running: Coroutine[Any, Any, Generation]) -> asyncio.Task[Generation]:
    return asyncio.create_task(running)


async def _result(task: asyncio.Task[Generation]) -> Generation:
    return await task
