"""Nonconformity scores of a chunk, from its tokens' losses; a higher score is stranger.

A score is a function of an `Evidence`. To add one::

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

from a1_sgl.conformal.bank import is_finite

WINDOW = 16
TAIL = 16


@dataclass(frozen=True)
class Evidence:
    """What is known about a chunk.

    Attributes:
        target: negative log-likelihoods of its tokens under the target, in nats, in order; at least one.
        draft: those under the draft, of the draft's own tokens for the same text; None unless the score asks for them.

    Raises:
        ValueError: no token, or a loss that is not finite.
    """

    target: tuple[float, ...]
    draft: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.target or self.draft == ():
            raise ValueError("a chunk to score needs at least one token")
        # Here and not in each score: a maximum passes over a NaN in silence.
        for loss in (*self.target, *(self.draft or ())):
            if not is_finite(loss):
                raise ValueError(f"a token's loss must be a finite number, not {loss}")


@dataclass(frozen=True)
class Score:
    """A named score.

    Attributes:
        name: as cards and the command line know it.
        about: one line.
        of: the function; higher is stranger.
        needs_draft: whether it asks for the draft's losses, which cost a prefill on the draft runtime.
    """

    name: str
    about: str
    of: Callable[[Evidence], float]
    needs_draft: bool = False

    def __call__(self, evidence: Evidence) -> float:
        """The score.

        Raises:
            ValueError: the draft's losses are needed and missing, or the score is not finite.
        """
        if self.needs_draft and evidence.draft is None:
            raise ValueError(f"score {self.name} needs the draft's losses")
        value = self.of(evidence)
        if not is_finite(value):
            raise ValueError(f"score {self.name} is {value} on a chunk of {len(evidence.target)} tokens")
        return value


SCORES: dict[str, Score] = {}


def score(
    name: str, about: str, *, needs_draft: bool = False
) -> Callable[[Callable[[Evidence], float]], Callable[[Evidence], float]]:
    """Registers the function below it as a score.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: Callable[[Evidence], float]) -> Callable[[Evidence], float]:
        if name in SCORES:
            raise ValueError(f"there is a score {name!r} already")
        SCORES[name] = Score(name, about, function, needs_draft)
        return function

    return register


def find_score(name: str) -> Score:
    """The score of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in SCORES:
        raise ValueError(f"unknown score {name!r}; known: {', '.join(SCORES)}")
    return SCORES[name]


@score("mean_loss", "mean loss of the target, nats per token")
def mean_loss(evidence: Evidence) -> float:
    """The paper's score on a logarithmic scale."""
    return statistics.fmean(evidence.target)


@score("perplexity", "exponential of the mean loss; ranks as it does")
def perplexity(evidence: Evidence) -> float:
    """The paper's score (arXiv 2509.15148, section 3), cut off where a float would overflow."""
    return math.exp(min(statistics.fmean(evidence.target), 700.0))


@score("worst_window", f"largest mean loss over {WINDOW} tokens in a row")
def worst_window(evidence: Evidence) -> float:
    """The chunk's weakest passage: DeepConf's lowest group confidence, on losses (arXiv 2508.15260, section 3.1)."""
    losses = evidence.target
    size = min(WINDOW, len(losses))
    total = math.fsum(losses[:size])
    worst = total
    for new, old in zip(losses[size:], losses, strict=False):
        total += new - old
        worst = max(worst, total)
    return worst / size


@score("tail", f"mean loss of the last {TAIL} tokens")
def tail(evidence: Evidence) -> float:
    """Where the chunk leads: DeepConf's tail confidence, on losses."""
    return statistics.fmean(evidence.target[-TAIL:])


@score("llr", "draft's log-likelihood less the target's, nats per target token", needs_draft=True)
def llr(evidence: Evidence) -> float:
    """Log-likelihood ratio of draft to target: high where the draft is surer of the text than the target.

    The sums are over the same text, so it is defined for different tokenizers too.
    """
    assert evidence.draft is not None
    return (math.fsum(evidence.target) - math.fsum(evidence.draft)) / len(evidence.target)


@score("length_adjusted", "total loss over ((5 + tokens) / 6) ** 0.6")
def length_adjusted(evidence: Evidence) -> float:
    """Between the total, which punishes long chunks, and the mean, which is noisiest for short ones.

    The length penalty of Wu et al. 2016 (arXiv 1609.08144, equation 14), with exponent 0.6.
    """
    penalty: float = ((5 + len(evidence.target)) / 6) ** 0.6
    return math.fsum(evidence.target) / penalty
