"""Whether a generation should come in pieces, and in which."""

from __future__ import annotations

WHOLE = 128, 1024
"""Tokens up to which a generation comes as a whole: of a runtime that is slow or not known yet, and of a quick one.
Pieces cost the client a third more CPU a call, and the runtime all that it has written once more for each."""
PIECE = 64, 256
"""Tokens in a piece, of the same."""
_OF_SILENCE = 1 / 8
"""The part of the silence that may be waited by what is known: a runtime may become so much slower meanwhile."""
_TOO_FEW = 16
"""A generation of fewer tokens tells of queue and prefill, and not of decoding."""
_FORGETS = 0.1


class Pace:
    """What a runtime writes of one generation in a second, as its last answers tell.

    A runtime that works is then never silent for as long as `silence`, down to a token in three seconds where that is
    180 s; and one that is quick costs no pieces.
    """

    def __init__(self, silence: float) -> None:
        self._silence, self._rate, self._busy = silence, 0.0, 1

    def piece(self, longest: int, busy: int) -> int | None:
        """Tokens that should come at once, of a generation that may be so long; None if all of it.

        Args:
            longest: in tokens.
            busy: requests under way. What a runtime does for more than it was seen with is shared among them.
        """
        within = self._rate * min(1.0, self._busy / max(1, busy)) * self._silence * _OF_SILENCE
        return None if longest <= _between(within, WHOLE) else _between(within, PIECE)

    def saw(self, tokens: int, seconds: float, busy: int) -> None:
        """An answer of so many tokens took so long. A slower one than before counts at once, a quicker one in part."""
        if tokens < _TOO_FEW or seconds <= 0:
            return
        rate = tokens / seconds
        self._rate = min(rate, self._rate + _FORGETS * (rate - self._rate)) if self._rate else rate
        self._busy = max(1, busy)

    def silent(self) -> None:
        """There was no sign of life."""
        self._rate = PIECE[0] / self._silence


def _between(tokens: float, bounds: tuple[int, int]) -> int:
    least, most = bounds
    return int(min(max(tokens, least), most))
