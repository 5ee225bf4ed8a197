import gzip
import itertools
import json
import random
import re
from collections import Counter
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlamaForCausalLM

from a1_sgl.evals.stories import COUNTS, OPERANDS, Problem, Step, problems, work
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket import pocket_specs
from a1_sgl.launch.pocket.corpus import forgot, judged_answer, judged_step, transcript
from a1_sgl.launch.pocket.notice import NOTICE, SURPRISE, UPPER, batches, grown, learn, rows
from a1_sgl.launch.pocket.slips import Slip, draw, invented, mended, read
from a1_sgl.launch.pocket.train import HERE, RECIPES, Stream, doubting
from a1_sgl.launch.pocket.writing import encode, prompt_ids, sampled


def take(split, seed, n, **options):
    return list(itertools.islice(problems(split, seed, **options), n))


def counts(line):
    """(before, after) as a line of a solution says."""
    return int(re.search(r"so (\d+) [-+*] ", line)[1]), int(re.search(r" has (\d+) \w+\.$", line)[1])


def checked(column):
    """Whether a column's sum is right by Python."""
    sum_, _, said = column.partition(" = ")
    return not said or eval(sum_) == int(said.split(",")[0])


def test_solutions_are_right_by_python():
    for problem in take("test", 0, 200):
        *steps, last = problem.lines
        assert [counts(line) for line in steps] == list(itertools.pairwise(problem.counts))
        for line in steps:
            for column in line.partition(": ")[2].partition(": ")[2].rpartition("; so ")[0].split("; "):
                assert checked(column.partition(" ")[2]), line
        assert last == f"The answer is \\boxed{{{problem.answer}}}."


def test_columns_make_the_result():
    for a in range(1, 1000, 7):
        for b in OPERANDS["+"]:
            assert work(a, "+", b)[1] == a + b
            if b <= a:
                assert work(a, "-", b)[1] == a - b
        for b in OPERANDS["*"]:
            assert work(a, "*", b)[1] == a * b
    assert work(238, "+", 47) == (["8 + 7 = 15, carry 1", "3 + 4 + 1 = 8", "2"], 285)
    assert work(503, "-", 87) == (["3 + 10 - 7 = 6, borrow 1", "0 + 10 - 8 - 1 = 1, borrow 1", "5 - 1 = 4"], 416)
    with pytest.raises(ValueError, match="negative"):
        work(3, "-", 4)


def test_a_slip_is_carried_on_and_a_forgotten_carry_is_missing():
    assert work(238, "+", 47, slip=(0, 1)) == (["8 + 7 = 16, carry 1", "3 + 4 + 1 = 8", "2"], 286)
    assert work(238, "+", 47, carrying=False) == (["8 + 7 = 15, carry 1", "3 + 4 = 7", "2"], 275)


def test_impossible_problems_cannot_be_made():
    with pytest.raises(ValueError, match="leaves"):
        Problem("Mia", "pins", 900, (Step("+", 200), Step("-", 200), Step("-", 3)))
    with pytest.raises(ValueError, match="twice"):
        Problem("Mia", "pins", 9, (Step("+", 20), Step("+", 20, 1), Step("-", 3)))
    with pytest.raises(ValueError, match="3 to 8"):
        Problem("Mia", "pins", 9, (Step("+", 20),))
    with pytest.raises(ValueError, match="nobody"):
        Problem("Mia", "elephants", 9, (Step("+", 20), Step("+", 21), Step("-", 3)))
    with pytest.raises(ValueError, match="no such step"):
        Step("/", 3)
    with pytest.raises(ValueError, match="no verb"):
        Step("*", 3, 2)


@given(st.integers(0, 10_000))
def test_training_texts_end_right_and_learn_no_error(seed):
    problem = take("train", seed, 1)[0]
    lines = transcript(problem, random.Random(seed), 0.3)
    assert lines[-1].ends
    assert lines[-1].count == problem.answer
    done = 0
    for line in lines:
        if line.kind != "wrong":
            done = problem.lines.index(re.sub(r"^Wait, .* is wrong: ", "", line.text)) + 1
            assert line.text.startswith("Wait, ") == (line.kind == "mended")
        else:
            assert line.text != line.ought
            assert line.text not in problem.lines[:done] or line.ends
    assert done == len(problem.lines)


