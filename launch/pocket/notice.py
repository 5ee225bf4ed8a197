"""Layers on top of a target that notice slips: ``python -m a1_sgl.launch.pocket.notice --slips FILE --out FOLDER``.

A target may be surprised by a word and have forgotten it a token later. That of `stories` foresees a step's verb in its
last layers only, so that no layer is left which could hold what stands there against what was foreseen: it gives
"loses" a chance of one in a billion where "wins" should stand, and goes on as if nothing had happened. Layers are
therefore put on top, first such that they change nothing, and learn which words are slips and which lines have one, by
linear readings that are thrown away afterwards, beside what `train` learns. The layers below stay as they are: what
they make of the training texts is computed once and kept in memory, a gigabyte for four million tokens.

With ``--init`` of a target that has such layers they are trained further. Two cores do it, in a quarter of an hour or
two.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from math import nan
from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, pad, rms_norm
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM

from a1_sgl.launch.pocket.tokenizer import load_or_train
from a1_sgl.launch.pocket.train import (
    HERE,
    RECIPES,
    Data,
    Recipe,
    Stream,
    add_options,
    chosen,
    describe,
    pace,
    rates,
    save,
)
from a1_sgl.launch.pocket.writing import encode

SURPRISE = 3.0
"""Nats from which on a token is a surprise."""
UPPER = 3
"""Layers that are put on top, and trained."""
NOTICE = replace(
    RECIPES["target"], layers=RECIPES["target"].layers + UPPER, batch=8, error_rate=0.1, forget=0.05, judge=0.08,
    spot=0.3, muon_lr=0.008, adam_lr=1e-3, warmup=50, steps=20_000, seconds=840.0, data_seed=7,
)  # fmt: skip
"""How they are trained, unless options say otherwise. `workers` has no meaning here."""
LOUD = 100.0
"""By how much a new layer speaks up. The residual stream of a trained target is that loud, and what a layer adds to it
in its usual size is not heard."""


@dataclass(frozen=True)
class Row:
    """A training sequence and what the layers below make of it.

    Attributes:
        ids, labels, weights, wrong: as a batch of `Stream` has them, shape (length,).
        surprise: whether each token was one to the layers below.
        state: what they pass on, shape (length, hidden), in 16 bits.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    wrong: torch.Tensor
    surprise: torch.Tensor
    state: torch.Tensor


