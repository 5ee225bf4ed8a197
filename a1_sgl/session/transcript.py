"""Token-exact text: which token ids stand for a text on each runtime.

Encoding a text anew can give other ids than the ones that were generated: the prefix cache then misses, and a chunk's
score covers other tokens than the chunk's. A transcript remembers the ids piece by piece.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np

from a1_sgl.engine.protocol import Ids


class Encoder(Protocol):
    """What a transcript needs to know of a runtime; a `Codec` has it."""

    @property
    def key(self) -> str:
        """Identifies tokenizer and chat template together."""
        ...

    @property
    def tokenizer_key(self) -> str:
        """Identifies the tokenizer."""
        ...

    def encode(self, text: str, *, first: bool = False, plain: bool = False) -> tuple[int, ...]:
        """Token ids of text, as `Codec.encode` has it."""
        ...


def as_ids(ids: Sequence[int] | Ids) -> Ids:
    """Ids as they are kept and sent."""
    return np.asarray(ids, dtype=np.int32)


def joined(*parts: Sequence[int] | Ids) -> Ids:
    """All of them, one after the other."""
    return np.concatenate([as_ids(part) for part in parts]) if parts else as_ids(())


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text and its ids by `Encoder.key` or `Encoder.tokenizer_key`.

    For a tokenizer that is not there yet the text is encoded on its own, once, and kept: ids that were scored or
    cached never change afterwards. Branches share the pieces that they have in common.

    Attributes:
        first: whether it begins a text.
        plain: whether a model wrote it, for whom another one's special tokens are mere letters.
    """

    text: str
    known: dict[str, Ids] = field(default_factory=dict)
    first: bool = False
    plain: bool = False

    def ids(self, encoder: Encoder) -> Ids:
        """The ids on `encoder`'s runtime."""
        if (found := self.known.get(encoder.key)) is not None:
            return found
        if (found := self.known.get(encoder.tokenizer_key)) is None:
            ids = encoder.encode(self.text, first=self.first, plain=self.plain) if self.text else ()
            found = self.known[encoder.tokenizer_key] = as_ids(ids)
        return found


@dataclass(frozen=True, slots=True)
class Transcript:
    """The pieces of a text, in order."""

    pieces: tuple[Piece, ...] = ()

    @property
    def text(self) -> str:
        """All of it."""
        return "".join([piece.text for piece in self.pieces])

    @property
    def chars(self) -> int:
        """Characters covered."""
        return sum([len(piece.text) for piece in self.pieces])

    def plus(self, text: str, ids: Mapping[str, Sequence[int]] | None = None) -> Self:
        """With one more piece; one whose `ids` are known was written by the model that has them."""
        known = {key: as_ids(one) for key, one in (ids or {}).items()}
        return type(self)((*self.pieces, Piece(text, known, first=not self.pieces, plain=bool(known))))

    def first(self, pieces: int) -> Self:
        """Its first pieces."""
        return type(self)(self.pieces[:pieces])

    def ids(self, encoder: Encoder, start: int = 0) -> Ids:
        """The ids of all pieces from number `start` on."""
        return joined(*(piece.ids(encoder) for piece in self.pieces[start:]))

    def tokens(self, encoder: Encoder) -> int:
        """How many ids there are."""
        return sum([len(piece.ids(encoder)) for piece in self.pieces])

    def caught_up(self, text: str) -> Self:
        """For `text`: what was added to it since becomes a piece; if it was changed, all of it is one piece."""
        known = self if text.startswith(self.text) else type(self)()
        return known.plus(text[known.chars :]) if len(text) > known.chars else known
