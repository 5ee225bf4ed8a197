"""What runtimes make of a chain's text: losses, scores, judge prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from a1_sgl.conformal import Evidence, Score
from a1_sgl.engine import Scores, wait
from a1_sgl.errors import ChainAborted, ConfigError, RuntimeFault
from a1_sgl.session import judge
from a1_sgl.session.roles import Role
from a1_sgl.session.transcript import joined
from a1_sgl.types import Call, Chunk, Loss

if TYPE_CHECKING:
    from a1_sgl.engine import Ids
    from a1_sgl.session.chain import Chain


@dataclass(frozen=True)
class Scored:
    """A chunk's score, higher is stranger, the tokens it is of and the calls it took, the verifier's first; and the
    target's loss of each token, and the rating that the score is made of, as in `VerdictEvent`."""

    value: float
    tokens: int
    calls: tuple[Call, ...] = ()
    losses: tuple[tuple[str, float], ...] | None = None
    rating: float | None = None


def loss(chain: Chain, chunk: Chunk, role: Role | None = None) -> tuple[Loss, Call]:
    """The loss of `chunk`, which must be the last of the chain, under the verifier or whoever plays `role`.

    An end token is a token of its chunk, so that ending too early is scored too. Where tokenizers differ, the losses
    are those of the role's own tokens for the chunk's text.

    Raises:
        RuntimeFault: the runtime gave no value for some token, or its tokenizer has none for the chunk's text.
        ValueError: the chunk is empty, or not the last.
    """
    chain.check_last(chunk, "scored")
    return _loss(chain, chunk.start, chunk.ended, role or chain.roles.verifier)


def whole_loss(chain: Chain, role: Role) -> tuple[Loss, Call]:
    """The loss of everything after the prompt: one prefill.

    Raises:
        ValueError: the chain is empty.
    """
    return _loss(chain, chain.asked, bool(chain.chunks) and chain.chunks[-1].ended, role)


def score(chain: Chain, chunk: Chunk, by: Score) -> Scored:
    """The score of `chunk`, the last of the chain; what it needs is asked of the runtimes, and nothing else.

    Raises:
        ConfigError: it needs the log-probabilities that the chunk was written with, and these are not known.
        RuntimeFault, ValueError: as `loss`.
    """
    if {"own", "first"} & set(by.needs) and chunk.logprobs is None:
        raise ConfigError(
            f"score {by.name} needs the log-probabilities with which a chunk was written; ask for them with "
            f"Query(logprobs={by.likeliest}), which a program does whose parameter `score` or gate names it"
        )
    own = None if chunk.logprobs is None else tuple([-value for value in chunk.logprobs])
    target: tuple[float, ...] | None = None
    draft: tuple[float, ...] | None = None
    tokens, calls = tokens_of(chunk), []
    if "target" in by.needs:
        found, made = loss(chain, chunk)
        target, tokens = found.values, found.tokens
        calls.append(made)
    if "draft" in by.needs:
        # A scoring call, not the log-probabilities of generation: those may be at the sampling temperature.
        found, made = loss(chain, chunk, chain.roles.writer)
        draft = found.values
        calls.append(made)
    losses = _by_token(chain, chunk, target) if chain.context.losses and target is not None else None
    return Scored(by(Evidence(target, draft, own, chunk.first)), tokens, tuple(calls), losses)


def tokens_of(chunk: Chunk) -> int:
    """How many tokens a chunk has for its author, an end token among them."""
    return len(chunk.ids) + chunk.ended


def rate(chain: Chain, ask: str = judge.STEP, cue: str = "") -> judge.Rating:
    """The verifier answers a judge prompt about the text so far, from 0 to 9; the chain is left as it is.

    With a `cue`, such as ``Wait``, it is not asked in words: the rating is 9 times the chance that it would not go on
    with the cue's first token. That costs no prompt, and suits a verifier that corrects itself aloud.

    A chain that leaves no room for the prompt in the context is rated by its end: its oldest tokens are left out.

    Raises:
        ConfigError: the tokenizer does not write every digit as one token.
    """
    role = chain.roles.verifier
    engine, codec = role.engine, role.engine.codec
    prefix = chain.branch.transcript.ids(codec)
    if cue:
        scores, made = _next_token(chain, role, prefix, [codec.encode(cue)[0]])
        return judge.Rating.doubted(math.exp(scores.logprobs[0]), made)
    suffix = codec.after(chain.question.messages, ask) + judge.LEAD
    lead = codec.encode(suffix)
    digits = [codec.encode(suffix + digit) for digit in judge.DIGITS]
    if any(one[:-1] != lead for one in digits):
        raise ConfigError(f"{engine.name} runtime: its tokenizer does not write a digit as one token, as ratings need")
    most = engine.limits.longest_prompt - len(lead) - chain.context.extra(engine)
    if (over := len(prefix) - most) > 0:
        asked = chain.branch.transcript.first(chain.asked).tokens(codec)
        prefix = joined(prefix[:asked], prefix[asked + over :])
    scores, made = _next_token(chain, role, joined(prefix, lead), [one[-1] for one in digits])
    return judge.Rating.of(scores.logprobs, made)


def _by_token(chain: Chain, chunk: Chunk, losses: tuple[float, ...]) -> tuple[tuple[str, float], ...]:
    codec, transcript = chain.roles.verifier.engine.codec, chain.branch.transcript
    ids = transcript.ids(codec)[transcript.first(chunk.start).tokens(codec) :]
    pieces = [*codec.pieces(ids.tolist()), ""]  # an end token is not in the text
    return tuple(zip(pieces, [round(loss, 4) for loss in losses], strict=False))


def _loss(chain: Chain, start: int, ended: bool, role: Role) -> tuple[Loss, Call]:
    engine, transcript = role.engine, chain.branch.transcript
    ids = transcript.ids(engine.codec)
    if ended and engine.codec.eos is not None:
        ids = joined(ids, [engine.codec.eos])
    before = transcript.first(start).tokens(engine.codec)
    if len(ids) == before and (text := transcript.text[len(transcript.first(start).text) :]):
        raise RuntimeFault(f"{engine.name} runtime: its tokenizer has no token for {text[:40]!r}, so cannot score it")
    scores, made = _verify(chain, role, lambda: wait(engine.score(chain.context.request(engine, ids), before)))
    return Loss(tuple([-value for value in scores.logprobs])), made


def _next_token(chain: Chain, role: Role, ids: Ids, choices: list[int]) -> tuple[Scores, Call]:
    engine = role.engine
    return _verify(chain, role, lambda: wait(engine.next_token(chain.context.request(engine, ids), choices)))


def _verify(chain: Chain, role: Role, ask: object) -> tuple[Scores, Call]:
    try:
        scores: Scores = ask()  # type: ignore[operator]
    except ChainAborted as error:
        chain.broken_off(error, role, "verify")
        raise
    return scores, chain.account.call(scores.spent, role.name, "verify")
