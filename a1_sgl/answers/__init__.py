"""Answers: found in a chain's text, brought into one form, taken apart, read, and compared exactly.

A stage a module: `extract`, `normalise` (with `arguments`), `split` into `nodes` (with `scan`, `quantity`, `units`),
`parse`, `compare` (with `values`). `choice` reads options, `graders` puts all together, and `worker` has `algebra` done
in a process of its own, under a time limit.
"""

from a1_sgl.answers.extract import boxes, final_answer, stated_answer
from a1_sgl.answers.graders import GRADERS, explain, grade, key
from a1_sgl.answers.normalise import bare

__all__ = ["GRADERS", "bare", "boxes", "explain", "final_answer", "grade", "key", "stated_answer"]
