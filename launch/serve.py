"""One SGLang runtime: ``python -m a1_sgl.launch.serve --model-path DIR ...`` takes SGLang's own server arguments.

It differs from ``python -m sglang.launch_server`` in two ways. The CPU engine is enabled before sglang is imported, in
this process and in the scheduler and detokenizer that SGLang spawns: a spawned process imports its parent's main module
first, so a line at this module's top level reaches them all. And with `WATCH` set in the environment the whole process
group ends when standard input closes, which is when the launcher has died.
"""

import os
import signal
import sys
import threading

from a1_sgl.launch.cpu_engine import enable

WATCH = "A1_SGL_WATCH_STDIN"

enable()


def _end_with_launcher() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    """Runs the server until it is told to stop."""
    if os.environ.pop(WATCH, None):
        threading.Thread(target=_end_with_launcher, daemon=True).start()
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args

    run_server(prepare_server_args(sys.argv[1:]))


if __name__ == "__main__":
    main()
