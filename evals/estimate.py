"""What a run will take, before it is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from a1_sgl.errors import ConfigError
from a1_sgl.evals.runner import Eval
from a1_sgl.records import RunFolder
from a1_sgl.types import Usage, calls_of


@dataclass(frozen=True)
class Estimate:
    """Of a whole run: how many chains, and of requests and tokens how many.

    Attributes:
        bound: whether these are what the parameters allow, or what a like run leads to expect.
        decode: tokens, by role.
        seconds: None where no run says how fast the runtimes are.
    """

    questions: int
    chains: int
    bound: bool
    requests: int
    decode: Mapping[str, int]
    seconds: float | None


def most(plan: Eval) -> Estimate:
    """What `plan` can take by the lengths that its parameters allow. Errors as in `Task.questions`.

    A turn is a draft's decode, a score, and the target's decode where it takes over; a program without turns decodes
    ``max_tokens``. Programs that fork or redraw may take more, and are counted as if they did not.
    """
    chains, given = len(plan.asked) * plan.chains, _arguments(plan)
    longest = int(given.get("max_tokens") or 0)
    if "turns" in given and plan.strategy.takes_over:
        turns = int(given["turns"])
        decode = {name: turns * int(given.get(f"{name}_tokens", longest)) for name in ("draft", "target")}
        if longest:
            decode = {name: min(tokens, longest) for name, tokens in decode.items()}
        requests = 3 * turns
    else:
        decode, requests = {plan.runtime or "target": longest}, 1
    return Estimate(
        len(plan.asked), chains, True, chains * requests, {name: chains * n for name, n in decode.items()}, None
    )


def like(plan: Eval, run: RunFolder) -> Estimate:
    """What `plan` will take if its chains are as those of `run`.

    Raises:
        ConfigError: `run` has no finished chain, or is of another program.
    """
    program = run.run["configuration"]["program"]
    if program != plan.strategy.name:
        raise ConfigError(f"{run.path} is a run of {program}, and says nothing of {plan.strategy.name}")
    if not run.finished:
        raise ConfigError(f"{run.path} has no finished chain to go by")
    chains = len(plan.asked) * plan.chains
    share = chains / len(run.finished)
    return Estimate(
        len(plan.asked), chains, False, round(share * len(calls_of(run.events))),
        {name: round(share * n) for name, n in Usage.of(run.events).decode.items()}, share * run.wall(),
    )  # fmt: skip


def _arguments(plan: Eval) -> dict[str, Any]:
    return {name: plan.strategy.default(name) for name in plan.strategy.own} | plan.arguments
