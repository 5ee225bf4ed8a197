"""Makes ``.venv`` for ``make demo`` and ``make test``; needs the standard library alone.

On a machine with a GPU this is ``pip install -e '.[test]'``. Elsewhere it is the pinned list beside this file, without
dependencies, and the package itself. Does nothing while both are as they were at the last install.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.sha256"
LOG = VENV / "install.log"
REQUIREMENTS = ROOT / "launch" / "requirements-cpu.txt"


def main() -> int:
    """Exit status 0 if the environment is ready."""
    if sys.version_info < (3, 11):
        return fail(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}", "make PYTHON=python3.12 ...")
    wanted = fingerprint()
    if STAMP.exists() and STAMP.read_text() == wanted and (VENV / "bin" / "a1").exists():
        return 0
    started = time.monotonic()
    gpu = any(shutil.which(tool) for tool in ("nvidia-smi", "rocm-smi"))
    say(f"setting up .venv ({'GPU' if gpu else 'CPU, about 1.7 GB'}); this happens once")
    if not (VENV / "bin" / "pip").exists():
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], capture_output=True, text=True)
        if made.returncode:
            return fail(
                "python -m venv failed:\n" + (made.stdout + made.stderr).strip(), "on Debian: apt install python3-venv"
            )
    LOG.write_text("")
    if gpu:
        steps = [("sglang and everything it needs", ["-e", f"{ROOT}[test]"], 0)]
    else:
        pins = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
        torch = next(line for line in pins if line.startswith("torch=="))
        rest = VENV / "requirements.txt"
        rest.write_text("\n".join(line for line in pins if line != torch) + "\n")
        steps = [
            ("torch", ["--no-deps", torch], 1),
            ("packages", ["--no-deps", "-r", str(rest)], len(pins) - 1),
            ("a1-sgl", ["--no-deps", "--no-build-isolation", "-e", str(ROOT)], 1),
        ]
    for name, arguments, count in steps:
        good = pip(name, arguments, count)
        if not good and name == "torch":
            plain = arguments[-1].partition("+")[0]
            say(
                f"{arguments[-1]} is on no configured package index; taking {plain}, maybe a GPU build of "
                "several GB\n  (to avoid that, point PIP_EXTRA_INDEX_URL at PyTorch's CPU wheels and run make again)"
            )
            good = pip(name, [*arguments[:-1], plain], count)
        if not good:
            tail = "\n".join("  | " + line for line in LOG.read_text().splitlines()[-12:])
            return fail(
                f"installing {name} failed:\n{tail}",
                f"see {LOG}; mend the cause and run make again, it goes on where it stopped",
            )
    STAMP.write_text(wanted)
    say(f"ready after {time.monotonic() - started:.0f} s; `. .venv/bin/activate` puts a1 on the path")
    return 0


def pip(name: str, arguments: Sequence[str], count: int) -> bool:
    """Runs ``pip install``, counting packages on the terminal and keeping the log."""
    command = [
        str(VENV / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
    ]
    seen, live = 0, sys.stderr.isatty()
    say(f"installing {name}" + (f" ({count})" if count > 1 else ""))
    with LOG.open("a") as log:
        process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
            env=os.environ | {"PIP_NO_INPUT": "1"},
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            if line.startswith(("Collecting ", "Requirement already satisfied", "Obtaining ")):
                seen += 1
                if live and count > 1:
                    print(f"\r  {seen} of {count}", end="", file=sys.stderr, flush=True)
            elif line.startswith("Installing collected") and live:
                print("\r  unpacking      ", end="", file=sys.stderr, flush=True)
    if live:
        print("\r" + " " * 24 + "\r", end="", file=sys.stderr)
    return process.wait() == 0


def fingerprint() -> str:
    """Hash of what the environment depends on."""
    digest = hashlib.sha256(sys.version.encode())
    for file in (ROOT / "pyproject.toml", REQUIREMENTS):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def say(text: str) -> None:
    """To stderr, so that a command's own output stays clean."""
    print(text, file=sys.stderr, flush=True)


def fail(what: str, fix: str) -> int:
    """Says what failed and how to go on."""
    say(f"{what}\nto go on: {fix}")
    return 2


if __name__ == "__main__":
    sys.exit(main())