@given(st.integers(0, 10_000))
def test_what_is_forgotten_is_a_carry_that_matters(seed):
    problem = take("train", seed, 1)[0]
    lines = transcript(problem, random.Random(seed), 0, forget=1.0)
    forgot = [line for line in lines if line.kind == "forgot"]
    for line in forgot:
        assert counts(line.text)[1] != counts(line.ought)[1]
        assert line.ought in problem.lines
    without = [work(a, s.op, s.operand, carrying=False)[1] for a, s in zip(problem.counts, problem.steps, strict=False)]
    assert len(forgot) == sum(a != b for a, b in zip(without, problem.counts[1:], strict=True))


@pytest.fixture(scope="module")
def pair():
    """Models of draft and target by role, and their tokenizer."""
    specs = {spec.role: spec.model for spec in pocket_specs("stories")}
    return {role: LlamaForCausalLM.from_pretrained(folder) for role, folder in specs.items()} | {
        "tokenizer": AutoTokenizer.from_pretrained(specs["target"])
    }


def test_slips_are_lines_that_the_draft_gets_wrong_after_right_ones(pair, tmp_path):
    torch.manual_seed(0)
    problems_ = take("calibration", 3, 24)
    slips = list(draw(pair["draft"], pair["tokenizer"], iter(problems_), 24, 0.6))
    assert len(slips) > 6
    assert [problems_.index(slip.problem) for slip in slips] == sorted(problems_.index(slip.problem) for slip in slips)
    assert len({(slip.problem, slip.index) for slip in slips}) == len(slips), "each line is tried once"
    for slip in slips:
        assert slip.text != slip.problem.line_at(slip.index)
        assert slip.text.endswith("."), "a whole line"
        assert "\n" not in slip.text
        assert not slip.text.startswith("The") or "boxed" in slip.text
    path = tmp_path / "slips.jsonl"
    path.write_text("".join(json.dumps(asdict(slip)) + "\n" for slip in slips))
    assert read(path) == slips
    path = tmp_path / "slips.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(asdict(slip)) + "\n" for slip in slips).encode()))
    assert read(path) == slips


def test_a_slip_of_one_line_of_each_problem_is_invented():
    problems_ = take("train", 5, 60)
    slips = list(invented(iter(problems_), 50, random.Random(0)))
    assert [slip.problem for slip in slips] == problems_[:50]
    assert all(slip.text != slip.problem.line_at(slip.index) for slip in slips)
    assert {slip.index for slip in slips} >= set(range(6)), "any line"
    assert slips == list(invented(iter(problems_), 50, random.Random(0)))


def test_a_model_that_is_sure_of_what_is_right_makes_no_slips(pair):
    torch.manual_seed(0)
    assert not list(draw(pair["target"], pair["tokenizer"], iter(take("calibration", 4, 8)), 8, 0.05))


def after(problem, index, text, tokenizer):
    """The prompt of `problem` with its right lines up to `index`, and `text` there."""
    lines = "".join(f"{one}\n\n" for one in (*problem.lines[:index], text))
    return [*prompt_ids(tokenizer, problem), *encode(tokenizer, lines)]


def test_how_likely_a_target_is_to_mend_a_slip(pair):
    """The pocket target corrects most forgotten carries at once; where nothing is wrong it goes on. The chance is that
    of writing it, token by token."""
    target, tokenizer = pair["target"], pair["tokenizer"]
    slips = [
        Slip(problem, i, line.text)
        for problem in take("calibration", 0, 12)
        for i in range(len(problem.steps))
        if (line := forgot(problem, i)) is not None
    ]
    chances = mended(target, tokenizer, slips, 0.6)
    assert sum(chances) / len(chances) > 0.95
    right = [Slip(one.problem, one.index, one.problem.line_at(one.index)) for one in slips]
    assert max(mended(target, tokenizer, right, 0.6)) < 0.1
    least = slips[chances.index(min(chances))]
    torch.manual_seed(0)
    texts = sampled(target, tokenizer, [after(least.problem, least.index, least.text, tokenizer)] * 32, 0.6, 90)
    said = f"Wait, step {least.index + 1} is wrong: {least.problem.line_at(least.index)}"
    assert abs(sum(text.partition("\n\n")[0] == said for text in texts) / 32 - min(chances)) < 0.25


