"""What a draft gets wrong: ``python -m a1_sgl.launch.pocket.slips --draft FOLDER --out FILE [--target FOLDER]``.

Problems of the train split are solved by the draft, as it does in a run, and of each chain that goes wrong the first
wrong line is kept; with a target, how many of them it corrects at once, and only those that it does not are kept. A
target that learns from these (`train`, ``--slips``) has seen its own draft's errors, and not only those that `corpus`
invents.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from a1_sgl.evals.stories import Problem, Step, problems
from a1_sgl.launch.pocket.corpus import Line, notices
from a1_sgl.launch.pocket.writing import encode, prompt_ids, sampled

_HAS = re.compile(r" has (\d{1,4}) \w+\.$")
_BOXED = re.compile(r"\\boxed\{(\d{1,4})\}\.$")
NOWHERE = -1
"""Count of a line that states none: nothing can be built on it."""


@dataclass(frozen=True)
class Slip:
    """A line that a draft got wrong, after right ones.

    Attributes:
        problem: of the train split.
        index: which line it is, from 0.
        text: what stands there.
    """

    problem: Problem
    index: int
    text: str

    @property
    def line(self) -> Line:
        """As training texts have it."""
        stated = _HAS.search(self.text) or _BOXED.search(self.text)
        ends = "boxed" in self.text
        count = int(stated[1]) if stated else NOWHERE
        return Line(self.text, "wrong", count, ends=ends, ought=self.problem.line_at(self.index))

    @classmethod
    def of(cls, row: dict[str, Any]) -> Slip:
        """One of a file, where they lie as `asdict` has them."""
        problem = row["problem"]
        steps = tuple(Step(**step) for step in problem["steps"])
        return cls(Problem(**problem | {"steps": steps}), row["index"], row["text"])


def read(path: Path) -> list[Slip]:
    """All of a file, which may be gzipped."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [Slip.of(json.loads(line)) for line in lines]


def first(problem: Problem, text: str) -> Slip | None:
    """The first wrong line of a solution; None where all are right, or it breaks off before one is whole."""
    lines = text.split("\n\n")
    for index, line in enumerate(lines):
        if index > len(problem.steps):
            return None  # what comes after a right answer is nobody's step
        if line != problem.line_at(index):
            whole = index + 1 < len(lines) or "boxed" in line
            return Slip(problem, index, line) if line and whole else None
    return None


def draw(
    model: LlamaForCausalLM, tokenizer: Any, source: Iterator[Problem], count: int, temperature: float
) -> Iterator[Slip]:
    """Slips in `count` chains, a chain a problem."""
    found = list(islice(source, count))
    texts = sampled(model, tokenizer, [prompt_ids(tokenizer, one) for one in found], temperature)
    yield from (slip for slip in map(first, found, texts) if slip is not None)


def mended(model: LlamaForCausalLM, tokenizer: Any, slips: Sequence[Slip], temperature: float) -> list[bool]:
    """Whether the very next line that the model writes after a slip is its correction: what `continue` lives on."""
    prompts, wanted = [], []
    for slip in slips:
        lines = (*slip.problem.lines[: slip.index], slip.text)
        prompts.append(
            [*prompt_ids(tokenizer, slip.problem), *encode(tokenizer, "".join(f"{one}\n\n" for one in lines))]
        )
        wanted.append(notices(slip.problem, slip.index, slip.line) + slip.line.ought)
    longest = max(len(encode(tokenizer, line)) for line in wanted)
    texts = sampled(model, tokenizer, prompts, temperature, longest + 1)
    return [text.partition("\n\n")[0] == line for text, line in zip(texts, wanted, strict=True)]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", type=Path, default=Path(__file__).parent / "stories" / "draft")
    parser.add_argument("--target", type=Path, help="keep what this model does not correct at once")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chains", type=int, default=16_384)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--temperature", type=float, default=0.6)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(args.draft)
    model = LlamaForCausalLM.from_pretrained(args.draft).to(device)
    target = LlamaForCausalLM.from_pretrained(args.target).to(device) if args.target else None
    torch.manual_seed(args.seed)
    source, start, found, kept = problems("train", f"slips/{args.seed}"), time.monotonic(), 0, 0
    with args.out.open("w") as file:
        for done in range(0, args.chains, args.batch):
            slips = list(draw(model, tokenizer, source, min(args.batch, args.chains - done), args.temperature))
            found += len(slips)
            if target is not None and slips:
                right = mended(target, tokenizer, slips, args.temperature)
                slips = [slip for slip, well in zip(slips, right, strict=True) if not well]
            file.writelines(json.dumps(asdict(slip)) + "\n" for slip in slips)
            file.flush()
            kept += len(slips)
            print(
                f"{min(done + args.batch, args.chains)} chains, {found} slips, {kept} kept, "
                f"{time.monotonic() - start:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
