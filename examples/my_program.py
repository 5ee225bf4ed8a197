"""A program of one's own: the target's second opinion on the answer alone.

    a1 eval --program examples/my_program.py:second_opinion --out runs/second-opinion

The draft writes a whole chain; where the gate finds its last chunk strange, the target writes the chain anew.
`program` says what it needs: a gate, and a pair of runtimes, of which the target takes over.
"""

import sglang as sgl

from a1_sgl.programs import program
from a1_sgl.session import run_chains


@program(gate="required", takes_over=True)
@sgl.function
def second_opinion(s, query, gate, turns=24, draft_tokens=500, target_tokens=4096):
    """The draft writes to the end, its last chunk is judged, and what is strange the target writes anew."""

    def body(chain):
        for _ in range(turns):
            last = chain.draft(draft_tokens)
            if chain.end_turn():
                break
        if chain.judge(last, gate):
            for chunk in reversed(list(chain.chunks)):
                chain.drop(chunk)
            chain.target(target_tokens, stop=[])

    return run_chains(s, query, body)