def test_a_target_seldom_doubts_what_is_right(pair):
    target, tokenizer = pair["target"], pair["tokenizer"]
    assert doubting(target, tokenizer, 0.6, 8, seed=0) < 0.02
    assert doubting(target, tokenizer, 1000.0, 2, seed=0) == pytest.approx(1 - 1 / len(tokenizer), abs=0.01), "anything"


@given(st.integers(0, 10_000))
def test_a_slip_of_the_drafts_own_is_corrected(seed):
    problem, rng = take("train", seed, 1)[0], random.Random(seed)
    index = rng.randrange(len(problem.lines))
    text = rng.choice(("Step 9: so Mia has 8 pins.", "Step 9: so", "The answer is \\boxed{8}."))
    lines = transcript(problem, rng, 0.3, own={index: Slip(problem, index, text).line})
    assert [line.text for line in lines[: index + 1]] == [*problem.lines[:index], text]
    assert lines[index].kind == "wrong"
    mended = next(line for line in lines[index + 1 :] if line.kind == "mended")
    assert mended.text.partition(" is wrong: ")[2] in problem.lines
    assert lines[-1].ends
    assert lines[-1].count == problem.answer


def kind(line):
    """What an invented slip got wrong, if it is of a kind that the draft's own ones have often been of."""
    text, ought = (re.sub(r"^Wait, .* is wrong: ", "", one) for one in (line.text, line.ought))
    if "boxed" in ought:
        return "a step too many" if "boxed" not in text else None
    if "boxed" in text:
        return None
    (a, op, b), (x, y, z) = (re.search(r"so (\d+) ([-+*]) (\d+):", one).groups() for one in (text, ought))
    columns, right = (one.partition(": ones ")[2].rpartition("; so ")[0] for one in (text, ought))
    if (a, op, b) == (x, y, z) and columns == right:
        return "another verb" if counts(text) == counts(ought) else None
    if (a, op) == (x, y) and b != z and z.startswith(b):
        return "a number cut short"
    if not all(checked(column.partition(" ")[2]) for column in ("ones " + columns).split("; ")):
        return "a sum"
    others = [(int(a), n) for n in OPERANDS[op]] + [(n, int(b)) for n in COUNTS]
    worked = (work(*one) for n, m in others if (one := (n, op, m)) != (int(a), op, int(b)) and (op != "-" or m <= n))
    said = [column.partition(" ")[2] for column in ("ones " + columns).split("; ")], counts(text)[1]
    return "another sum than is written" if (a, op, b) == (x, y, z) and said in worked else None


def test_slips_are_invented_of_the_kinds_that_a_draft_makes():
    rng = random.Random(0)
    lines = [line for problem in take("train", 1, 150) for line in transcript(problem, rng, 0.3)]
    found = Counter(kind(line) for line in lines if line.ought)
    assert {
        "a step too many",
        "another verb",
        "a number cut short",
        "a sum",
        "another sum than is written",
    } <= found.keys()


@pytest.mark.parametrize("role", ["draft", "target"])
def test_no_error_is_learnt(role):
    """A target learns a wrong line up to its slip, so that whatever says that something is wrong is learnt."""
    tokenizer, rng, pieces = AutoTokenizer.from_pretrained(HERE / "tokenizer"), random.Random(2), []
    stream = Stream(replace(RECIPES[role], error_rate=0.4), tokenizer)
    for problem in take("train", 2, 40):
        ids, labels, weights, wrong = stream._solved(problem, rng)
        assert len(ids) == len(labels) == len(weights) == len(wrong)
        assert all(label in (-100, i) for label, i in zip(labels, ids, strict=True))
        begin = len(prompt_ids(tokenizer, problem))
        assert set(labels[:begin]) == {-100}
        for learnt, run in itertools.groupby(zip(ids, labels, strict=True), lambda one: one[1] != -100):
            text = tokenizer.decode([i for i, _ in run], skip_special_tokens=True) if learnt else ""
            pieces += [(problem, piece) for piece in text.split("\n\n") if piece]
    for problem, piece in pieces:
        notice, said, line = piece.partition(" is wrong: ")
        if said or piece.startswith("Wait"):
            assert role == "target"
            assert re.fullmatch(r"Wait, (step \d|the answer)", notice) or not said
        if line or not piece.startswith("Wait"):
            assert any(right.startswith(line or piece) for right in problem.lines), piece
    cut = [
        piece for p, piece in pieces if piece.startswith("Wait") and piece.rpartition(" is wrong: ")[2] not in p.lines
    ]
    assert bool(cut) == (role == "target")


