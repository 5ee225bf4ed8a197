"""The script for a GPU machine, run whole on the CPU engine, so that only the shapes differ."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "launch" / "bench_gpu.sh"


def run(out, **settings):
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "PYTHON": sys.executable,
        **settings,
    }
    return subprocess.run(["bash", str(SCRIPT), str(out)], capture_output=True, text=True, env=environment)


def test_what_is_missing_is_named(tmp_path):
    """Before anything is served."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    done = run(tmp_path / "out", PYTHON=str(bare))
    assert done.returncode == 2
    assert "not importable by" in done.stderr
    assert "sglang" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="a GPU has other shapes")
def test_the_whole_script(tmp_path):
    done = run(tmp_path, CHAINS="1 4", TOKENS="256", FIXED="2x16", REPEATS="1", SECONDS_FOR_RHO="5")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (tmp_path / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == ["1", "4"]
    assert "A1 can pay" in done.stdout or "A1 cannot pay" in done.stdout
    results = json.loads((tmp_path / "bench-4" / "results.json").read_text())
    assert results["settings"]["models"] == {"draft": "small", "target": "large"}
    assert results["costs"].keys() == {"draft", "target", "verify"}
    left = subprocess.run(["pgrep", "-f", str(tmp_path / "models")], capture_output=True, text=True).stdout
    assert left == "", "a server was left behind"
