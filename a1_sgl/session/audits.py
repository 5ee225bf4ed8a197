"""Audits: how it is found out, after the fact, whether a chunk that a gate accepted is wrong.

To add one::

    @audit("short", "a chunk of fewer than ten tokens is wrong")
    def short(chain: Chain, chunk: Chunk) -> bool: ...

It gets a chain of its own, of which `chunk` is the last, and may do with it what it likes: what that costs is accounted
for, and nobody else goes on with that chain. What an audit raises counts as "wrong".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from a1_sgl.answers import bare, final_answer
from a1_sgl.registry import Registry
from a1_sgl.session import judge
from a1_sgl.types import Chunk

if TYPE_CHECKING:
    from a1_sgl.session.chain import Chain

Of = Callable[["Chain", Chunk], bool]


@dataclass(frozen=True)
class Audit:
    """A named audit, one line about it, and the function: whether the chunk is wrong."""

    name: str
    about: str
    of: Of


AUDITS: Registry[Audit] = Registry("audit")


def audit(name: str, about: str) -> Callable[[Of], Of]:
    """Registers the function below it as an audit.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: Of) -> Of:
        AUDITS.add(name, Audit(name, about, function))
        return function

    return register


def find_audit(name: str) -> Audit:
    """The audit of that name.

    Raises:
        ValueError: there is none.
    """
    return AUDITS.find(name)


@audit("rewrite", "the target writes the chunk anew, and it must come to the same")
def rewrite(chain: Chain, chunk: Chunk) -> bool:
    """From the same prefix, at temperature 0, in as many tokens as the chunk might have had; `comes_to` is compared.

    Another way to go on than the target's is thereby wrong, however right it is.
    """
    chain.drop(chunk)
    own = chain.write(chain.roles.successor or chain.roles.verifier, chunk.budget, temperature=0.0)
    return comes_to(own.text) != comes_to(chunk.text)


@audit("judge", "the target rates the chunk below 4.5 of 9 in words; one prefill there")
def judged(chain: Chain, chunk: Chunk) -> bool:
    """For a target that judges well in words."""
    return chain.rate(judge.STEP).mean < 4.5


def comes_to(step: str) -> str:
    """What a step comes to: what is in its last box, else its last number, else its last line, in one spelling."""
    if (boxed := final_answer(step)) is not None:
        found = bare(boxed)
    elif numbers := _NUMBER.findall(step):
        found = numbers[-1]
    else:
        found = step.strip().rpartition("\n")[2]
    try:
        return f"{Decimal(found.replace(',', '')).normalize():f}"
    except InvalidOperation:
        return " ".join(found.casefold().split()).rstrip(".,;:!")


_NUMBER = re.compile(r"(?<![\w)\]}.])-?\d+(?:,\d{3})*(?:\.\d+)?")
