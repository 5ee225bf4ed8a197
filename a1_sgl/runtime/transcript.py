"""Token-exact text: which token ids stand for a program state's text on each runtime.

SGLang's frontend keeps a state's text and sends it anew with every call. Encoding that text again can give other ids
than the ones that were generated: the prefix cache then misses, and a chunk's score covers other tokens than the
chunk's. A transcript remembers the ids piece by piece. It is immutable and lives among a state's variables, which
``fork`` copies, so it forks with the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self

from sglang.lang.interpreter import StreamExecutor

_VARIABLE = "a1_sgl.transcript"


class Encoder(Protocol):
    """What a transcript needs to know of a runtime."""

    key: str
    """Identifies tokenizer and chat template together."""
    tokenizer_key: str
    """Identifies the tokenizer."""

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of plain text."""
        ...


@dataclass(frozen=True)
class Piece:
    """A stretch of text and its ids by `Encoder.key` or `Encoder.tokenizer_key`.

    For a tokenizer that is not there yet the text is encoded on its own, once, and kept: ids that were scored or
    cached never change afterwards.
    """

    text: str
    ids: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def for_(self, encoder: Encoder) -> tuple[int, ...]:
        """The ids on `encoder`'s runtime."""
        if encoder.key in self.ids:
            return self.ids[encoder.key]
        if encoder.tokenizer_key not in self.ids:
            self.ids[encoder.tokenizer_key] = encoder.encode(self.text) if self.text else ()
        return self.ids[encoder.tokenizer_key]


@dataclass(frozen=True)
class Transcript:
    """The pieces of a state's text, in order."""

    pieces: tuple[Piece, ...] = ()

    @property
    def chars(self) -> int:
        """Characters covered."""
        return sum(len(piece.text) for piece in self.pieces)

    def plus(self, text: str, ids: Mapping[str, tuple[int, ...]] | None = None) -> Self:
        """With one more piece."""
        return type(self)((*self.pieces, Piece(text, dict(ids or {}))))

    def ids(self, encoder: Encoder) -> list[int]:
        """All ids on `encoder`'s runtime."""
        return [token for piece in self.pieces for token in piece.for_(encoder)]

    @classmethod
    def of(cls, s: StreamExecutor) -> Self:
        """The state's transcript; text that the program appended since becomes a piece of its own."""
        transcript = s.variables.get(_VARIABLE)
        if not isinstance(transcript, cls) or not s.text_.startswith("".join(p.text for p in transcript.pieces)):
            transcript = cls()
        if len(s.text_) > transcript.chars:
            transcript = transcript.plus(s.text_[transcript.chars :])
        return transcript

    def save(self, s: StreamExecutor) -> None:
        """Makes this the state's transcript."""
        s.variables[_VARIABLE] = self
