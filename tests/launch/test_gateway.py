"""A gateway ends with whoever started it."""

import os
import signal
import subprocess
import sys

from .test_runtimes import group, wait_for

STARTS = """
import os, pathlib, sys, time
from a1_sgl.launch.gateway import gateway_command
from a1_sgl.launch.processes import free_port, spawn

one = spawn(gateway_command(["http://127.0.0.1:9"], free_port()), pathlib.Path(sys.argv[1]), os.environ)
print(one.pid, flush=True)
time.sleep(600)
"""


def test_a_gateway_whose_launcher_is_killed_leaves_nothing(tmp_path):
    log = tmp_path / "gateway.log"
    with subprocess.Popen([sys.executable, "-c", STARTS, str(log)], stdout=subprocess.PIPE, text=True) as launcher:
        pid = int(launcher.stdout.readline())
        assert group(pid)
        # It has read that it is to end with its launcher once it speaks of a worker that is not there.
        assert wait_for(lambda: "9" in log.read_text(errors="replace"), 120), log.read_text()
        assert group(pid)
        os.kill(launcher.pid, signal.SIGKILL)
    assert wait_for(lambda: not group(pid)), "the gateway was left behind"
