"""Strategies, one file each. Every one is an ``@sgl.function`` under a `program` that declares what it needs.

In: a `Query`, which is what all programs are asked (question, chains, listener, vote, rating, seed), a gate from
`a1_sgl.conformal` where it takes one, and its own parameters, of which the same name means the same everywhere. It runs
on a `Backend`: a program that takes over needs a pair; any other runs on that, where the draft writes and the target
scores, or on one runtime, which does both. Sampling parameters and stop strings (`a1_sgl.programs.chunking`) go to
``run`` as SGLang has it.

Out: a `Result` as the state's ``ret_value``; `Program.stream` yields the events as they come, and ``arun`` and
``astream`` do the same for code with ``await``.
"""

from typing import TYPE_CHECKING

from a1_sgl import session as _session  # noqa: F401  before sglang, so that it can be without a GPU
from a1_sgl.lazy import lazy
from a1_sgl.programs.chunking import CHUNKINGS, stop_strings

if TYPE_CHECKING:
    from a1_sgl.programs.a1 import a1
    from a1_sgl.programs.a1_lookahead import a1_lookahead
    from a1_sgl.programs.a1_sync import a1_sync
    from a1_sgl.programs.beam_search import beam_search
    from a1_sgl.programs.best_of_n import best_of_n
    from a1_sgl.programs.budget_forcing import budget_forcing
    from a1_sgl.programs.contract import Program, find_program, program
    from a1_sgl.programs.direct import direct
    from a1_sgl.programs.dvts import dvts
    from a1_sgl.programs.library import PROGRAMS
    from a1_sgl.programs.route import route
    from a1_sgl.programs.self_consistency import self_consistency
    from a1_sgl.programs.self_reject import self_reject
    from a1_sgl.programs.self_reject_fork import self_reject_fork
    from a1_sgl.programs.spec_reason import spec_reason
    from a1_sgl.programs.speculative_thinking import speculative_thinking
    from a1_sgl.programs.tree_of_thought import tree_of_thought

NAMES = (
    "direct", "self_consistency", "best_of_n", "beam_search", "dvts", "tree_of_thought", "budget_forcing",
    "self_reject", "self_reject_fork", "a1", "a1_sync", "a1_lookahead", "spec_reason", "speculative_thinking", "route",
)  # fmt: skip
"""The library's programs, each in the file of its name."""

_CONTRACT = dict.fromkeys(("Program", "find_program", "program"), "contract")
lazy(__name__, {name: name for name in NAMES} | {"PROGRAMS": "library"} | _CONTRACT)  # they need sglang

__all__ = [
    "CHUNKINGS",
    "NAMES",
    "PROGRAMS",
    "Program",
    "a1",
    "a1_lookahead",
    "a1_sync",
    "beam_search",
    "best_of_n",
    "budget_forcing",
    "direct",
    "dvts",
    "find_program",
    "program",
    "route",
    "self_consistency",
    "self_reject",
    "self_reject_fork",
    "spec_reason",
    "speculative_thinking",
    "stop_strings",
    "tree_of_thought",
]
