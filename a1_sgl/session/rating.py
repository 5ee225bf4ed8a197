"""How finished chains are rated for a vote: a number in [0, 1], higher is better.

To add one::

    @rate("short", "shorter is better")
    def short(chain: Chain) -> tuple[float, Call]: ...
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from a1_sgl.registry import Registry
from a1_sgl.session import judge
from a1_sgl.session.roles import Role
from a1_sgl.session.scoring import whole_loss
from a1_sgl.types import Call

if TYPE_CHECKING:
    from a1_sgl.session.chain import Chain

Of = Callable[["Chain"], tuple[float, Call]]


@dataclass(frozen=True)
class Rate:
    """A named rating, one line about it, and the function."""

    name: str
    about: str
    of: Of


RATES: Registry[Rate] = Registry("rate")


def rate(name: str, about: str) -> Callable[[Of], Of]:
    """Registers the function below it as a rating.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: Of) -> Of:
        RATES.add(name, Rate(name, about, function))
        return function

    return register


def find_rate(name: str) -> Rate:
    """The rating of that name.

    Raises:
        ValueError: there is none.
    """
    return RATES.find(name)


def likelihood(chain: Chain, role: Role) -> tuple[float, Call]:
    """Geometric mean of the chain's token probabilities under `role`'s runtime, at temperature 1: one prefill."""
    loss, call = whole_loss(chain, role)
    return math.exp(-loss.mean), call


@rate("own", "mean token probability under the runtime that writes; one prefill there")
def own(chain: Chain) -> tuple[float, Call]:
    """A chain's own confidence, length-normalised (as in CISC, arXiv 2502.06233)."""
    return likelihood(chain, chain.roles.writer)


@rate("target", "mean token probability under the target; one prefill there")
def target(chain: Chain) -> tuple[float, Call]:
    """What the target makes of the chain."""
    return likelihood(chain, chain.roles.verifier)


@rate("judge", "the target's answer to a judge prompt, over 9; one prefill there")
def judged(chain: Chain) -> tuple[float, Call]:
    """How sure the target is of the answer, asked in words."""
    rating = chain.rate(judge.ANSWER)
    return rating.mean / 9, rating.call
