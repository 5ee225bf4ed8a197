import json
import re
from itertools import pairwise

import pytest
from scipy.stats import binomtest

from a1_sgl.answers.normalise import normalise
from a1_sgl.answers.split import Words, split
from a1_sgl.errors import ConfigError
from a1_sgl.evals.tasks import TASKS, families, find_task

COUNTS = {"math500": 500, "aime24": 30, "aime25": 30, "amc23": 40, "gsm8k": 1319, "olympiadbench": 675}


def whole(task):
    return task.questions("all" if "all" in task.splits else task.splits[0])


@pytest.mark.parametrize("name", COUNTS)
def test_every_gold_answer_of_a_benchmark_equals_itself(name, benchmarks):
    task = find_task(name, benchmarks)
    questions = whole(task)
    assert len(questions) == COUNTS[name]
    assert len({question.id for question in questions}) == COUNTS[name]
    assert all(question.answer for question in questions)
    assert [q.answer for q in questions if not task.grade(q.answer, q).correct] == []
    # Not because they are the same text: each is read, and what is left as words is words.
    words = [one.text for q in questions if isinstance(one := split(normalise(q.answer)), Words)]
    assert [text for text in words if not re.fullmatch("[A-Za-z]{4,}", text) and "where" not in text] == []


def test_splits_are_disjoint_and_whole(benchmarks):
    task = find_task("math500", benchmarks)
    ids = {split: {question.id for question in task.questions(split)} for split in task.splits}
    assert not ids["calibration"] & ids["test"]
    assert ids["calibration"] | ids["test"] == ids["all"]
    assert 60 < len(ids["calibration"]) < 140


def test_fewer_questions_are_drawn_by_the_seed(benchmarks):
    task = find_task("gsm8k", benchmarks)
    first = task.questions("test", 20, seed=1)
    assert first == task.questions("test", 20, seed=1)
    assert {q.id for q in first} != {q.id for q in task.questions("test", 20, seed=2)}
    assert {q.id for q in first} <= {q.id for q in task.questions("test", 40, seed=1)}
    with pytest.raises(ConfigError, match="has 30 such questions in split test, not 31"):
        find_task("aime24", benchmarks).questions("test", 31)


def test_levels_and_families(benchmarks):
    task = find_task("math500", benchmarks)
    hard = task.questions("all", levels="5")
    assert {question.meta["level"] for question in hard} == {5}
    users = task.questions("test", 1, family="reasoning")[0].messages
    system = task.questions("test", 1, family="instruct")[0].messages
    assert [one["role"] for one in users] == ["user"]
    assert [one["role"] for one in system] == ["system", "user"]
    assert "\\boxed{}" in users[0]["content"]
    assert "\\boxed{}" not in system[1]["content"]
    assert tuple(families()) == task.families
    for bad, message in (
        ({"levels": "0:5"}, "level lie within 1 to 5"),
        ({"levels": "a"}, "levels are FIRST:LAST"),
        ({"family": "oracle"}, "no prompt for 'oracle'; it has reasoning, instruct"),
    ):
        with pytest.raises(ConfigError, match=message):
            task.questions("test", **bad)
    with pytest.raises(ConfigError, match="have no levels"):
        find_task("aime24", benchmarks).questions("test", levels="1")


GPQA = [
    {
        "Record ID": f"r{i}", "Question": f"Which number is {i}?", "Correct Answer": str(i),
        **{f"Incorrect Answer {j}": str(i + j) for j in (1, 2, 3)}, "High-level domain": "Counting",
    }
    for i in range(60)
]  # fmt: skip


@pytest.fixture
def rows(tmp_path):
    """A task of 60 questions, in a file."""
    path = tmp_path / "gpqa_diamond.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in GPQA))
    return find_task("gpqa_diamond", path)


def test_a_larger_count_extends_a_smaller_one_up_to_all_there_are(rows):
    every = rows.questions("all", 60, seed=3)
    assert every[:20] == rows.questions("all", 20, seed=3)
    assert every != rows.questions("all", seed=3)  # as in the file
    assert {one.id for one in every} == {one.id for one in rows.questions("all", seed=3)}


def test_rows_are_sampled_in_the_order_of_the_seed_without_those_left_out(rows):
    out = {one.id for one in rows.questions("all", 20, seed=3)}
    sample = rows.sample("all", 40, seed=3, but=out)
    assert sample == rows.questions("all", 60, seed=3)[20:]
    assert sample[:15] == rows.sample("all", 15, seed=3, but=out)
    assert rows.sample("all", 5, seed=3) == rows.questions("all", 5, seed=3)
    with pytest.raises(ConfigError, match="has 60 such questions in split all, 20 of them .* leaves 40 and not 41"):
        rows.sample("all", 41, seed=3, but=out)


def test_where_levels_come_in_turn_a_sample_draws_them():
    """In turn the next level is known; here it is not, and all are equally likely."""
    task = find_task("chain")
    calibrated = {one.id for one in task.questions("calibration", 30, seed=1, levels="3:4")}
    sample = task.sample("calibration", 150, seed=1, levels="3:4", but=calibrated)
    assert sample[:40] == task.sample("calibration", 40, seed=1, levels="3:4", but=calibrated)
    assert len({one.id for one in sample}) == 150
    assert not calibrated & {one.id for one in sample}
    levels = [one.meta["operations"] for one in sample]
    assert set(levels) == {3, 4}
    assert binomtest(levels.count(3), 150, 0.5).pvalue > 0.01
    changes = sum(a != b for a, b in pairwise(levels))
    assert binomtest(changes, 149, 0.5).pvalue > 0.01
    assert levels != [one.meta["operations"] for one in task.sample("calibration", 150, seed=2, levels="3:4")]


