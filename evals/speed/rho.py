"""What reading a token costs a runtime, over what writing one costs: rho, by batch and chunk.

It says where A1 can pay. A target that is never idle gains at most ``1 / (alpha + rho)``, so nothing where
``alpha + rho >= 1``; with ``continue`` 1 + alpha times that. Rho is small where decoding is bound by memory, which
reads all weights for each step, and grows with the batch, since verification is mostly bound by computing.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel

from a1_sgl.engine import Engine, Request
from a1_sgl.errors import ConfigError, RuntimeFault, first_line
from a1_sgl.evals.speed.limits import saturated_speed_up
from a1_sgl.session.transcript import as_ids

BATCHES = (1, 4, 16, 64, 256)
CHUNKS = (16, 64, 256, 512)
PREFIX = 256
"""Tokens before what is decoded or verified; fewer where the context is short."""
FAR, FAR_BATCH = 3, 16
"""To tell what context costs: by how much longer a prefix is decoded after as well, in a batch of this or less."""
STEPS = (8, 40)
"""Decode steps of the two generations whose difference is taken, so that prompt and request drop out."""
CHUNK, ALPHA = 64, 0.25
"""What a conclusion is for where nobody says otherwise."""
FILE = "rho.json"


class Rho(BaseModel):
    """Costs of one runtime.

    Attributes:
        model, model_sha256: what it served.
        machine, packages: what it ran on.
        prefix: tokens before what was decoded or verified.
        decode: seconds a token, by batch.
        verify: seconds a token, by batch and chunk: so many chunks of that length sent at once.
        context: seconds that a decoded token costs more for each token that its sequence already holds; 0 where it was
            not each time more. None if it was left out.
        left_out: what was not measured, and why.
    """

    model: str
    model_sha256: str
    machine: str
    packages: dict[str, str | None]
    prefix: int
    decode: dict[int, float]
    verify: dict[int, dict[int, float]]
    context: float | None = None
    left_out: list[str] = []

    def at(self, batch: int, chunk: int) -> float:
        """Rho at the measured batch and chunk that are nearest, as factors.

        Raises:
            ValueError: nothing was measured.
        """
        row = nearest(self.verify, batch)
        return self.verify[row][nearest(self.verify[row], chunk)] / self.decode[row]

    def says(self, batch: int, chunk: int, alpha: float, take_over: str = "replace") -> str:
        """Where A1 can pay on this runtime, and by how much at most, in one sentence, and what that leaves open."""
        row = nearest(self.verify, batch)
        column = nearest(self.verify[row], chunk)
        rho = self.at(row, column)
        pays = [one for one in sorted(self.verify) if saturated_speed_up(alpha, self.at(one, column), take_over) > 1]
        at = f"with {row} in flight and chunks of {column} tokens rho is {rho:.2f}"
        beyond = [
            *([f"{batch} in flight, where rho is higher"] if batch > max(self.verify) else []),
            *([f"chunks of {chunk}, a token of which costs more"] if chunk < min(self.verify[row]) else []),
        ]
        if beyond:
            at += f" (not measured: {' and '.join(beyond)})"
        if not pays:
            return f"A1 cannot pay at alpha {alpha:g} on {self.model}: {at}, and verifying saves nothing in any batch"
        where = "in every batch measured" if len(pays) == len(self.verify) else f"up to {pays[-1]} in flight"
        if row not in pays:
            return f"A1 can pay at alpha {alpha:g} on {self.model} {where} only: {at}"
        above = "(1 + alpha)" if take_over == "continue" else "1"
        gain = saturated_speed_up(alpha, rho, take_over)
        return (
            f"A1 can pay at alpha {alpha:g} on {self.model} {where}: {at}, so that its throughput is at most "
            f"{above} / (alpha + rho) = {gain:.1f} times the target's alone"
        )

    def save(self, state: Path) -> Path:
        """Keeps it where other commands look for it."""
        state.mkdir(parents=True, exist_ok=True)
        path = state / FILE
        path.write_text(self.model_dump_json(indent=1))
        return path

    @classmethod
    def find(cls, state: Path) -> Rho | None:
        """What was last measured here; None if nothing was.

        Raises:
            ConfigError: the file cannot be read.
        """
        path = state / FILE
        if not path.exists():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path} cannot be read ({first_line(error)}); delete it and run `a1 bench rho` again"
            ) from error


def nearest(measured: Iterable[int], wanted: int) -> int:
    """The number in `measured` that `wanted` differs from by the smallest factor."""
    measured = list(measured)
    if not measured:
        raise ValueError("nothing was measured")
    return min(measured, key=lambda one: max(one / wanted, wanted / one))


async def measure(
    engine: Engine,
    *,
    machine: str,
    packages: dict[str, str | None],
    batches: Sequence[int] = BATCHES,
    chunks: Sequence[int] = CHUNKS,
    running: int | None = None,
    capacity: int | None = None,
    seconds: float = 120.0,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Rho:
    """Measures a runtime that does nothing else.

    Args:
        running: how many sequences it computes at once; larger batches are left out.
        capacity: how many tokens its cache holds; what needs more is left out.
        seconds: when they are over, what is left is left out, but for the first of all.
        seed: of the token ids.
        tell: told of what is measured.

    Raises:
        RuntimeFault: as the engine's; or what it costs cannot be told from noise.
        ConfigError: the runtime is too small for any of it.
    """
    began, drawn = time.monotonic(), random.Random(seed)
    limits, size = engine.limits, engine.codec.size
    prefix = min(PREFIX, limits.longest_prompt // 4)
    if prefix < 2:
        raise ConfigError(f"{engine.name}: a context of {limits.context} tokens is too short to measure anything in")
    left_out: list[str] = []
    decode: dict[int, float] = {}
    verify: dict[int, dict[int, float]] = {}

    def over(what: str) -> bool:
        if not any(verify.values()) or time.monotonic() - began < seconds:
            return False
        left_out.append(f"{what}: the {seconds:g} s were over")
        return True

    def draw(count: int) -> list[int]:
        return [drawn.randrange(size) for _ in range(count)]

    for batch in batches:
        what = f"{batch} in flight"
        if running is not None and batch > running:
            left_out.append(f"{what}: the runtime computes {running} at once")
            continue
        if capacity is not None and batch * (prefix + STEPS[1]) > capacity:
            left_out.append(f"{what}: more than the runtime holds")
            continue
        if over(what):
            continue
        tell(what)
        prompts = [draw(prefix) for _ in range(batch)]
        await _read(engine, prompts)
        cost = statistics.median([await _written(engine, prompts) for _ in range(3 if batch < 64 else 2)])
        if cost <= 0:
            left_out.append(f"{what}: what a step costs cannot be told from noise; has the runtime other work?")
            continue
        decode[batch], verify[batch] = cost, {}
        for chunk in chunks:
            cell = f"{what}, chunks of {chunk}"
            if prefix + chunk > limits.longest_prompt or (capacity and batch * (prefix + chunk) > capacity):
                left_out.append(f"{cell}: more than the runtime holds")
                continue
            if over(cell):
                continue
            found = []
            for _ in itertools.repeat(None, 3):  # new tokens each time, so that the cache has none of them
                asked = [Request(as_ids(prompt + draw(chunk))) for prompt in prompts]
                started = time.perf_counter()
                await asyncio.gather(*(engine.score(request, prefix) for request in asked))
                found.append((time.perf_counter() - started) / (batch * chunk))
                if sum(found) * batch * chunk > 4:
                    break
            verify[batch][chunk] = statistics.median(found)
        if not verify[batch]:
            del verify[batch]
    if not verify:
        raise RuntimeFault(f"{engine.name}: nothing could be measured; {'; '.join(left_out)}")
    context, batch = None, max((one for one in verify if one <= FAR_BATCH), default=min(verify))
    what, far = "what context costs", FAR * prefix
    if far + STEPS[1] > limits.longest_prompt or (capacity and batch * (far + STEPS[1]) > capacity):
        left_out.append(f"{what}: more than the runtime holds")
    elif not over(what):
        tell(what)
        ends = [draw(far) for _ in range(batch)]
        both = [prompt[:prefix] for prompt in ends], ends
        await _read(engine, ends)
        took = [[await _written(engine, prompts) for prompts in both] for _ in range(3)]
        more = [away - near for near, away in took]
        context = statistics.median(more) / (far - prefix) if min(more) > 0 else 0.0
    identity = engine.identity
    return Rho(
        model=Path(identity.model).name, model_sha256=identity.model_sha256, machine=machine, packages=packages,
        prefix=prefix, decode=decode, verify=verify, context=context, left_out=left_out,
    )  # fmt: skip


async def _read(engine: Engine, prompts: Sequence[Sequence[int]]) -> None:
    """Puts the prompts into the cache, and writes a little: what comes first on a batch is slower than what follows."""
    await asyncio.gather(*(engine.prefill(Request(as_ids(prompt))) for prompt in prompts))
    await _decode(engine, prompts, STEPS[0])


async def _written(engine: Engine, prompts: Sequence[Sequence[int]]) -> float:
    """Seconds a token, all together."""
    short, long = [await _decode(engine, prompts, steps) for steps in STEPS]
    return (long - short) / (STEPS[1] - STEPS[0]) / len(prompts)


async def _decode(engine: Engine, prompts: Sequence[Sequence[int]], steps: int) -> float:
    sampling = {"max_new_tokens": steps, "temperature": 1.0, "ignore_eos": True}
    started = time.perf_counter()
    await asyncio.gather(*(engine.generate(Request(as_ids(prompt)), sampling) for prompt in prompts))
    return time.perf_counter() - started
