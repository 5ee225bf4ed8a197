"""Trains one model of the pocket pair of `stories`: ``python -m a1_sgl.launch.pocket.train draft|target``.

A Llama of a few layers on task `stories`, cross-entropy on what a solution gets right. Matrices are optimised by Muon,
everything else by AdamW, with one warm-up and linear decay. Every problem is drawn once, from the train split, so an
"epoch" does not exist and the training loss is a held-out loss. Uses a GPU where there is one: minutes there, hours on
a few cores.

Writes a Hugging Face folder (config, tokenizer, chat template, safetensors) with a `card.json` that names the data
seed, the hash of the training texts, steps, loss, accuracy by number of steps and the command.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice, zip_longest
from math import nan
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, rms_norm
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from a1_sgl.evals.stories import STEPS, Problem, problems
from a1_sgl.launch.pocket.corpus import forgot, judged_answer, judged_step, transcript
from a1_sgl.launch.pocket.slips import Slip, mended, read
from a1_sgl.launch.pocket.tokenizer import CONTEXT, VOCABULARY, load_or_train
from a1_sgl.launch.pocket.writing import codec_of, encode, messages, prompt_ids, sampled
from a1_sgl.session.judge import ANSWER, LEAD, STEP

HERE = Path(__file__).parent / "stories"
Sequence = tuple[list[int], list[int], list[float], list[int]]
"""Ids, labels, weights of the labels, and from where on a line is wrong: 1; 0 where it is right, -1 elsewhere."""


@dataclass(frozen=True)
class Recipe:
    """One model: its shape and how it is trained.

    Attributes:
        error_rate: of a line of a solution.
        forget: share of the carries and borrows that matter which are forgotten. A model that does not mend learns to
            forget them too, which makes a draft of one that would otherwise be right; one that does learns to correct
            the slips of its draft.
        mend: whether corrections are learnt; a model that does not learn them reads them and goes on.
        slips: file of what its draft got wrong (`slips`).
        share: of the solutions that have one of these, where there are any.
        judge: share of the sequences that end in a judge prompt, whose digit alone is learnt.
        spot: weight in the loss of telling, token by token, where a line has gone wrong; a linear reading of the layer
            three quarters up, thrown away afterwards. It is what makes a target learn to notice errors at all.
        decision: weight in the loss of a line's first token, where an error is noticed or not, and of a judge's digit.
        seconds: of training, at most; 0 is no limit. The learning rate has decayed when `steps` or `seconds` are over,
            whichever comes first.
        workers: processes that draw the data; the data are the same for the same number.
    """

    layers: int
    hidden: int
    heads: int
    intermediate: int
    steps: int
    batch: int
    data_seed: int
    error_rate: float
    forget: float = 0.0
    mend: int = 0
    slips: str = ""
    share: float = 1 / 3
    judge: float = 0.0
    decision: float = 1.0
    spot: float = 0.0
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    warmup: int = 100
    floor: float = 0.02
    workers: int = 2
    seconds: float = 0.0


RECIPES = {
    "draft": Recipe(
        layers=2, hidden=64, heads=2, intermediate=192, steps=3000, batch=64, data_seed=1, error_rate=0.1
    ),
    "target": Recipe(
        layers=16, hidden=128, heads=4, intermediate=344, steps=1500, batch=128, data_seed=2, error_rate=0.2, mend=1,
        judge=0.2, decision=4.0, spot=0.5, workers=12,
    ),
}  # fmt: skip


def build(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model."""
    torch.manual_seed(recipe.data_seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Stream(IterableDataset[tuple[torch.Tensor, ...]]):  # type: ignore[misc]  # torch is not followed
    """Batches of training sequences without end: what a `Sequence` has, each (batch, length), right-padded.

    Labels are -100 where nothing is learnt.
    """

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer
        self.slips = read(Path(recipe.slips)) if recipe.slips else []

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        worker = get_worker_info()
        if worker:
            torch.set_num_threads(1)
        seed = f"{self.recipe.data_seed}/{worker.id if worker else 0}"
        source, rng = problems("train", seed), random.Random(f"corpus/{seed}")
        while True:
            # Sequences of like length share a batch, so that little is padding.
            pool = sorted(
                (self._sequence(next(source), rng) for _ in range(self.recipe.batch * 16)), key=lambda row: len(row[0])
            )
            batches = [pool[i : i + self.recipe.batch] for i in range(0, len(pool), self.recipe.batch)]
            rng.shuffle(batches)
            yield from map(self._batch, batches)

    def _batch(self, rows: list[Sequence]) -> tuple[torch.Tensor, ...]:
        width = max(len(row[0]) for row in rows)
        padding = (self.tokenizer.pad_token_id, -100, 0.0, -1)
        return tuple(
            torch.tensor([one + [pad] * (width - len(one)) for one in column])
            for column, pad in zip(zip(*rows, strict=True), padding, strict=True)
        )

    def _sequence(self, problem: Problem, rng: random.Random) -> Sequence:
        while True:
            made = (self._judged if rng.random() < self.recipe.judge else self._solved)(problem, rng)
            if len(made[0]) <= CONTEXT:
                return made

    def _judged(self, problem: Problem, rng: random.Random) -> Sequence:
        text, right = asked(problem, rng, rng.random() < 0.5, self.tokenizer)
        ids = [*prompt_ids(self.tokenizer, problem), *encode(self.tokenizer, text + ("9" if right else "0"))]
        return ids, [-100] * (len(ids) - 1) + ids[-1:], [0.0] * (len(ids) - 1) + [self.recipe.decision], [-1] * len(ids)

    def _solved(self, problem: Problem, rng: random.Random) -> Sequence:
        slip = rng.choice(self.slips) if self.slips and rng.random() < self.recipe.share else None
        problem = slip.problem if slip else problem
        ids = prompt_ids(self.tokenizer, problem)
        labels, weights, wrong = [-100] * len(ids), [0.0] * len(ids), [-1] * len(ids)
        own = {slip.index: slip.line} if slip else {}
        lines = transcript(problem, rng, self.recipe.error_rate, forget=self.recipe.forget, own=own)
        for line in lines:
            # A blank line is a token of its own, so encoding line by line is encoding the whole.
            line_ids = encode(self.tokenizer, line.text)
            end = [self.tokenizer.eos_token_id] if line is lines[-1] else encode(self.tokenizer, "\n\n")
            bad = line.kind in ("wrong", "forgot")
            same = encode(self.tokenizer, line.ought) if bad else line_ids
            right = next((i for i, (x, y) in enumerate(zip_longest(line_ids, same)) if x != y), len(line_ids))
            learn = line.kind in ("right", "mended" if self.recipe.mend else "forgot")
            # Up to its slip a wrong line is what should stand there, the notice of an error before it included.
            learnt = len(line_ids) if learn else right if self.recipe.mend else 0
            ids += line_ids + end
            labels += line_ids[:learnt] + [-100] * (len(line_ids) - learnt)
            # Whether something comes after an answer is learnt with the rest of mending.
            labels += end if learn or self.recipe.mend else [-100]
            weights += [self.recipe.decision, *[1.0] * (len(line_ids) - 1)]
            weights += [self.recipe.decision if line.ends else 1.0]
            wrong += [0] * right + [1] * (len(line_ids) - right) + [int(bad)]
        return ids, labels, weights, wrong


def asked(problem: Problem, rng: random.Random, step: bool, tokenizer: PreTrainedTokenizerFast) -> tuple[str, bool]:
    """A solution of `problem` with a judge prompt up to its digit, and whether what is judged is right."""
    text, right = (judged_step if step else judged_answer)(problem, rng)
    # A step is judged where its chunk ends, after the blank line; an answer at the end of the chain.
    text += "\n\n" if step and not text.endswith("}.") else ""
    return text + codec_of(tokenizer).after(messages(problem), STEP if step else ANSWER) + LEAD, right


@torch.no_grad()
def judging(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> dict[str, float]:
    """Shares of `count` steps and answers of calibration problems whose rating is on the right side of the middle."""
    model.eval()
    source, rng = problems("calibration", 20_000 + seed), random.Random(f"judging/{seed}")
    device = next(model.parameters()).device
    nine, zero = (tokenizer.encode(digit, add_special_tokens=False)[0] for digit in "90")
    result = {}
    for name in ("step", "answer"):
        hits = 0
        for _ in range(count):
            problem = next(source)
            text, right = asked(problem, rng, name == "step", tokenizer)
            ids = [*prompt_ids(tokenizer, problem), *encode(tokenizer, text)]
            logits = model(torch.tensor([ids], device=device)).logits[0, -1]
            hits += bool(logits[nine] > logits[zero]) == right
        result[name] = hits / count
    model.train()
    return result


@torch.no_grad()
def mending(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, temperature: float, count: int, seed: int
) -> float:
    """How likely `count` steps of calibration problems in which a carry or borrow was forgotten, as a draft does, are
    corrected in the very next line; the mean."""
    model.eval()
    torch.manual_seed(seed)
    source, rng = problems("calibration", 30_000 + seed), random.Random(f"mending/{seed}")
    forgotten: list[Slip] = []
    while len(forgotten) < count:
        problem = next(source)
        weak = [(i, line.text) for i in range(len(problem.steps)) if (line := forgot(problem, i)) is not None]
        if weak:
            forgotten.append(Slip(problem, *rng.choice(weak)))
    chances: list[float] = mended(model, tokenizer, forgotten, temperature)
    model.train()
    return sum(chances) / count


@torch.no_grad()
def doubting(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, temperature: float, count: int, seed: int
) -> float:
    """How likely the model is, where a line of a right solution ends, to begin something else than what comes next; the
    mean over the lines of `count` calibration problems. What notices slips may see some where there are none."""
    model.eval()
    source, chances = problems("calibration", 40_000 + seed), []
    for _ in range(count):
        ids, ends = prompt_ids(tokenizer, problem := next(source)), []
        for line in problem.lines[:-1]:
            ids += encode(tokenizer, f"{line}\n\n")
            ends.append(len(ids) - 1)
        ids += [*encode(tokenizer, problem.lines[-1]), tokenizer.eos_token_id]
        ends.append(len(ids) - 2)
        device = next(model.parameters()).device
        likely = (model(torch.tensor([ids], device=device)).logits[0].float() / temperature).softmax(-1)
        chances += [1 - float(likely[end, ids[end + 1]]) for end in ends]
    model.train()
    return sum(chances) / len(chances)


@torch.no_grad()
def accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, temperature: float, per_count: int, seed: int
) -> dict[int, float]:
    """Share of right answers by number of steps, on calibration problems: never trained or tested on."""
    model.eval()
    torch.manual_seed(seed)
    result = {}
    for count in STEPS:
        source = problems("calibration", 10_000 + seed, range(count, count + 1))
        rows = [next(source) for _ in range(per_count)]
        texts = sampled(model, tokenizer, [prompt_ids(tokenizer, row) for row in rows], temperature)
        right = [
            text.rpartition("\\boxed{")[2].startswith(f"{row.answer}}}") for text, row in zip(texts, rows, strict=True)
        ]
        result[count] = sum(right) / len(right)
    model.train()
    return result


def optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(rest, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rates(opts: list[torch.optim.Optimizer]) -> list[list[float]]:
    """Learning rates of each group."""
    return [[group["lr"] for group in opt.param_groups] for opt in opts]


def pace(opts: list[torch.optim.Optimizer], full: list[list[float]], recipe: Recipe, step: int, start: float) -> bool:
    """Sets the learning rates of a step, counted from 0, of a training that began at `start`; False once it is over."""
    progress = max(step / recipe.steps, (time.monotonic() - start) / recipe.seconds if recipe.seconds else 0)
    rate = min((step + 1) / recipe.warmup, 1.0) * (recipe.floor + (1 - recipe.floor) * (1 - progress))
    for opt, lrs in zip(opts, full, strict=True):
        for group, lr in zip(opt.param_groups, lrs, strict=True):
            group["lr"] = lr * rate
    return progress < 1


def train(role: str, recipe: Recipe, out: Path, init: Path | None, log_every: int, check_every: int) -> None:
    """Trains one model and writes its folder; a checkpoint replaces it at every check."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_or_train(HERE / "tokenizer")
    made = LlamaForCausalLM.from_pretrained(init, dtype=torch.float32) if init else build(recipe, tokenizer)
    model = made.to(device)
    model.train()
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{role}: {parameters:,} parameters on {device}, {torch.get_num_threads()} threads", flush=True)
    spotter = torch.nn.Linear(recipe.hidden, 1).to(device)
    opts = [
        *optimizers(model, recipe),
        torch.optim.AdamW(spotter.parameters(), lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    base = rates(opts)
    loader = DataLoader(
        Stream(recipe, tokenizer), batch_size=None, num_workers=recipe.workers, pin_memory=device.type == "cuda"
    )
    sha256, start, tokens, steps, mean_loss, mean_spot = hashlib.sha256(), time.monotonic(), 0, 0, nan, nan
    for step, (ids, labels, weights, wrong) in enumerate(islice(loader, recipe.steps)):
        sha256.update(ids.numpy().tobytes())
        tokens += ids.numel()
        ids, labels, weights, wrong = (one.to(device, non_blocking=True) for one in (ids, labels, weights, wrong))
        if not pace(opts, base, recipe, step, start):
            break
        steps = step + 1
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            read = model.model(input_ids=ids[:, :-1], use_cache=False, output_hidden_states=True)
            # Where nothing is learnt the head need not run.
            learnt = (labels[:, 1:] != -100).nonzero(as_tuple=True)
            logits = model.lm_head(read.last_hidden_state[learnt])
            told = (wrong[:, :-1] >= 0).nonzero(as_tuple=True)
            spotted = spotter(rms_norm(read.hidden_states[3 * recipe.layers // 4][told], (recipe.hidden,)))[:, 0]
        weight = weights[:, 1:][learnt]
        loss = cross_entropy(logits.float(), labels[:, 1:][learnt], reduction="none") @ weight / weight.sum()
        spot = binary_cross_entropy_with_logits(spotted.float(), wrong[:, :-1][told].float())
        (loss + recipe.spot * spot).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        if step % 10 == 0:  # reading it waits for the device
            mean_loss = loss.item() if step == 0 else 0.8 * mean_loss + 0.2 * loss.item()
            mean_spot = spot.item() if step == 0 else 0.8 * mean_spot + 0.2 * spot.item()
        if (step + 1) % log_every == 0:
            seconds = time.monotonic() - start
            print(
                f"step {step + 1}/{recipe.steps} loss {mean_loss:.4f} spot {mean_spot:.4f} {seconds:.0f} s "
                f"{tokens / seconds:,.0f} tok/s",
                flush=True,
            )
        if check_every and (step + 1) % check_every == 0:
            by_count = accuracy(model, tokenizer, 0.6, 25, seed=0)
            print(
                "  accuracy at 0.6:",
                {k: round(v, 2) for k, v in by_count.items()},
                round(sum(by_count.values()) / len(by_count), 3),
                flush=True,
            )
            if recipe.judge:
                print("  judging:", judging(model, tokenizer, 100, seed=0), flush=True)
            if recipe.mend:
                print("  mending:", mending(model, tokenizer, 0.6, 100, seed=0), flush=True)
                print("  doubting:", doubting(model, tokenizer, 0.6, 25, seed=0), flush=True)
            save(model, tokenizer, out)
    save(model, tokenizer, out)
    data = Data(recipe.data_seed, steps * recipe.batch, sha256.hexdigest())
    describe(model, tokenizer, role, recipe, data, mean_loss, time.monotonic() - start, init, out)


@dataclass(frozen=True)
class Data:
    """What a model has learnt from: problems of the train split, by seed, number and hash of the ids in their order."""

    seed: int
    sequences: int
    sha256: str
    split: str = "train"


def describe(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    role: str,
    recipe: Recipe,
    data: Data,
    loss: float,
    seconds: float,
    init: Path | None,
    out: Path,
) -> None:
    """Measures a trained model and writes its card, which has that of the model `init` it began as."""
    device, by_count = next(model.parameters()).device, accuracy(model, tokenizer, 0.6, 100, seed=1)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    card = {
        "role": role,
        "init": json.loads((init / "card.json").read_text()) if init else None,
        "task": "stories",
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": asdict(recipe),
        "data": asdict(data),
        "loss": round(loss, 5),
        "accuracy": {
            "temperature": 0.6,
            "problems_per_count": 100,
            "mean": round(sum(by_count.values()) / len(by_count), 4),
            "by_steps": by_count,
        },
        **({"judging": judging(model, tokenizer, 400, seed=1)} if recipe.judge else {}),
        **({"mending": mending(model, tokenizer, 0.6, 400, seed=1)} if recipe.mend else {}),
        **({"doubting": doubting(model, tokenizer, 0.6, 100, seed=1)} if recipe.mend else {}),
        "trained_on": f"{where}, torch {torch.__version__}",
        "seconds": round(seconds),
        "command": shlex.join(["python", "-m", f"a1_sgl.launch.pocket.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes the Hugging Face folder, its weights in 16 bits; whoever loads them has the 32 that its config says."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    weights = out / "model.safetensors"
    save_file({name: one.half() for name, one in load_file(weights).items()}, weights, metadata={"format": "pt"})
    tokenizer.save_pretrained(out)


def add_options(parser: argparse.ArgumentParser) -> None:
    """An option for each part of a recipe."""
    for name, kind in Recipe.__annotations__.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type={"int": int, "float": float, "str": str}[kind])


def chosen(args: argparse.Namespace, default: Recipe) -> Recipe:
    """`default`, but for what the options say."""
    given = {name: value for name in Recipe.__annotations__ if (value := getattr(args, name)) is not None}
    return replace(default, **given)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=RECIPES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--init", type=Path, help="go on from the weights in this folder")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--check-every", type=int, default=0)
    add_options(parser)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = chosen(args, RECIPES[args.role])
    train(args.role, recipe, args.out or HERE / args.role, args.init, args.log_every, args.check_every)


if __name__ == "__main__":
    main()