@pytest.fixture(scope="module")
def small(pair):
    """A target of two layers with layers on top, the texts that it is to learn from, and the token of a blank line."""
    recipe = replace(NOTICE, batch=4, error_rate=0.4, steps=30, seconds=0.0, warmup=5, judge=0.2)
    stream = Stream(recipe, pair["tokenizer"])
    with torch.no_grad():
        model = grown(pair["draft"].float())
    (blank,) = encode(pair["tokenizer"], "\n\n")
    return model, list(rows(model, stream, 14)), recipe, blank


def test_layers_on_top_change_nothing_at_first(pair, small):
    model, held, *_ = small
    assert model.config.num_hidden_layers == pair["draft"].config.num_hidden_layers + UPPER
    ids = held[0].ids[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, pair["draft"](ids).logits)


def test_what_layers_below_make_of_the_texts_is_what_they_would_hand_on(pair, small):
    _, held, *_ = small
    assert len(held) == 16, "whole batches"
    model = pair["draft"]
    for row in held[:3]:
        length = len(row.ids)
        assert all(len(one) == length for one in (row.labels, row.weights, row.wrong, row.surprise, row.state))
        with torch.no_grad():
            likely = model(row.ids[None]).logits[0].log_softmax(-1)
            handed = model.lm_head(model.model.norm(row.state.float())).log_softmax(-1)
        assert (likely.exp() - handed.exp()).abs().sum(1).mean() < 0.02, "16 bits of a stream"
        nll = -likely[:-1].gather(1, row.ids[1:, None])[:, 0]
        clear = (nll - SURPRISE).abs() > 1
        assert torch.equal(row.surprise[1:][clear], (nll > SURPRISE)[clear])
        assert not row.surprise[0]


def test_every_text_comes_once_before_any_comes_again(small):
    _, held, *_ = small
    source = batches(held, 3, random.Random(0))
    for _ in range(2):
        found = [row for _ in range(6) for row in next(source)]
        assert sorted(map(id, found)) == sorted(map(id, held))


def test_only_the_layers_on_top_learn_and_they_are_as_loud_as_they_learnt_to_be(small):
    model, held, recipe, blank = small
    before = {name: one.clone() for name, one in model.state_dict().items()}
    sequences, untrained = learn(model, held, replace(recipe, steps=1, muon_lr=0.0, adam_lr=0.0), blank)
    assert sequences == recipe.batch
    assert all(torch.allclose(one, before[name], rtol=1e-6) for name, one in model.state_dict().items())
    _, loss = learn(model, held, recipe, blank)
    assert loss < untrained
    below = model.config.num_hidden_layers - UPPER
    for name, one in model.state_dict().items():
        upper = name.startswith("model.layers.") and int(name.split(".")[2]) >= below
        assert torch.equal(one, before[name]) != upper, name
    # What they say reaches the model as it is used.
    with torch.no_grad():
        row = max(held, key=lambda row: len(row.ids))
        said, unsaid = model(row.ids[None]).logits, grown_again(model)(row.ids[None]).logits
    assert (said - unsaid).abs().max() > 0.1


def grown_again(model):
    """`model` with layers on top that add nothing."""
    lower = LlamaForCausalLM(model.config)
    lower.load_state_dict(model.state_dict())
    for layer in lower.model.layers[-UPPER:]:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    return lower


@given(st.integers(0, 10_000))
def test_what_is_judged_is_what_it_is_said_to_be(seed):
    problem, rng = take("train", seed, 1)[0], random.Random(seed)
    text, right = judged_answer(problem, rng)
    assert text.endswith(f"{{{problem.answer}}}.") == right
    text, right = judged_step(problem, rng)
    last = re.sub(r"^Wait, .* is wrong: ", "", text.split("\n\n")[-1])
    assert not right or last in problem.lines


def test_questions_have_levels_of_steps_and_exact_answers():
    task = find_task("stories")
    assert {q.meta["steps"] for q in task.questions("test", 12, 0)} == set(range(3, 9))
    assert {q.meta["steps"] for q in task.questions("test", 6, 0, levels="4:5")} == {4, 5}
    question = task.questions("test", 1)[0]
    assert int(question.answer) in COUNTS
    assert task.grade(question.answer, question).correct
    assert not task.grade(question.answer + "0", question).correct
