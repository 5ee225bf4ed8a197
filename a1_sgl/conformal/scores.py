"""Nonconformity scores of a chunk, from its tokens' losses; a higher score is stranger.

A score is a function of an `Evidence`; what it needs of that is asked of the runtimes, and nothing else. To add one::

    @score("median", "median loss")
    def median(evidence: Evidence) -> float:
        return statistics.median(evidence.target)

and it has a name everywhere: in `SCORES`, on calibration cards and on the command line.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from a1_sgl.conformal.bank import is_finite
from a1_sgl.registry import Registry

WINDOW = 16
TAIL = 16
LIKELIEST = 10
"""How many of the likeliest first tokens are asked for."""
Need = Literal["target", "draft", "own", "first"]


@dataclass(frozen=True)
class Evidence:
    """What is known about a chunk; of each there is at least one value, or None where it was not asked for.

    Attributes:
        target: negative log-likelihoods of its tokens under the target, in nats, in order: one prefill there.
        draft: those under the draft, of the draft's own tokens for the same text: one prefill there.
        own: the same as the draft's runtime told them while it wrote the chunk, at no cost. They are at temperature 1
            where the runtime returns original log-probabilities (``SGLANG_RETURN_ORIGINAL_LOGPROB=1``, with which `a1
            launch` starts it), and at the sampling temperature elsewhere; in one run they are all of one kind.
        first: log-probabilities of the likeliest tokens at its first place, as the draft's runtime told them with
            these: at most 0, their probabilities adding up to at most 1.

    Raises:
        ValueError: no value, or one that is not finite.
    """

    target: tuple[float, ...] | None = None
    draft: tuple[float, ...] | None = None
    own: tuple[float, ...] | None = None
    first: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for values in (self.target, self.draft, self.own, self.first):
            if values == ():
                raise ValueError("a chunk to score needs at least one token")
            # Here and not in each score: a maximum passes over a NaN in silence.
            for value in values or ():
                if not is_finite(value):
                    raise ValueError(f"a token's loss must be a finite number, not {value}")


@dataclass(frozen=True)
class Score:
    """A named score.

    Attributes:
        name: as cards and the command line know it.
        about: one line.
        of: the function; higher is stranger.
        needs: fields of the evidence that it reads.
    """

    name: str
    about: str
    of: Callable[[Evidence], float]
    needs: tuple[Need, ...] = ("target",)

    def __post_init__(self) -> None:
        if not self.needs or not set(self.needs) <= set(_ASKED):
            raise ValueError(f"score {self.name} needs some of {', '.join(_ASKED)}, not {self.needs!r}")

    @property
    def by_draft(self) -> bool:
        """Whether the draft's own evidence is all that it needs, so that it costs no prefill."""
        return set(self.needs) <= {"own", "first"}

    @property
    def likeliest(self) -> int | None:
        """What is asked of a generation for it, as in `a1_sgl.engine.Request`; None is nothing."""
        return LIKELIEST if "first" in self.needs else 0 if "own" in self.needs else None

    def __call__(self, evidence: Evidence) -> float:
        """The score.

        Raises:
            ValueError: evidence is needed and missing, or the score is not finite.
        """
        for need in self.needs:
            if getattr(evidence, need) is None:
                raise ValueError(f"score {self.name} needs {_ASKED[need]}")
        value = self.of(evidence)
        if not is_finite(value):
            tokens = max(len(getattr(evidence, need)) for need in self.needs)
            raise ValueError(f"score {self.name} is {value} on a chunk of {tokens} tokens")
        return value


_ASKED: dict[Need, str] = {
    "target": "the target's losses",
    "draft": "the draft's losses",
    "own": "the losses of the draft's own tokens",
    "first": "the draft's likeliest first tokens",
}

SCORES: Registry[Score] = Registry("score")


