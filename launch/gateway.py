"""SGLang's model gateway before runtimes of one model: ``python -m a1_sgl.launch.gateway`` takes its own arguments.

It differs from ``python -m sglang_router.launch_router`` as `a1_sgl.launch.serve` does from SGLang's server: it ends
with its launcher. Checked with sglang-router 0.3.2.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from a1_sgl.errors import ConfigError
from a1_sgl.launch.processes import end_with_launcher, free_port
from a1_sgl.launch.runtimes import Running, Spec, serve

POLICIES = ("cache_aware", "manual", "power_of_two", "random", "round_robin")
"""How it can spread requests. Chains keep their prefixes with the first two."""
FLAGS = (
    # Left to itself it looks every half minute whether a worker is up, and every minute whether it still is.
    "--worker-startup-check-interval", "1", "--health-check-interval-secs", "5", "--cb-timeout-duration-secs", "10",
    "--log-level", "warn",
)  # fmt: skip


def gateway_command(
    urls: Sequence[str], port: int | str, policy: str = "cache_aware", flags: Sequence[str] = ()
) -> list[str]:
    """The command that serves the workers at `urls` on a port of this machine; `flags` are the gateway's own.

    Raises:
        ConfigError: no worker, a policy that it does not have, or no gateway installed.
    """
    if not urls:
        raise ConfigError("a gateway needs at least one worker")
    if policy not in POLICIES:
        raise ConfigError(f"a gateway's policy is one of {', '.join(POLICIES)}, not {policy!r}")
    if find_spec("sglang_router") is None:
        raise ConfigError("SGLang's gateway is not installed; pip install 'a1-sgl[gateway]'")
    # A chain that is new goes where least is under way, and not anywhere.
    placing = ("--assignment-mode", "min_load") if policy == "manual" else ()
    return [
        sys.executable, "-m", "a1_sgl.launch.gateway", "--host", "127.0.0.1", "--port", str(port),
        # Its metrics would be at port 29000, and a second gateway on a machine end at once.
        "--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port()),
        "--worker-urls", *urls, "--policy", policy, *placing, *FLAGS, *flags,
    ]  # fmt: skip


def gateway_ready(url: str, workers: int) -> bool:
    """Whether the gateway answers and so many workers are behind it; ``/health`` alone says nothing of them."""
    import httpx  # here, so that no help text waits for it

    try:
        found = httpx.get(f"{url}/readiness", timeout=2.0, trust_env=False)
        return bool(found.status_code == 200 and found.json()["healthy_workers"] >= workers)
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False


@dataclass(frozen=True)
class Gateway(Spec):
    """A gateway before workers, to be served as a runtime is; `flags` are its own.

    Attributes:
        urls: of the workers, which may still be starting.
        policy: how it spreads requests.
    """

    model: str = "SGLang's gateway"
    urls: tuple[str, ...] = ()
    policy: str = "cache_aware"

    def command(self, port: int | str, gpu: bool) -> list[str]:
        """What is run."""
        return gateway_command(self.urls, port, self.policy, self.flags)

    def environment(self, gpu: bool) -> dict[str, str]:
        """Nothing of its own."""
        return {}

    def ready(self, one: Running) -> bool:
        """Whether all workers are behind it."""
        return gateway_ready(one.url, len(self.urls))


@contextmanager
def gateway(
    urls: Sequence[str],
    logs: Path,
    *,
    name: str = "gateway",
    policy: str = "cache_aware",
    flags: Sequence[str] = (),
    timeout: float = 120.0,
) -> Iterator[Running]:
    """Runs a gateway before workers that are there, for the length of a ``with`` block.

    Args:
        urls: of the workers.
        logs: folder for its log, ``<name>.log``.
        timeout: seconds until it must have all of them.

    Raises:
        ConfigError: as `gateway_command`.
        RuntimeFault: it ended, or did not have its workers in time; with the end of its log.
    """
    one = Gateway(name, flags=tuple(flags), urls=tuple(urls), policy=policy)
    with serve([one], logs, timeout=timeout) as (running,):
        yield running


def main() -> None:
    """Runs the gateway until it is told to stop.

    In a process of the same group: the gateway never lets go of the interpreter's lock, so that no thread beside it
    would see the launcher end.
    """
    end_with_launcher()
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"  # its workers are no further than it is from them
    command = [sys.executable, "-m", "sglang_router.launch_router", *sys.argv[1:]]
    sys.exit(subprocess.call(command, stdin=subprocess.DEVNULL))


if __name__ == "__main__":
    main()
