"""What every generated task promises of its splits and sequences."""

import itertools

import pytest

from a1_sgl.evals import chain, generated, stories

TASKS = pytest.mark.parametrize(("task", "levels"), [(chain, chain.OPERATIONS), (stories, stories.STEPS)])


def take(task, split, seed, n, **options):
    return list(itertools.islice(task.problems(split, seed, **options), n))


@TASKS
def test_splits_share_no_question_whatever_the_seed(task, levels):
    texts = {split: {p.text for seed in range(3) for p in take(task, split, seed, 100)} for split in generated.SPLITS}
    assert not texts["test"] & texts["train"]
    assert not texts["test"] & texts["calibration"]
    assert not texts["calibration"] & texts["train"]


@TASKS
def test_a_seed_gives_one_sequence_of_distinct_balanced_questions(task, levels):
    first, again, other = (take(task, "test", seed, 60) for seed in (3, 3, 4))
    assert first == again != other
    assert len(set(first)) == 60
    assert [p.difficulty for p in first[: len(levels)]] == list(levels)
    assert {p.difficulty for p in take(task, "test", 3, 10, levels=range(5, 7))} == {5, 6}


@TASKS
def test_an_unknown_split_is_named(task, levels):
    with pytest.raises(ValueError, match="unknown split 'dev'; known: train, calibration, test"):
        take(task, "dev", 0, 1)
