"""What a draft gets wrong: ``python -m a1_sgl.launch.pocket.slips --draft FOLDER --out FILE [--target FOLDER]``.

A draft reads right solutions of the train split and draws at each token what it would have written there; where that is
something else, it writes the line to its end. So every line of a problem is tried once, after right ones, and its slips
come as often as in a run. With a target, it is said how likely it is to correct them at once, and those that it does
not (``--below``) can be kept alone. A target that learns from these (`train` and `notice`, ``--slips``) has seen its
own draft's errors, and not only those that `corpus` invents; of the latter, too, those that a target does not correct
can be found (``--invented``).
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, LlamaForCausalLM

from a1_sgl.evals.stories import Problem, Step, problems
from a1_sgl.launch.pocket.corpus import Line, notices, slip_of
from a1_sgl.launch.pocket.writing import encode, prompt_ids, sampled

_HAS = re.compile(r" has (\d{1,4}) \w+\.$")
_BOXED = re.compile(r"\\boxed\{(\d{1,4})\}\.$")
NOWHERE = -1
"""Count of a line that states none: nothing can be built on it."""
LONGEST = 96
"""Tokens of what a draft writes of a line after its slip, at most; a right line has some 73. More is no line."""


@dataclass(frozen=True)
class Slip:
    """A line that a draft got wrong, after right ones.

    Attributes:
        problem: what it is a solution of; of the train split where it is learnt.
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


@torch.no_grad()
def draw(
    model: LlamaForCausalLM, tokenizer: Any, source: Iterator[Problem], count: int, temperature: float
) -> Iterator[Slip]:
    """What the model gets wrong in the lines of `count` problems, each tried once after the right ones before it."""
    found = list(islice(source, count))
    begun: list[tuple[Problem, int, list[int]]] = []
    prompts: list[list[int]] = []
    read = [_tokens(tokenizer, problem) for problem in found]
    for problem, (prompt, lines), drawn in zip(found, read, _drawn(model, read, temperature), strict=True):
        at = len(prompt)
        for index, line in enumerate(lines):
            differs = next((i for i, token in enumerate(line) if drawn[at + i - 1] != token), None)
            if differs is not None:
                begun.append((problem, index, [*line[:differs], drawn[at + differs - 1]]))
                prompts.append([*prompt, *(token for one in lines[:index] for token in one), *begun[-1][2]])
            at += len(line)
    if not begun:
        return
    (blank,) = encode(tokenizer, "\n\n")
    texts = sampled(model, tokenizer, prompts, temperature, LONGEST, stop=blank)
    for (problem, index, start), text in zip(begun, texts, strict=True):
        line, ended, _ = (tokenizer.decode(start, skip_special_tokens=True) + text).partition("\n\n")
        # A line may be the right one in other tokens, or be cut off.
        if line and (ended or "boxed" in line) and line != problem.line_at(index):
            yield Slip(problem, index, line)


def invented(source: Iterator[Problem], count: int, rng: random.Random) -> Iterator[Slip]:
    """One of some line of each of `count` problems, as `corpus` makes them up."""
    for problem in islice(source, count):
        index = rng.randrange(len(problem.lines))
        yield Slip(problem, index, slip_of(problem, index, rng).text)


def _tokens(tokenizer: Any, problem: Problem) -> tuple[list[int], list[list[int]]]:
    """Prompt and lines of a right solution; each line but the last with the blank line after it."""
    lines = [encode(tokenizer, f"{line}\n\n") for line in problem.lines[:-1]]
    return prompt_ids(tokenizer, problem), [*lines, encode(tokenizer, problem.lines[-1])]


def _drawn(
    model: LlamaForCausalLM, read: Sequence[tuple[list[int], list[list[int]]]], temperature: float
) -> list[list[int]]:
    """Of each solution, the token that the model would write after each of its tokens."""
    ids = padded([[*prompt, *(token for line in lines for token in line)] for prompt, lines in read])
    logits = model(ids.to(model.device)).logits.float() / temperature
    drawn: list[list[int]] = torch.distributions.Categorical(logits=logits).sample().tolist()
    return drawn


@torch.no_grad()
def mended(model: LlamaForCausalLM, tokenizer: Any, slips: Sequence[Slip], temperature: float) -> list[float]:
    """How likely the very next line that the model writes after each slip is its correction: what `continue` lives on.

    The product of the probabilities of the correction's tokens, without the blank line after it.
    """
    before, wanted = [], []
    for slip in slips:
        lines = (*slip.problem.lines[: slip.index], slip.text)
        before.append(
            [*prompt_ids(tokenizer, slip.problem), *encode(tokenizer, "".join(f"{one}\n\n" for one in lines))]
        )
        wanted.append(encode(tokenizer, notices(slip.problem, slip.index, slip.line) + slip.line.ought))
    ids = padded([x + y for x, y in zip(before, wanted, strict=True)]).to(model.device)
    likely = (model(ids).logits.float() / temperature).log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[:, :, 0]
    return [
        float(row[len(x) - 1 : len(x) + len(y) - 1].sum().exp())
        for row, x, y in zip(likely, before, wanted, strict=True)
    ]


def padded(rows: Sequence[list[int]]) -> torch.Tensor:
    """`rows` as one tensor, 0 to the right of the shorter ones: nothing before it sees it."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", type=Path, default=Path(__file__).parent / "stories" / "draft")
    parser.add_argument("--invented", action="store_true", help="slips that are made up, of one line of each problem")
    parser.add_argument("--target", type=Path, help="say how likely this model is to correct them at once")
    parser.add_argument("--below", type=float, help="with --target: keep those that it is less likely to correct")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", choices=("train", "calibration"), default="train")
    parser.add_argument("--problems", type=int, default=16_384)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--temperature", type=float, default=0.6)
    args = parser.parse_args()
    if args.below is not None and args.target is None:
        parser.error("--below is how likely a target is to correct a slip; say which with --target")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(args.draft)
    model = LlamaForCausalLM.from_pretrained(args.draft).to(device)
    target = LlamaForCausalLM.from_pretrained(args.target).to(device) if args.target else None
    torch.manual_seed(args.seed)
    source, start = problems(args.split, f"slips/{args.seed}"), time.monotonic()
    rng, kept, likely = random.Random(args.seed), 0, []
    with args.out.open("w") as file:
        for done in range(0, args.problems, args.batch):
            count = min(args.batch, args.problems - done)
            if args.invented:
                slips = list(invented(source, count, rng))
            else:
                slips = list(draw(model, tokenizer, source, count, args.temperature))
            if target is not None and slips:
                chances = mended(target, tokenizer, slips, args.temperature)
                likely += chances
                if args.below is not None:
                    slips = [slip for slip, chance in zip(slips, chances, strict=True) if chance < args.below]
            file.writelines(json.dumps(asdict(slip)) + "\n" for slip in slips)
            file.flush()
            kept += len(slips)
            at_once = f", {sum(likely) / len(likely):.4f} of {len(likely)} corrected at once" if likely else ""
            print(
                f"{min(done + args.batch, args.problems)} problems, {kept} slips kept{at_once}, "
                f"{time.monotonic() - start:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
