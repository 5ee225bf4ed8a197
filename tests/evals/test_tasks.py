import json
import re
from itertools import pairwise

import pytest
from scipy.stats import binomtest

from a1_sgl.answers.nodes import Words
from a1_sgl.answers.normalise import normalise
from a1_sgl.answers.split import split
from a1_sgl.errors import ConfigError
from a1_sgl.evals.tasks import TASKS, families, find_task
from a1_sgl.programs.contract import check_defaults

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


def test_what_is_tested_on_is_not_calibrated_on(rows, tmp_path):
    chain = find_task("chain")
    for name in ("calibration", "train"):
        chain.check_calibration(name)
    for task, name in ((chain, "test"), (rows, "test"), (rows, "all")):  # all has those of test
        with pytest.raises(
            ConfigError, match=f"split {name} of task {task.name} has the questions that gates are tested"
        ):
            task.check_calibration(name)
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps({"q": f"{i}?", "a": str(i)}) + "\n" for i in range(50)))
    (tmp_path / "mine.yaml").write_text(
        "about: x\nsource: {hub: a/b}\nfields: {question: [q], answer: a}\nsplits: {first: [0, 0.5], test: [0.5, 1]}\n"
    )
    find_task(str(tmp_path / "mine.yaml"), tmp_path).check_calibration("first")


