"""Trains one model of the pocket pair: ``python -m a1_sgl.launch.pocket.train draft|target``.

A Llama of a few layers on task `chain`, cross-entropy on the solution's tokens alone. Matrices are optimised by Muon,
everything else by AdamW, with one warm-up and linear decay. Every problem is drawn once, from the train split, so an
"epoch" does not exist and the training loss is a held-out loss. Uses a GPU where there is one.

Writes a Hugging Face folder (config, tokenizer, chat template, safetensors) with a `card.json` that names the data
seed, the hash of the training texts, steps, loss, accuracy by number of operations and the command.
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
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from a1_sgl.engine import Codec
from a1_sgl.evals.chain import OPERATIONS, Problem, problems
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket.corpus import judged_answer, judged_step, transcript
from a1_sgl.launch.pocket.tokenizer import CONTEXT, VOCABULARY, load_or_train
from a1_sgl.session.judge import ANSWER, LEAD, STEP

HERE = Path(__file__).parent
TASK = find_task("chain")


@dataclass(frozen=True)
class Recipe:
    """One model: its shape and how it is trained."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    steps: int
    batch: int
    data_seed: int
    error_rate: float = 0.06
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    warmup: int = 100
    floor: float = 0.02
    judge: int = 0
    """Sequences in a batch of judge prompts, one such batch after each of solutions; 0 is none."""


RECIPES = {
    "draft": Recipe(layers=2, hidden=64, heads=2, intermediate=192, steps=1100, batch=16, data_seed=1),
    "target": Recipe(layers=12, hidden=96, heads=3, intermediate=256, steps=5000, batch=16, data_seed=2),
}


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


