"""One SGLang runtime: ``python -m a1_sgl.launch.serve --model-path DIR ...`` takes SGLang's own server arguments.

It differs from ``python -m sglang.launch_server`` in three ways. The CPU engine is enabled before sglang is imported,
in this process and in whatever it spawns: a spawned process imports its parent's main module first, so a line at this
module's top level reaches them all. Without a GPU, scheduler and detokenizer are forked and not spawned. And the whole
process group ends with its launcher, if `a1_sgl.launch.processes` started it.
"""

import multiprocessing
import os
import sys

from a1_sgl.launch.cpu_engine import enable, has_gpu
from a1_sgl.launch.processes import end_with_launcher

enable()
if not has_gpu():  # else torch takes the stand-in for triton for a compiler
    os.environ["TORCHDYNAMO_DISABLE"] = "1"


def main() -> None:
    """Runs the server until it is told to stop."""
    end_with_launcher()
    from sglang.launch_server import run_server
    from sglang.srt.server_args import prepare_server_args

    if not has_gpu():
        _fork()
    run_server(prepare_server_args(sys.argv[1:]))


def _fork() -> None:
    """Has SGLang fork its scheduler and detokenizer, which then have what is imported here.

    To import it anew is most of what a small model's start takes. CUDA does not survive a fork, and SGLang asks to
    spawn whatever the device is.
    """
    multiprocessing.set_start_method("fork")
    multiprocessing.set_start_method = lambda *_, **__: None


if __name__ == "__main__":
    main()
