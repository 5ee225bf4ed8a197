"""Speculative thinking: the target takes over where the draft affirms, reflects or verifies.

Source: *Speculative Thinking: Enhancing Small-Model Reasoning with Large Model Guidance at Inference Time*
(arXiv 2504.12329), with its words and lengths as defaults.
"""

from __future__ import annotations

import sglang as sgl
from sglang.lang.interpreter import ProgramState

from a1_sgl.programs.contract import program
from a1_sgl.programs.parameters import Count
from a1_sgl.session import Chain, Query, Scored, run_chains
from a1_sgl.types import Result

AFFIRMATION = ("yeah", "yes", "final answer", "confident")
REFLECTION = ("wait", "alternatively", "hold on", "another", "hmm", "but")
VERIFICATION = ("verify", "think again", "recap", "check")


@program(takes_over=True)
@sgl.function
def speculative_thinking(
    s: ProgramState,
    query: Query,
    turns: Count = 200,
    draft_tokens: Count = 1024,
    probe_tokens: Count = 20,
    target_tokens: Count = 125,
    doubts: Count = 10,
    recap: str = "Let us check whether there are some wrong steps.",
    affirmation: tuple[str, ...] = AFFIRMATION,
    reflection: tuple[str, ...] = REFLECTION,
    verification: tuple[str, ...] = VERIFICATION,
) -> Result:
    """At the start of each paragraph the draft's first words are looked at; where they hold a cue, the target writes.

    1. A cue of affirmation, reflection or verification: the target writes the `probe_tokens` instead.
    2. It verifies: the target goes on for `target_tokens`.
    3. After `doubts` reflections `recap` is put in, and the target writes `target_tokens`.

    Args:
        turns: most paragraphs.
        draft_tokens: longest paragraph, in tokens.
        probe_tokens: first words that are looked at, in tokens (the paper's n_1).
        target_tokens: take-over for verifying and for recapitulating, in tokens (the paper's n_2 and n_3).
        doubts: reflections after which a chain recapitulates.
        recap: what is put in then.
        affirmation, reflection, verification: the cues, in lower case.

    Chunks must end at paragraphs (`stop` of ``\\n\\n``). No prefill is spent on judging. Use it to compare with, for
    models that think aloud in these words.
    """

    def holds(text: str, *cues: tuple[str, ...]) -> bool:
        return any(cue in text.lower() for group in cues for cue in group)

    def body(chain: Chain) -> None:
        reflections = 0
        for turn in range(turns):
            if reflections >= doubts:
                reflections = 0
                chain.append(recap)
                chain.target(target_tokens)
            elif turn:
                # The paragraph's first words, as far as they reach before it ends.
                probe = chain.draft(probe_tokens)
                cue = holds(probe.text, affirmation, reflection, verification)
                first = probe
                if chain.verdict(probe, Scored(float(cue), len(probe.ids)), cue, replace=True):
                    first = chain.target(probe_tokens)
                reflections += holds(first.text, reflection, verification)
                if cue and holds(first.text, verification) and chain.ending is None:
                    chain.target(target_tokens)
                elif chain.ending is None and not first.text.endswith("\n\n"):
                    chain.draft(draft_tokens)
            else:
                chain.draft(draft_tokens)
            if chain.end_turn():
                break

    return run_chains(s, query, body)
