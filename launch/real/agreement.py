"""What SGLang's scores are worth: every one beside what transformers computes from the same ids in float32.

Scores are asked for as programs ask for them, chunk by chunk along a chain, so that all that comes before a chunk is
found in the prefix cache.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a1_sgl.engine import Codec, Engine, Request, Scores, wait
from a1_sgl.evals.stories import problems
from a1_sgl.session import Transcript

Reference = Callable[[Sequence[int]], list[float]]
ASKED = ({"role": "user", "content": "Écris-moi un peu de tout. 日本語 🦕"},)
_STORIES = 12


def texts() -> dict[str, tuple[str, ...]]:
    """What is scored, by name, in chunks that end anywhere, within words and before combining marks too."""
    long = "\n\n".join(problem.text for problem in itertools.islice(problems("train", 0), _STORIES))
    return {
        "accents": (
            " Le cœur déçu mais l'âme plu",
            "tôt naïve, Louÿs rê",
            "va de crapaüter. A cafe\u0301",
            " noir, ça va ?",
        ),
        "CJK": (" 人工智能正在改变", "世界。\n\n吾輩は猫である。名前", "はまだ無い。한국어", "도 씁니다."),
        "emoji": (" Two 🦕 and 👩‍👩‍👧‍👦", " meet 🏳️‍🌈🇨🇭👍🏽", "𓀀𓀁 and go 🧗🏿‍♀️.", " ¯\\_(ツ)_/¯ ▓▒░"),
        "letters of special tokens": (" <eos> and <|im_end|>", "\n<end_of_turn>\n<bos>", " [INST] </s>"),
        "long": tuple(long[at : at + 150] for at in range(0, len(long), 150)),
    }


@dataclass(frozen=True)
class Judged:
    """One answer to a request for scores: the ids, where the chunk starts in them, its log-probabilities at
    temperature 1, and how many ids before it came from the prefix cache."""

    ids: tuple[int, ...]
    start: int
    logprobs: tuple[float, ...]
    cached: int


@dataclass
class Listening:
    """An engine that keeps what it was asked to score and what it answered."""

    engine: Engine
    heard: list[Judged] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def score(self, request: Request, start: int) -> Scores:
        """As in `Engine`."""
        scores = await self.engine.score(request, start)
        self.heard.append(Judged(tuple(request.ids.tolist()), start, scores.logprobs, scores.spent.cached_tokens))
        return scores


def judge(engine: Engine, chunks: Iterable[str]) -> Iterator[Judged]:
    """Scores of the chunks of one chain, none of which the engine's model wrote."""
    codec = engine.codec
    prompt = codec.encode(codec.render(ASKED), first=True)
    transcript = Transcript().plus("", {codec.key: prompt})
    listening = Listening(engine)
    wait(engine.prefill(Request(transcript.ids(codec))))
    for chunk in chunks:
        start = transcript.tokens(codec)
        transcript = transcript.plus(chunk, {"written elsewhere": ()})
        wait(listening.score(Request(transcript.ids(codec)), start))
    yield from listening.heard


def exact(codec: Codec, chunks: Sequence[str]) -> bool:
    """Whether the ids of a chain, chunk by chunk, say exactly what the chunks do."""
    ids = [one for chunk in chunks for one in codec.encode(chunk, plain=True)]
    return codec.decode(ids) == "".join(chunks) == "".join(codec.pieces(ids))


@dataclass(frozen=True)
class Agreement:
    """How far scores lie from the reference, in nats.

    Attributes:
        longest: chain, in tokens.
        cached: share of the ids before a chunk that came from the prefix cache.
        token_most, token_mean: absolute difference of a token's log-probability.
        chunk_most, chunk_mean: of a chunk's mean log-probability, which is what a gate sees.
    """

    chunks: int
    tokens: int
    longest: int
    cached: float
    token_most: float
    token_mean: float
    chunk_most: float
    chunk_mean: float


def agreement(judged: Sequence[Judged], reference: Reference) -> Agreement:
    """Compares. `reference` gives the log-probability of every id of a sequence but the first.

    Raises:
        ValueError: nothing was judged.
    """
    if not judged:
        raise ValueError("no scores to compare")
    known: list[tuple[tuple[int, ...], list[float]]] = []
    by_token, by_chunk = [], []
    for one in sorted(judged, key=lambda one: -len(one.ids)):  # the longest first: it has those that it grew from
        values = next((found for ids, found in known if ids[: len(one.ids)] == one.ids), None)
        if values is None:
            known.append((one.ids, values := reference(one.ids)))
        right = values[one.start - 1 : len(one.ids) - 1]
        by_token += [abs(a - b) for a, b in zip(one.logprobs, right, strict=True)]
        by_chunk.append(abs(statistics.fmean(one.logprobs) - statistics.fmean(right)))
    return Agreement(
        len(judged), len(by_token), max(len(one.ids) for one in judged),
        sum(one.cached for one in judged) / sum(one.start for one in judged),
        max(by_token), statistics.fmean(by_token), max(by_chunk), statistics.fmean(by_chunk),
    )  # fmt: skip


def transformers(folder: Path) -> Reference:
    """What the model of `folder` gives in transformers, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def reference(ids: Sequence[int]) -> list[float]:
        with torch.no_grad():
            logits = model(torch.tensor([list(ids)])).logits[0, :-1]
            chosen = logits.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
            found: list[float] = (chosen - logits.logsumexp(-1)).tolist()
        return found

    return reference
