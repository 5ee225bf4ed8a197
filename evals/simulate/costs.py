"""What steps of a runtime cost: as `a1 bench rho` measured them, or from a device's published figures.

A runtime computes step by step: a decode step writes one token of every running sequence, a prefill step reads new
tokens of one or several. Each kind of costs says how long a step takes in seconds.
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from scipy.optimize import nnls

from a1_sgl import reading
from a1_sgl.errors import ConfigError, first_line, why
from a1_sgl.evals.speed.rho import STEPS, Rho

HERE = Path(__file__).parent / "pairs"
PAIRS = tuple(sorted(path.stem for path in HERE.glob("*.yaml")))
"""Names of the pairs that come with the package."""
PREFILL = 8192
"""Tokens that a prefill step takes at most (SGLang's --chunked-prefill-size where it is not told otherwise)."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Curves(_Part):
    """Measured costs.

    Attributes:
        decode: sequences in a decode step and the seconds that it takes, at least one point, ascending; straight lines
            in between and beyond.
        context: seconds a decode step takes more for each token that its sequences hold.
        step, request, token, pair: seconds of a prefill step: of itself, for each request, for each new token, and for
            each pair of a new token and one that it attends to.
    """

    kind: Literal["curves"] = "curves"
    decode: tuple[tuple[PositiveInt, PositiveFloat], ...] = Field(min_length=1)
    context: NonNegativeFloat = 0.0
    step: NonNegativeFloat = 0.0
    request: NonNegativeFloat = 0.0
    token: NonNegativeFloat = 0.0
    pair: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        batches = [batch for batch, _ in self.decode]
        if batches != sorted(set(batches)):
            raise ValueError(f"decode must name each batch once, ascending, not {batches}")
        return self

    @classmethod
    def of(cls, rho: Rho) -> Self:
        """From what `a1 bench rho` found. Prefill is the least squares fit of its relative errors, with no cost below
        zero. Steps of the measured context cost what was measured; if what context costs was left out, it is in that
        of sequences."""
        rows, took = [], []
        for batch, row in rho.verify.items():
            for chunk, each in row.items():
                tokens = batch * chunk
                steps = math.ceil(tokens / PREFILL)
                rows.append([steps, batch, tokens, tokens * (rho.prefix + chunk / 2)])
                took.append(each * tokens)
        table, seconds = np.array(rows, float), np.array(took)
        found, _ = nnls(table / seconds[:, None], np.ones(len(seconds)))
        step, request, token, pair = map(float, found)
        held = rho.prefix + sum(STEPS) / 2
        # It was measured in one batch. In no other may it be more than nearly all of a token's cost.
        context = min(rho.context or 0.0, 0.9 * min(rho.decode.values()) / held)
        decode = tuple((batch, (each - context * held) * batch) for batch, each in sorted(rho.decode.items()))
        return cls(decode=decode, context=context, step=step, request=request, token=token, pair=pair)

    @cached_property
    def _table(self) -> list[float]:
        """Seconds of a step by batch, up to the largest that was measured."""
        batches, seconds = zip(*self.decode, strict=True)
        return [float(one) for one in np.interp(np.arange(batches[-1] + 1), batches, seconds)]

    def decode_step(self, batch: int, context: int) -> float:
        """Seconds of a step of `batch` sequences that hold `context` tokens together."""
        table = self._table
        if batch < len(table):
            return table[batch] + self.context * context
        slope = 0.0
        if len(self.decode) > 1:
            (b0, s0), (b1, s1) = self.decode[-2:]
            slope = max(0.0, (s1 - s0) / (b1 - b0))
        return table[-1] + slope * (batch - len(table) + 1) + self.context * context

    def prefill_step(self, requests: int, tokens: int, pairs: float) -> float:
        """Seconds of a step that reads `tokens` new tokens of `requests`.

        Args:
            pairs: of a new token and one that it attends to.
        """
        return self.step + self.request * requests + self.token * tokens + self.pair * pairs


class Roofline(_Part):
    """Costs from a model's shape and a device's published figures: not measured. A step takes as long as reading the
    weights and the cache it attends to, or as computing, whichever is longer.

    Attributes:
        parameters: weights that a token passes through (of a mixture of experts, the active ones).
        weight_bytes: of one weight.
        kv_bytes: of one token in the cache: 2 x layers x KV heads x size of a head x bytes.
        bandwidth: bytes a second.
        flops: operations a second.
        attention: operations for each pair of a new token and one that it attends to: 4 x layers x width.
        devices: that share the work evenly (tensor parallelism, whose exchange is left out).
        efficiency: share of bandwidth and flops that is reached.
        overhead: seconds a step takes besides.
    """

    kind: Literal["roofline"] = "roofline"
    parameters: PositiveFloat
    weight_bytes: PositiveFloat = 2.0
    kv_bytes: NonNegativeFloat
    bandwidth: PositiveFloat
    flops: PositiveFloat
    attention: NonNegativeFloat = 0.0
    devices: PositiveInt = 1
    efficiency: Annotated[float, Field(gt=0, le=1)] = 1.0
    overhead: NonNegativeFloat = 0.0

    def decode_step(self, batch: int, context: int) -> float:
        """As of `Curves`."""
        return self._longer(self.kv_bytes * context, 2 * self.parameters * batch + self.attention * context)

    def prefill_step(self, requests: int, tokens: int, pairs: float) -> float:
        """As of `Curves`. What its new tokens attend to is read once for each request."""
        read = pairs / max(tokens, 1) * requests
        return self._longer(self.kv_bytes * read, 2 * self.parameters * tokens + self.attention * pairs)

    def _longer(self, kv: float, operations: float) -> float:
        reading = (self.parameters * self.weight_bytes + kv) / self.bandwidth
        return max(reading, operations / self.flops) / (self.devices * self.efficiency) + self.overhead


Costs = Annotated[Curves | Roofline, Field(discriminator="kind")]


class Worker(_Part):
    """A runtime: what steps cost it, and what it holds.

    Attributes:
        running: most sequences that it computes at once (SGLang's --max-running-requests).
        capacity: tokens that its cache holds.
        prefill: most tokens that a prefill step reads.
        decode_scale, prefill_scale: what a fit found steps to take, in times of what the costs say.
        devices: how many devices it occupies, for what a question costs.
    """

    costs: Costs
    running: PositiveInt = 128
    capacity: PositiveInt = 200_000
    prefill: PositiveInt = PREFILL
    decode_scale: PositiveFloat = 1.0
    prefill_scale: PositiveFloat = 1.0
    devices: NonNegativeFloat = 1.0


class Pair(_Part):
    """What is simulated: one worker of each kind, and what lies between them.

    Attributes:
        network: seconds that a request is under way and in the client, there and back.
        contention: by how many times of itself a step is slower while a worker of the other kind computes too: 0 where
            each has a device of its own, 1 where they take turns on one.
    """

    draft: Worker
    target: Worker
    network: NonNegativeFloat = 0.0
    contention: NonNegativeFloat = 0.0

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a YAML file. In the place of a worker's `costs` may stand ``{rho: FILE}``, what `a1 bench rho` wrote,
        named from the folder of the YAML file.

        Raises:
            ConfigError: a file cannot be read or says something else.
        """
        said = reading.from_yaml(path)
        for role in ("draft", "target"):
            worker = said.get(role) if isinstance(said, dict) else None
            costs = worker.get("costs") if isinstance(worker, dict) else None
            if isinstance(worker, dict) and isinstance(costs, dict) and costs.keys() == {"rho"}:
                worker["costs"] = measured(path.parent / str(costs["rho"])).model_dump()
        try:
            return cls.model_validate(said)
        except ValidationError as error:
            raise ConfigError(f"{path}: not a pair to simulate: {why(error)}; see docs/simulate.md") from error

    def save(self, path: Path) -> None:
        """Writes what `load` reads."""
        import yaml

        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def find_pair(name: str) -> Pair:
    """A pair by the name of one that comes with the package, or by its file.

    Raises:
        ConfigError: as `Pair.load`, or there is no such file.
    """
    if name in PAIRS:
        return Pair.load(HERE / f"{name}.yaml")
    if not Path(name).is_file():
        raise ConfigError(f"pair {name!r} is no file and none of {', '.join(PAIRS)}; see docs/simulate.md")
    return Pair.load(Path(name))


def measured(path: Path) -> Curves:
    """The costs in a file of `a1 bench rho`.

    Raises:
        ConfigError: it is none.
    """
    try:
        rho = Rho.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no file of `a1 bench rho` ({first_line(error)})") from error
    if not rho.decode or not any(rho.verify.values()):
        raise ConfigError(f"{path}: nothing was measured; run `a1 bench rho` again")
    return Curves.of(rho)
