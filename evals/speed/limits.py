"""What speed is possible at all, from what the parts cost.

Costs are in units of the target's time for one chunk: `draft` for the draft's chunk, `verify` for the target's reading
of it, and 1 for writing it. The formulas are of chunks of one length; a turn is one chunk of the answer, or with
``continue`` and a take-over two.
"""

from __future__ import annotations

from dataclasses import dataclass


def chain_speed_up(
    draft: float, verify: float, alpha: float, take_over: str = "replace", lookahead: bool = False
) -> float:
    """How many times as fast as the target alone one chain can be, when nothing else runs.

    Args:
        take_over: ``replace`` or ``continue``.
        lookahead: whether the next chunk is drafted while this one is verified.

    Raises:
        ValueError: a cost that is not positive, a rate outside [0, 1], or another take-over.
    """
    if not (draft > 0 and verify > 0 and 0 <= alpha <= 1):
        raise ValueError(f"costs must be positive and the rate in [0, 1]: {draft}, {verify}, {alpha}")
    if take_over not in ("replace", "continue"):
        raise ValueError(f"unknown take-over {take_over!r}; known: replace, continue")
    written = 1 + alpha if take_over == "continue" else 1.0
    if lookahead:  # after a rejection the next draft begins anew, after the target
        return written / ((1 - alpha) * max(draft, verify) + alpha * (draft + verify + 1))
    return written / (draft + verify + alpha)


def saturated_speed_up(alpha: float, rho: float, take_over: str = "replace") -> float:
    """How many times the target's throughput alone the pair can have, when the target is never idle and the draft runs
    on another device.

    Args:
        alpha: the take-over rate.
        rho: what verifying a token costs, over what writing one costs, with as many chains in flight.
        take_over: ``replace`` or ``continue``, with which a take-over adds a chunk.
    """
    return (1 + alpha if take_over == "continue" else 1.0) / (alpha + rho)


@dataclass(frozen=True)
class Costs:
    """Seconds a token with so many chains in flight, each kind measured by itself: the runtime's own throughput."""

    draft: float
    target: float
    verify: float

    @property
    def rho(self) -> float:
        """Verification over decode."""
        return self.verify / self.target

    def bound(self, drafted: int, decoded: int, verified: int, *, apart: bool = False) -> float:
        """Seconds that so many tokens take at least with many chains in flight: no runtime is faster than when it is
        never idle.

        Args:
            apart: whether a third runtime verifies.
        """
        draft, decode, verify = drafted * self.draft, decoded * self.target, verified * self.verify
        return max(draft, decode, verify) if apart else max(draft, decode + verify)

    def serial(self, drafted: int, decoded: int, verified: int, *, lookahead: bool = False) -> float:
        """Seconds that they take at least when one chain runs at a time, and so one request; with lookahead a chunk may
        be drafted while another one is verified.

        Args:
            drafted: without what was drafted ahead and rolled back, which took no time of its own.
        """
        draft, verify = drafted * self.draft, verified * self.verify
        return decoded * self.target + (max(draft, verify) if lookahead else draft + verify)
