"""One SGLang runtime: ``python -m a1_sgl.launch.serve --model-path DIR ...`` takes SGLang's own server arguments.

It differs from ``python -m sglang.launch_server`` in two ways. The CPU engine is enabled before sglang is imported, in
this process and in the scheduler and detokenizer that SGLang spawns: a spawned process imports its parent's main module
first, so a line at this module's top level reaches them all. And the whole process group ends with its launcher, if
`a1_sgl.launch.processes` started it.
"""

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

    run_server(prepare_server_args(sys.argv[1:]))


if __name__ == "__main__":
    main()