class Stream:
    """Batches of training sequences, and the running hash of every text in them."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer
        self.sha256 = hashlib.sha256()
        self.problems = 0

    def judged(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Like iteration, but of solutions followed by a judge prompt; the digit alone is learnt."""
        source = problems("train", self.recipe.data_seed + 1_000_000)
        rng = random.Random(f"judge/{self.recipe.data_seed}")
        while True:
            yield self._batch([self._judged(next(source), rng) for _ in range(self.recipe.judge)])

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pairs (ids, labels), both (batch, length), right-padded; labels are -100 where nothing is learnt."""
        source = problems("train", self.recipe.data_seed)
        rng = random.Random(f"corpus/{self.recipe.data_seed}")
        while True:
            # Sequences of like length share a batch, so that little is padding.
            pool = sorted(
                (self._encode(next(source), rng) for _ in range(self.recipe.batch * 16)), key=lambda pair: len(pair[0])
            )
            batches = [pool[i : i + self.recipe.batch] for i in range(0, len(pool), self.recipe.batch)]
            rng.shuffle(batches)
            yield from map(self._batch, batches)

    def _batch(self, rows: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(len(ids) for ids, _ in rows)
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), width), -100)
        for row, (row_ids, row_labels) in enumerate(rows):
            ids[row, : len(row_ids)] = torch.tensor(row_ids)
            labels[row, : len(row_labels)] = torch.tensor(row_labels)
        return ids, labels

    def _judged(self, problem: Problem, rng: random.Random) -> tuple[list[int], list[int]]:
        ask_step = rng.random() < 0.5
        text, right = (judged_step if ask_step else judged_answer)(problem, rng)
        suffix = Codec(self.tokenizer).after(messages(problem), STEP if ask_step else ANSWER) + LEAD
        self.sha256.update((problem.text + "\n" + text + suffix).encode())
        # A step is judged where its chunk ends, after the blank line; an answer at the end of the chain.
        text += "\n\n" if ask_step and not text.endswith("}.") else ""
        ids = [
            *prompt_ids(self.tokenizer, problem),
            *self.tokenizer.encode(text, add_special_tokens=False),
            *self.tokenizer.encode(suffix + ("9" if right else "0"), add_special_tokens=False),
        ]
        return ids, [-100] * (len(ids) - 1) + ids[-1:]

    def _encode(self, problem: Problem, rng: random.Random) -> tuple[list[int], list[int]]:
        ids = prompt_ids(self.tokenizer, problem)
        labels = [-100] * len(ids)
        lines = transcript(problem, rng, self.recipe.error_rate)
        self.problems += 1
        self.sha256.update((problem.text + "\n" + "\n\n".join(line.text for line in lines)).encode())
        for index, line in enumerate(lines):
            last = index == len(lines) - 1
            # A blank line is a token of its own, so encoding line by line is encoding the whole.
            line_ids = self.tokenizer.encode(line.text, add_special_tokens=False)
            end = [self.tokenizer.eos_token_id] if last else self.tokenizer.encode("\n\n", add_special_tokens=False)
            ids += line_ids + end
            labels += (line_ids if line.learn else [-100] * len(line_ids)) + end
        return ids, labels


def prompt_ids(tokenizer: PreTrainedTokenizerFast, problem: Problem) -> list[int]:
    """The rendered chat prompt of `problem`."""
    codec = Codec(tokenizer)
    return list(codec.encode(codec.render(messages(problem))))


def messages(problem: Problem) -> tuple[dict[str, str], ...]:
    """`problem` as chat messages."""
    return TASK.ask(problem.text, TASK.families[0])


@torch.no_grad()
def judging(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> dict[str, float]:
    """Shares of `count` steps and answers of calibration problems whose rating is on the right side of the middle."""
    model.eval()
    source, rng = problems("calibration", 20_000 + seed), random.Random(f"judging/{seed}")
    device = next(model.parameters()).device
    nine, zero = (tokenizer.encode(digit, add_special_tokens=False)[0] for digit in "90")
    result = {}
    for name, make, ask in (("step", judged_step, STEP), ("answer", judged_answer, ANSWER)):
        hits = 0
        for _ in range(count):
            problem = next(source)
            text, right = make(problem, rng)
            text += "\n\n" if name == "step" and not text.endswith("}.") else ""
            suffix = Codec(tokenizer).after(messages(problem), ask) + LEAD
            ids = [
                *prompt_ids(tokenizer, problem), *tokenizer.encode(text, add_special_tokens=False),
                *tokenizer.encode(suffix, add_special_tokens=False),
            ]  # fmt: skip
            logits = model(torch.tensor([ids], device=device)).logits[0, -1]
            hits += bool(logits[nine] > logits[zero]) == right
        result[name] = hits / count
    model.train()
    return result


@torch.no_grad()
def accuracy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, temperature: float, per_count: int, seed: int
) -> dict[int, float]:
    """Share of right answers by number of operations, on calibration problems: never trained or tested on."""
    model.eval()
    torch.manual_seed(seed)
    result = {}
    for count in OPERATIONS:
        source = problems("calibration", 10_000 + seed, range(count, count + 1))
        rows = [next(source) for _ in range(per_count)]
        prompts = [prompt_ids(tokenizer, row) for row in rows]
        width = max(map(len, prompts))
        device = next(model.parameters()).device
        ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(p)) + p for p in prompts], device=device)
        mask = (ids != tokenizer.pad_token_id).long()
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=180,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
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


def train(role: str, recipe: Recipe, out: Path, init: Path | None, log_every: int, check_every: int) -> None:
    """Trains one model and writes its folder; a checkpoint replaces it at every check."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_or_train(HERE / "tokenizer")
    model = (LlamaForCausalLM.from_pretrained(init) if init else build(recipe, tokenizer)).to(device)
    model.train()
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{role}: {parameters:,} parameters on {device}, {torch.get_num_threads()} threads", flush=True)
    opts = optimizers(model, recipe)
    base = [[group["lr"] for group in opt.param_groups] for opt in opts]
    stream = Stream(recipe, tokenizer)
    judged = stream.judged()
    start, tokens, mean_loss, mean_judge = time.monotonic(), 0, float("nan"), float("nan")
    for step, (ids, labels) in enumerate(stream):
        if step == recipe.steps:
            break
        ids, labels = ids.to(device), labels.to(device)
        progress = step / recipe.steps
        rate = min((step + 1) / recipe.warmup, 1.0) * (recipe.floor + (1 - recipe.floor) * (1 - progress))
        for opt, lrs in zip(opts, base, strict=True):
            for group, lr in zip(opt.param_groups, lrs, strict=True):
                group["lr"] = lr * rate
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        if recipe.judge:
            ids_, labels_ = (one.to(device) for one in next(judged))
            # One position a row is learnt, so the head runs on the last ones alone.
            hidden = model.model(input_ids=ids_[:, :-1], use_cache=False).last_hidden_state
            rows, places = (labels_[:, 1:] != -100).nonzero(as_tuple=True)
            judged_loss = cross_entropy(model.lm_head(hidden[rows, places]), labels_[:, 1:][rows, places])
            judged_loss.backward()
            mean_judge = judged_loss.item() if step == 0 else 0.98 * mean_judge + 0.02 * judged_loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        tokens += ids.numel()
        mean_loss = loss.item() if step == 0 else 0.98 * mean_loss + 0.02 * loss.item()
        if (step + 1) % log_every == 0:
            seconds = time.monotonic() - start
            print(
                f"step {step + 1}/{recipe.steps} loss {mean_loss:.4f} judge {mean_judge:.4f} "
                f"{tokens / seconds:,.0f} tok/s {seconds:.0f} s",
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
            save(model, tokenizer, out)
    save(model, tokenizer, out)
    by_count = accuracy(model, tokenizer, 0.6, 100, seed=1)
    card = {
        "role": role,
        "init": json.loads((init / "card.json").read_text()) if init else None,
        "task": "chain",
        "parameters": parameters,
        "recipe": asdict(recipe),
        "data": {
            "split": "train",
            "seed": recipe.data_seed,
            "problems": stream.problems,
            "sha256": stream.sha256.hexdigest(),
        },
        "loss": round(mean_loss, 5),
        "accuracy": {
            "temperature": 0.6,
            "problems_per_count": 100,
            "mean": round(sum(by_count.values()) / len(by_count), 4),
            "by_operations": by_count,
        },
        **({"judging": judging(model, tokenizer, 400, seed=1)} if recipe.judge else {}),
        "trained_on": f"{device.type}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "seconds": round(time.monotonic() - start),
        "command": shlex.join(["python", "-m", "a1_sgl.launch.pocket.train", *sys.argv[1:]]),
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card, indent=2))


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes the Hugging Face folder."""
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=RECIPES)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--init", type=Path, help="go on from the weights in this folder")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--check-every", type=int, default=0)
    for name, kind in Recipe.__annotations__.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type={"int": int, "float": float}[kind])
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    changed = {name: value for name in Recipe.__annotations__ if (value := getattr(args, name)) is not None}
    recipe = Recipe(**(asdict(RECIPES[args.role]) | changed))
    train(args.role, recipe, args.out or HERE / args.role, args.init, args.log_every, args.check_every)


if __name__ == "__main__":
    main()
