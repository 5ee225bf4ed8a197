import itertools

import pytest

from a1_sgl.evals.chain import Problem, Step, problems
from a1_sgl.evals.tasks import find_task


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


def test_impossible_problems_cannot_be_made():
    with pytest.raises(ValueError, match="leaves"):
        Problem(90, (Step("+", 20), Step("-", 2), Step("-", 3)))
    with pytest.raises(ValueError, match="twice"):
        Problem(9, (Step("+", 20), Step("+", 20), Step("-", 3)))
    with pytest.raises(ValueError, match="3 to 10"):
        Problem(9, (Step("+", 20),))
    with pytest.raises(ValueError, match="no such step"):
        Step("/", 3)


def test_grading_is_exact():
    task = find_task("chain")
    question = task.questions("test", 1)[0]
    assert task.grade(question.answer, question).correct
    assert task.grade(f" {question.answer} ", question).correct
    assert not task.grade(None, question).correct
    assert not task.grade(str(int(question.answer) + 1), question).correct
    assert not task.grade(question.answer + "0", question).correct