def score(
    name: str, about: str, *, needs: tuple[Need, ...] = ("target",)
) -> Callable[[Callable[[Evidence], float]], Callable[[Evidence], float]]:
    """Registers the function below it as a score.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: Callable[[Evidence], float]) -> Callable[[Evidence], float]:
        SCORES.add(name, Score(name, about, function, needs))
        return function

    return register


def find_score(name: str) -> Score:
    """The score of that name.

    Raises:
        ValueError: there is none.
    """
    return SCORES.find(name)


def _mean(losses: tuple[float, ...] | None) -> float:
    assert losses is not None
    return statistics.fmean(losses)


def _worst_window(losses: tuple[float, ...] | None) -> float:
    assert losses is not None
    size = min(WINDOW, len(losses))
    total = math.fsum(losses[:size])
    worst = total
    for new, old in zip(losses[size:], losses, strict=False):
        total += new - old
        worst = max(worst, total)
    return worst / size


@score("mean_loss", "mean loss of the target, nats per token")
def mean_loss(evidence: Evidence) -> float:
    """The paper's score on a logarithmic scale."""
    return _mean(evidence.target)


@score("perplexity", "exponential of the mean loss; ranks as it does")
def perplexity(evidence: Evidence) -> float:
    """The paper's score (arXiv 2509.15148, section 3), cut off where a float would overflow."""
    return math.exp(min(_mean(evidence.target), 700.0))


@score("worst_window", f"largest mean loss over {WINDOW} tokens in a row")
def worst_window(evidence: Evidence) -> float:
    """The chunk's weakest passage: DeepConf's lowest group confidence, on losses (arXiv 2508.15260, section 3.1)."""
    return _worst_window(evidence.target)


@score("tail", f"mean loss of the last {TAIL} tokens")
def tail(evidence: Evidence) -> float:
    """Where the chunk leads: DeepConf's tail confidence, on losses."""
    assert evidence.target is not None
    return _mean(evidence.target[-TAIL:])


@score("llr", "draft's log-likelihood less the target's, nats per target token", needs=("target", "draft"))
def llr(evidence: Evidence) -> float:
    """Log-likelihood ratio of draft to target: high where the draft is surer of the text than the target.

    The sums are over the same text, so it is defined for different tokenizers too.
    """
    assert evidence.target is not None
    assert evidence.draft is not None
    return (math.fsum(evidence.target) - math.fsum(evidence.draft)) / len(evidence.target)


@score("length_adjusted", "total loss over ((5 + tokens) / 6) ** 0.6")
def length_adjusted(evidence: Evidence) -> float:
    """Between the total, which punishes long chunks, and the mean, which is noisiest for short ones.

    The length penalty of Wu et al. 2016 (arXiv 1609.08144, equation 14), with exponent 0.6.
    """
    assert evidence.target is not None
    penalty: float = ((5 + len(evidence.target)) / 6) ** 0.6
    return math.fsum(evidence.target) / penalty


@score("own_loss", "mean loss of the draft's own tokens as it wrote them; no prefill", needs=("own",))
def own_loss(evidence: Evidence) -> float:
    """How unsure the draft was of what it wrote (the confidence by which ConfSpec, arXiv 2602.18447, escalates)."""
    return _mean(evidence.own)


@score("own_worst", f"largest such mean over {WINDOW} tokens in a row; no prefill", needs=("own",))
def own_worst(evidence: Evidence) -> float:
    """Where the draft was least sure: DeepConf's lowest group confidence, on its own losses."""
    return _worst_window(evidence.own)


@score("first_entropy", "entropy of the draft's first token, nats; no prefill", needs=("first",))
def first_entropy(evidence: Evidence) -> float:
    """How open it was, at its first token, what the chunk would say (GlimpRouter, arXiv 2601.05110).

    The entropy of the likeliest tokens with all others as one more outcome: a lower bound of the whole one, and exact
    where nothing is left for the others.
    """
    assert evidence.first is not None
    rest = 1.0 - math.fsum(map(math.exp, evidence.first))
    return -math.fsum(math.exp(value) * value for value in evidence.first) - (rest * math.log(rest) if rest > 0 else 0)