@torch.no_grad()
def rows(model: LlamaForCausalLM, stream: Stream, number: int) -> Iterator[Row]:
    """`number` sequences of `stream` as the layers below read them; rounded up to whole batches."""
    below = copy.deepcopy(model)
    below.model.layers = below.model.layers[:-UPPER]
    passed: list[torch.Tensor] = []
    below.model.norm.register_forward_pre_hook(lambda _, given: passed.append(given[0]))
    for done, batch in zip(count(step=stream.recipe.batch), stream, strict=False):
        if done >= number:
            break
        ids, labels, weights, wrong = batch
        with torch.autocast("cpu", torch.bfloat16):
            likely = below(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
        state, seen = passed.pop().half(), ids != stream.tokenizer.pad_token_id
        nll = pad(-likely[:, :-1].gather(2, ids[:, 1:, None])[:, :, 0], (1, 0))
        for i, length in enumerate(seen.sum(1).tolist()):
            yield Row(*(one[i, :length].clone() for one in (ids, labels, weights, wrong, nll > SURPRISE, state)))


def batches(held: list[Row], size: int, rng: random.Random) -> Iterator[list[Row]]:
    """Without end, sequences of like length together, each once before any comes again."""
    while True:
        order = rng.sample(held, len(held))
        for start in range(0, len(order), size * 32):
            pool = sorted(order[start : start + size * 32], key=lambda row: len(row.ids))
            found = [pool[i : i + size] for i in range(0, len(pool), size)]
            rng.shuffle(found)
            yield from found


def grown(target: LlamaForCausalLM) -> LlamaForCausalLM:
    """`target` with `UPPER` more layers on top, which add nothing yet."""
    config = copy.deepcopy(target.config)
    config.num_hidden_layers += UPPER
    model = LlamaForCausalLM(config)
    model.load_state_dict(target.state_dict(), strict=False)
    for layer in model.model.layers[-UPPER:]:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    return model


def learn(model: LlamaForCausalLM, held: list[Row], recipe: Recipe, blank: int) -> tuple[int, float]:
    """Trains the upper layers of `model` as `recipe` says; how many sequences that took, and the loss at the end.

    ``recipe.spot`` is the weight of telling surprises, which the first new layer does and all but the last, and lines
    that have one, which all but the first do.
    """
    torch.manual_seed(recipe.data_seed)
    rng = random.Random(recipe.data_seed)
    upper = model.model.layers[-UPPER:]
    model.requires_grad_(False)
    upper.requires_grad_(True)
    # What they say is multiplied while they learn, not their matrices: a step of the optimiser is of one size.
    loud = [matrix for layer in upper for matrix in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight)]
    for matrix in loud:
        matrix.data /= LOUD
    spotters = torch.nn.ModuleList([torch.nn.Linear(model.config.hidden_size, 2) for _ in upper])
    new = list(upper.parameters())
    opts = [
        torch.optim.Muon([p for p in new if p.ndim == 2], lr=recipe.muon_lr, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(
            [*(p for p in new if p.ndim != 2), *spotters.parameters()], lr=recipe.adam_lr, betas=(0.9, 0.95),
            weight_decay=0.0,
        ),
    ]  # fmt: skip
    full, start, source, mean = rates(opts), time.monotonic(), batches(held, recipe.batch, rng), nan
    for step in count():
        if not pace(opts, full, recipe, step, start):
            break
        loss = _loss(model, upper, spotters, next(source), blank, recipe.spot)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(new, 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 200 == 199:
            print(f"step {step + 1} loss {mean:.4f} {time.monotonic() - start:.0f} s", flush=True)
    for matrix in loud:
        matrix.data *= LOUD
    return step * recipe.batch, mean


def _loss(
    model: LlamaForCausalLM,
    upper: torch.nn.ModuleList,
    spotters: torch.nn.ModuleList,
    batch: list[Row],
    blank: int,
    spot: float,
) -> torch.Tensor:
    ids = _padded([row.ids for row in batch], 0)
    labels, wrong = _padded([row.labels for row in batch], -100), _padded([row.wrong for row in batch], -1)
    weights = _padded([row.weights for row in batch], 0.0)
    surprise = _padded([row.surprise for row in batch], 0) & (wrong >= 0)
    state = _padded([row.state for row in batch], 0.0).float() / LOUD
    ends = (ids == blank) & (wrong >= 0)
    # A line's blank line still belongs to it.
    line = (ids == blank).cumsum(1) - (ids == blank).long()
    slips = torch.zeros(len(ids), int(line.max()) + 1).scatter_add_(1, line, (surprise & (wrong == 1)).float())
    missed = (slips > 0).gather(1, line)[ends].float()
    told: list[torch.Tensor] = []
    with torch.autocast("cpu", torch.bfloat16):
        places = torch.arange(ids.shape[1])[None]
        turned = model.model.rotary_emb(state, places)
        for number, (layer, spotter) in enumerate(zip(upper, spotters, strict=True)):
            state = layer(state, attention_mask=None, position_ids=places, position_embeddings=turned)
            found = spotter(rms_norm(state.float(), state.shape[-1:])).float()
            if number < len(upper) - 1:
                seen = wrong >= 0
                told.append(
                    binary_cross_entropy_with_logits(
                        found[seen][:, 0], surprise[seen].float(), pos_weight=torch.tensor(5.0)
                    )
                )
            if number:
                told.append(binary_cross_entropy_with_logits(found[ends][:, 1], missed))
        learnt = (labels[:, 1:] != -100).nonzero(as_tuple=True)
        logits = model.lm_head(model.model.norm(state[:, :-1][learnt]))
    weight = weights[:, 1:][learnt]
    loss = cross_entropy(logits.float(), labels[:, 1:][learnt], reduction="none") @ weight / weight.sum()
    return loss + spot * torch.stack(told).sum()


def _padded(of: list[torch.Tensor], value: float) -> torch.Tensor:
    return pad_sequence(of, batch_first=True, padding_value=value)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", type=Path, default=HERE / "target", help="the target that is to notice more")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sequences", type=int, default=8_192, help="that are read and held")
    add_options(parser)
    args = parser.parse_args()
    recipe, tokenizer = chosen(args, NOTICE), load_or_train(HERE / "tokenizer")
    begun = LlamaForCausalLM.from_pretrained(args.init, dtype=torch.float32)
    model = begun if begun.config.num_hidden_layers == recipe.layers else grown(begun)
    sha256, held, start = hashlib.sha256(), [], time.monotonic()
    for row in rows(model, Stream(recipe, tokenizer), args.sequences):
        sha256.update(row.ids.numpy().tobytes())
        held.append(row)
    print(f"{len(held)} sequences read, {time.monotonic() - start:.0f} s", flush=True)
    (blank,) = encode(tokenizer, "\n\n")
    start = time.monotonic()
    sequences, loss = learn(model, held, recipe, blank)
    seconds = time.monotonic() - start
    save(model, tokenizer, args.out)
    describe(
        model,
        tokenizer,
        "target",
        recipe,
        Data(recipe.data_seed, sequences, sha256.hexdigest()),
        loss,
        seconds,
        args.init,
        args.out,
    )


if __name__ == "__main__":
    main()