def test_a_declaration_names_a_file_beside_it(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/mine.jsonl").write_text('{"q": "1 + 1?", "a": 2}\n{"q": "2 + 2?", "a": 4}\n')
    for source in ("rows/mine.jsonl", "rows"):
        (tmp_path / "mine.yaml").write_text(
            f"about: x\nsource: {{file: {source}}}\nfields: {{question: [q], answer: a}}\nsplits: {{test: [0, 1]}}\n"
        )
        task = find_task(str(tmp_path / "mine.yaml"))
        assert [one.answer for one in task.questions("test")] == ["2", "4"]
        assert task.source == str(tmp_path / source)
    (tmp_path / "other.jsonl").write_text('{"q": "3 + 3?", "a": 6}\n')
    other = find_task(str(tmp_path / "mine.yaml"), tmp_path / "other.jsonl")
    assert [one.answer for one in other.questions("test")] == ["6"]
    (tmp_path / "mine.yaml").write_text("about: x\nsource: {file: none.jsonl}\nsplits: {test: [0, 1]}\n")
    with pytest.raises(ConfigError, match=r"no such file or folder: .*none\.jsonl"):
        find_task(str(tmp_path / "mine.yaml")).questions("test")
    (tmp_path / "mine.yaml").write_text("about: x\nsource: {file: a, hub: b/c}\nsplits: {test: [0, 1]}\n")
    with pytest.raises(ConfigError, match="a source is one of .* and no two of them"):
        find_task(str(tmp_path / "mine.yaml"))


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
    with pytest.raises(
        ConfigError, match=r"bad\.jsonl, line 1: this is no JSON: Expecting ',' delimiter, at column 8$"
    ):
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
    rows = [{"problem": "a", "answer": "7", "unique_id": "1", "level": "Level 3", "subject": "x"}]
    path = tmp_path / "math500.json"
    path.write_text(json.dumps(rows))
    question = find_task("math500", path).questions("all")[0]
    assert (question.answer, question.meta["level"]) == ("7", 3)
    path.write_text(json.dumps([rows[0], rows[0] | {"problem": "b"}], indent=1))
    with pytest.raises(ConfigError, match=r"two different questions have the id 1: .*json, line 2, and .*json, line 9"):
        find_task("math500", path).questions("all")
    path.write_text(json.dumps([rows[0], rows[0] | {"answer": "8"}], indent=1))
    with pytest.raises(ConfigError, match=r"one question has two answers: .*json, line 2, and .*json, line 9"):
        find_task("math500", path).questions("all")


ROW = {"q": "1 + 1?", "a": "2", "l": 1, "t": None, "w": "3", "v": "4"}
CHOICE = "grader: choice\n"
NONE = "there is none"


@pytest.mark.parametrize(
    ("changes", "more", "why"),
    [
        ({"q": None}, "", f"q: {NONE}"),
        ({"q": " "}, "", "q: must not be empty"),
        ({"q": 3}, "", "q: must be text, not 3"),
        ({"a": None}, "", f"a: {NONE}"),
        ({"a": ""}, "", "a: must not be empty"),
        ({"a": []}, "", f"a: {NONE}"),
        ({"a": ["1", None]}, "", f"a: {NONE}"),
        ({"a": {"value": 2}}, "", "a: must be text or a number, not {'value': 2}"),
        ({"a": True}, "", "a: must be text or a number, not True"),
        ({"a": float("nan")}, "", "a: must be a finite number, not nan"),
        ({"a": "2"}, "answer_after: '####'\n", "a: has no '####'"),
        ({"a": "work #### "}, "answer_after: '####'\n", "a: has nothing after its last '####'"),
        ({"i": None}, "", f"i: {NONE}"),
        ({"l": 9}, "", "l: must lie within 1 to 5, not 9"),
        ({"l": 2.5}, "", "l: must be a whole number, not 2.5"),
        ({"l": "hard"}, "", "l: is no number: 'hard'"),
        ({"l": None}, "", f"l: {NONE}"),
        ({"t": -0.1}, "", "t: must not be negative, as it is in -0.1"),
        ({"t": "1e-3, -2"}, "", "t: must not be negative, as it is in '1e-3, -2'"),
        ({"t": "inf"}, "", "t: must be a finite number, not 'inf'"),
        ({"t": "wide"}, "", "t: is no number: 'wide'"),
        ({"w": None}, CHOICE, f"w: {NONE}"),
        ({"w": ""}, CHOICE, "w: must not be empty"),
        ({"w": ["3", "4"]}, CHOICE, "w: must be text or a number, not ['3', '4']"),
        ({"w": "4"}, CHOICE, "a, w, v: two options are the same, '4'"),
        ({"w": " 2 "}, CHOICE, "a, w, v: two options are the same, '2'"),
        ({"q": None, "a": ""}, "", f"q: {NONE} (it is missing or null or, in CSV, an empty cell, NA or None); a: must"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_a_row_that_cannot_be_asked_is_refused_by_line_and_column(suffix, changes, more, why, tmp_path):
    first = json.dumps(ROW | {"i": "r1", "a": "#### 2" if "after" in more else "2"})
    bad = json.dumps(ROW | {"i": "r2"} | changes)
    (tmp_path / f"mine.{suffix}").write_text(f"\n{first}\n\n{bad}" if suffix == "jsonl" else f"\n[{first},\n\n{bad}]")
    wrong = ", wrong: [w, v]" if more == CHOICE else ""
    (tmp_path / "mine.yaml").write_text(
        f"about: x\nsource: {{hub: a/b}}\nfields: {{question: [q], answer: a, id: i, level: l, tolerance: t{wrong}}}\n"
        f"levels: {{name: level, first: 1, last: 5}}\nsplits: {{all: [0, 1]}}\n{more}"
    )
    with pytest.raises(ConfigError) as error:
        find_task(str(tmp_path / "mine.yaml"), tmp_path).questions("all")
    head, told = str(error.value).split("\n  ")
    assert head == "task mine has rows that cannot be asked"
    assert told.startswith(f"{tmp_path}/mine.{suffix}, line 4: {why}")


def test_a_row_without_a_column_that_others_have_is_refused(tmp_path):
    path = tmp_path / "gsm8k.jsonl"
    path.write_text('{"question": "a", "answer": "#### 1"}\n{"answer": "#### 1"}\n{"question": "c"}\n')
    with pytest.raises(ConfigError, match=rf"line 2: problem or question: {NONE}.*\n.*line 3: answer: {NONE}"):
        find_task("gsm8k", path).questions("all")


def test_many_bad_rows_are_counted(tmp_path):
    path = tmp_path / "gsm8k.jsonl"
    path.write_text('{"question": "a", "answer": ""}\n' * 13)
    with pytest.raises(ConfigError, match=r"line 10: .*\n  and 3 more$"):
        find_task("gsm8k", path).questions("all")


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("gsm8k.jsonl", b"", "task gsm8k: .*gsm8k.jsonl holds no rows"),
        ("gsm8k.json", b"[]", "holds no rows"),
        ("gsm8k.csv", b"question,answer\n", "holds no rows"),
        ("gsm8k.parquet", b"", "gsm8k.parquet cannot be read as parquet"),
        ("gsm8k.jsonl", b'{"question": "caf\xe9"}', r"gsm8k.jsonl, line 1: this is not UTF-8"),
        ("gsm8k.jsonl", b'{"a": 1}\n\n{"a" 1}\n', r"gsm8k.jsonl, line 3: this is no JSON: Expecting ':' delimiter"),
        ("gsm8k.json", b'[{"a": 1},\n\n{"a" 1}]', r"gsm8k.json, line 3: this is no JSON: Expecting ':' delimiter"),
        ("gsm8k.json", b"[1,\n2]", r"line 1: a row is an object, its values by column, not 1"),
        ("gsm8k.jsonl", b"[" * 100_000, r"line 1: this cannot be read as JSON"),
        ("gsm8k.csv", b"question,answer\n\na,1,2\n", r"gsm8k.csv, line 3: this row has 3 cells, and there are 2"),
        ("gsm8k.csv", b"question,question\na,1\n", r"line 1: two columns are named 'question'"),
        ("gsm8k.csv", b'question,answer\n"a\nb",1\n"c"d,1\n', r"gsm8k.csv, line 4: this is no CSV"),
        (
            "gsm8k.csv",
            b"question,answer\nwho?,#### 1\nNA,#### 2\nwhy?,None\n",
            rf"line 3: q.*\n.*line 4: answer: {NONE}",
        ),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused_by_line(name, text, why, tmp_path):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ConfigError, match=why):
        find_task("gsm8k", tmp_path).questions("all")


def test_a_row_that_cannot_be_read_does_not_hide_the_others(tmp_path):
    rows = [
        '{"question": "a?", "answer": "#### 1"}',
        '{"question": ',
        "[1]",
        "",
        '{"question": "", "answer": "2"}',
        "7x",
    ]
    (tmp_path / "gsm8k.jsonl").write_text("\n".join(rows))
    with pytest.raises(ConfigError) as refused:
        find_task("gsm8k", tmp_path).questions("all")
    head, *told = str(refused.value).splitlines()
    assert head == "task gsm8k has rows that cannot be asked"
    assert [line.partition("gsm8k.jsonl, ")[2] for line in told] == [
        "line 2: this is no JSON: Expecting value, at column 14",
        "line 3: a row is an object, its values by column, not [1]",
        "line 5: question: must not be empty; answer: has no '####'",
        "line 6: this is no JSON: Extra data, at column 2",
    ]
    (tmp_path / "gsm8k.jsonl").write_text("{\n" * 12)
    with pytest.raises(ConfigError, match="line 10: this is no JSON: .*\n  and 2 more$"):
        find_task("gsm8k", tmp_path).questions("all")
    (tmp_path / "many.csv").write_text("question,answer\na,1,2\n,#### 1\nb\n")
    with pytest.raises(
        ConfigError, match=r"line 2: this row has 3 .*\n.*line 3: question: .*\n.*line 4: this row has 1"
    ):
        find_task("gsm8k", tmp_path / "many.csv").questions("all")


def test_cells_of_csv_are_text_as_they_are_written(tmp_path):
    path = tmp_path / "aime24.csv"
    path.write_bytes(b'\xef\xbb\xbfproblem,answer\r\n"a, ""b""\nc",007\r\n')
    (question,) = find_task("aime24", path).questions("all")
    assert question.messages[0]["content"].startswith('a, "b"\nc\n\n')
    assert question.answer == "007"


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_question_is_refused(count, rows):
    for task, name in ((rows, "all"), (find_task("chain"), "test")):
        for draw in (task.questions, task.sample):
            with pytest.raises(ConfigError, match=f"questions must be at least 1, not {count}"):
                draw(name, count)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("about: x\nsource: {hub: a/b}\nsplits: {}\nfields: {level: l}", "field `level` and `levels` go together"),
        ("about: [", "is no YAML"),
        ("about: x", "source: is missing"),
        ("about: x\nsource: {}\nsplits: {}", "a source is one of"),
        (
            "about: x\nsource: {hub: a/b}\nsplits: {}\ngradr: math",
            "gradr: is no field that there is; there are about, source, .*grader",
        ),
        (
            "about: x\nsource: {hub: a/b, splt: x}\nsplits: {}",
            "source.splt: is no field that there is; there are hub, ",
        ),
        ("about: x\nsource: {hub: 3}\nsplits: {}", "source.hub: must be text, not 3"),
        (
            "about: x\nsource: {hub: a/b}\nsplits: {a: [0, 1]}\nlevels: {name: l, frist: 5, last: 1}",
            "levels.first: is missing\n  levels.frist: is no field that there is; there are name, first, last",
        ),
        ("about: x\nsource: {hub: a/b}\nsplits: {}\ngrader: vibes", "unknown grader 'vibes'; known: exact, number"),
        ("about: x\nsource: {hub: a/b}\nsplits: {}\nchunking: page", "unknown chunking 'page'"),
        ("about: x\nsource: {hub: a/b}\nsplits: {test: [0.5, 0.2]}", "split test is"),
        ("about: x\nsource: {hub: a/b}\nsplits: {}\ngrader: choice", "go together"),
        ("about: x\nsource: {hub: a/b}\nsplits: {}", "a task with rows needs a split, such as"),
        ("about: x\nsource: {generated: chain}\nsplits: {test: [0, 1]}", "a generated one has those of its generator"),
        (
            "about: x\nsource: {hub: a/b}\nsplits: {a: [0, 1]}\nfields: {question: []}",
            "fields.question: must have at least 1 items",
        ),
        (
            "about: x\nsource: {hub: a/b}\nsplits: {a: [0, 1]}\ngrader: choice\n"
            "fields: {wrong: [a, b, c, d, e, f, g, h, i, j]}",
            "fields.wrong: .* at most 9 items",
        ),
        (
            "about: x\nsource: {hub: a/b}\nsplits: {a: [0, 1]}\nlevels: {name: l, first: 5, last: 1}",
            "levels: the first level must not be above the last",
        ),
        (
            "about: x\nsource: {hub: a/b}\nsplits: {a: [0, 1]}\ndefaults: {turnz: 3}",
            "defaults: no program has a parameter 'turnz'; there are max_tokens, .*turns",
        ),
        (
            "about: x\nsource: {hub: a/b}\nsplits: {a: [0, 1]}\ndefaults: {turns: 0}",
            "defaults: program .*: turns must be at least 1, such as .*, not 0",
        ),
        ("system: caf\udce9", "mine.yaml, line 1: this is not UTF-8"),
    ],
)
def test_a_bad_declaration_is_refused_by_name(text, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
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


@pytest.mark.parametrize("name", TASKS)
def test_the_defaults_of_our_tasks_are_parameters_of_programs(name):
    """What a list of tasks does not check, since it would have to import the programs."""
    check_defaults(find_task(name).defaults)
