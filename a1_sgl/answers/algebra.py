"""Compares answers with an algebra system, a line of JSON each; see `a1_sgl.answers.worker`."""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
from dataclasses import astuple
from typing import Any

MEMORY = 4 << 30
"""Address space that the process may take, in bytes."""


def main() -> None:
    """Reads lines until there are no more. One that takes too long ends the process, by the alarm's own signal."""
    from a1_sgl.answers.graders import compared
    from a1_sgl.answers.parse import expression

    logging.disable(logging.WARNING)
    sys.set_int_max_str_digits(0)  # a number of 10,000 digits is no error
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints
    for line in sys.stdin:
        seconds, *asked = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        found: Any
        try:
            found = astuple(compared(expression, *asked))
        except Exception as error:  # whatever an algebra system raises
            said = (str(error).splitlines() or [""])[0][:80]
            found = f"{type(error).__name__}{said and ': '}{said}"
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