def test_a_task_may_be_cut_down_to_some_questions(rows):
    some = rows.questions("all", 3, seed=3)
    assert rows.only(some).questions("all", None, 8) == some
    assert rows.only(some).grade(some[0].answer, some[0]).correct


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_options_are_shuffled_and_every_format_is_read(suffix, tmp_path):
    import pandas

    frame, path = pandas.DataFrame(GPQA), tmp_path / f"gpqa_diamond.{suffix}"
    if suffix == "csv":
        frame.to_csv(path, index=False)
    elif suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=suffix == "jsonl")
    for data in (tmp_path, path):
        task = find_task("gpqa_diamond", data)
        questions = task.questions("test", seed=3)
        assert len(questions) == 60
        for i, question in enumerate(questions):
            assert f"\n{question.answer}. {i}\n" in question.messages[-1]["content"]
            assert question.meta["options"]["ABCD".index(question.answer)] == 0
            assert question.meta["seed"] == 3
            assert task.grade(f"({question.answer})", question).correct
        answers = [question.answer for question in questions]
        assert min(answers.count(letter) for letter in "ABCD") > 5
        assert answers != [question.answer for question in task.questions("test", seed=4)]


def test_data_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no such file or folder: .*nowhere"):
        find_task("math500", tmp_path / "nowhere").questions("test")
    with pytest.raises(ConfigError, match=r"holds no math500\.jsonl and no math500\.json"):
        find_task("math500", tmp_path).questions("test")
    (tmp_path / "rows.txt").write_text("")
    with pytest.raises(ConfigError, match=r"rows are read from \.jsonl, \.json, \.parquet, \.csv, not \.txt"):
        find_task("math500", tmp_path / "rows.txt").questions("test")
    (tmp_path / "bad.jsonl").write_text('{"a": 1\n')
    with pytest.raises(ConfigError, match=r"bad\.jsonl cannot be read as jsonl"):
        find_task("math500", tmp_path / "bad.jsonl").questions("test")
    (tmp_path / "other.jsonl").write_text(json.dumps({"prompt": "?", "answer": "1"}) + "\n")
    with pytest.raises(ConfigError, match=r"have no problem; they have answer, prompt"):
        find_task("aime24", tmp_path / "other.jsonl").questions("test")
    with pytest.raises(ConfigError, match="generates its questions and takes no --data"):
        find_task("chain", tmp_path)


def test_without_hub_and_cache_the_way_out_is_said(monkeypatch, tmp_path):
    import datasets

    def fail(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        ConfigError, match=r"neither from the hub nor from the cache .*no network.* --data PATH \(math500"
    ):
        find_task("math500").questions("test")


def test_a_task_of_ones_own(tmp_path):
    rows = [{"q": f"What is {i} + 1?", "a": f"work #### {i + 1}"} for i in range(50)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sums.yaml").write_text(
        "about: sums\nsource: {hub: nobody/sums}\nfields: {question: [q], answer: a}\nanswer_after: '####'\n"
        "grader: number\nsplits: {calibration: [0, 0.5], test: [0.5, 1]}\n"
    )
    task = find_task(str(tmp_path / "sums.yaml"), tmp_path)
    asked = task.questions("calibration") + task.questions("test")
    assert len(asked) == 50
    assert {question.answer for question in asked} == {str(i + 1) for i in range(50)}


def test_rows_that_cannot_be_used_are_named(tmp_path):
    rows = [{"problem": "a", "answer": None, "unique_id": "1", "level": "Level 3", "subject": "x"}]
    path = tmp_path / "math500.json"
    path.write_text(json.dumps(rows))
    question = find_task("math500", path).questions("all")[0]
    assert (question.answer, question.meta["level"]) == (None, 3)
    path.write_text(json.dumps([rows[0], rows[0] | {"problem": "b"}]))
    with pytest.raises(ConfigError, match="two different questions have the id 1"):
        find_task("math500", path).questions("all")
    path.write_text(json.dumps([rows[0] | {"level": "hard"}]))
    with pytest.raises(ConfigError, match="level of question 1 is no number: 'hard'"):
        find_task("math500", path).questions("all")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("about: x\nsource: {hub: a/b}\nsplits: {}\nfields: {level: l}", "field `level` and `levels` go together"),
        ("about: [", "is no YAML"),
        ("about: x", "source: Field required"),
        ("about: x\nsource: {}\nsplits: {}", "a source is either"),
        ("about: x\nsource: {hub: a/b}\nsplits: {}\ngradr: math", "gradr: Extra inputs are not permitted"),
        ("about: x\nsource: {hub: a/b}\nsplits: {}\ngrader: vibes", "unknown grader 'vibes'; known: exact, number"),
        ("about: x\nsource: {hub: a/b}\nsplits: {}\nchunking: page", "unknown chunking 'page'"),
        ("about: x\nsource: {hub: a/b}\nsplits: {test: [0.5, 0.2]}", "split test is"),
        ("about: x\nsource: {hub: a/b}\nsplits: {}\ngrader: choice", "go together"),
    ],
)
def test_a_bad_declaration_is_refused_by_name(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        find_task(str(path))
    assert str(path) in str(error.value)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match=r"unknown task 'gsm'; known: aime24.* or a file of yours"):
        find_task("gsm")
    with pytest.raises(ConfigError, match="cannot be read"):
        find_task("nowhere.yaml")
    with pytest.raises(ConfigError, match="no split 'dev'"):
        find_task("chain").questions("dev", 1)


def test_what_comes_with_the_package():
    assert set(TASKS) == {*COUNTS, "gpqa_diamond", "s1", "chain", "stories"}
    assert all(find_task(name).about for name in TASKS)
