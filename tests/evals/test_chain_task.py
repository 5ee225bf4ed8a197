import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a1_sgl.evals import chain
from a1_sgl.evals.chain import Problem, Step, problems
from a1_sgl.evals.tasks import find_task
from a1_sgl.launch.pocket.corpus import transcript


def take(split, seed, n, **options):
    return list(itertools.islice(problems(split, seed, **options), n))


def test_solutions_are_right_by_python():
    for problem in take("test", 0, 200):
        *steps, last = problem.lines
        for line, (a, c) in zip(steps, itertools.pairwise(problem.values), strict=True):
            left, _, right = line.partition(" = ")
            assert eval(left) == int(right) == c
            assert line.startswith(f"{a} ")
        assert last == f"The answer is \\boxed{{{problem.answer}}}."


def test_splits_share_no_question_whatever_the_seed():
    texts = {split: {p.text for seed in range(4) for p in take(split, seed, 600)} for split in chain.SPLITS}
    assert not texts["test"] & texts["train"]
    assert not texts["test"] & texts["calibration"]
    assert not texts["calibration"] & texts["train"]


@pytest.mark.parametrize("seed", [1, 2])  # the data seeds of the pocket pair
def test_the_pocket_pair_was_trained_on_the_train_split_alone(seed):
    assert {p.split for p in take("train", seed, 3000)} == {"train"}


def test_a_seed_gives_one_sequence_of_distinct_balanced_questions():
    first, again, other = take("test", 3, 80), take("test", 3, 80), take("test", 4, 80)
    assert first == again != other
    assert len(set(first)) == 80
    assert [len(p.steps) for p in first[:8]] == list(chain.OPERATIONS)
    assert {len(p.steps) for p in take("test", 3, 10, operations=range(5, 7))} == {5, 6}


def test_impossible_problems_cannot_be_made():
    with pytest.raises(ValueError, match="leaves"):
        Problem(90, (Step("+", 20), Step("-", 2), Step("-", 3)))
    with pytest.raises(ValueError, match="twice"):
        Problem(9, (Step("+", 20), Step("+", 20), Step("-", 3)))
    with pytest.raises(ValueError, match="3 to 10"):
        Problem(9, (Step("+", 20),))
    with pytest.raises(ValueError, match="no such step"):
        Step("/", 3)


@given(st.integers(0, 10_000))
def test_training_texts_end_right_and_learn_no_error(seed):
    import random

    problem = take("train", seed, 1)[0]
    lines = transcript(problem, random.Random(seed), 0.3)
    learnt = [line.text.removeprefix("Wait, ") for line in lines if line.learn]
    assert learnt == list(problem.lines)
    for before, after in itertools.pairwise(lines):
        assert after.text.startswith("Wait, ") == (not before.learn)


def test_grading_is_exact():
    task = find_task("chain")
    question = task.questions("test", 1)[0]
    assert task.grade(question.answer, question).correct
    assert task.grade(f" {question.answer} ", question).correct
    assert not task.grade(None, question).correct
    assert not task.grade(str(int(question.answer) + 1), question).correct
    assert not task.grade(question.answer + "0", question).correct
