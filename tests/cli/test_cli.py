"""The command line as a user meets it: exit statuses, stderr, 80 columns."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def a1(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "a1_sgl.cli", *arguments], capture_output=True, text=True, timeout=200, cwd=cwd
    )


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["eval", "--out", "x"], "no draft and no target runtime is launched here"),
        (["eval", "--out", "x", "--program", "direct"], "no target runtime is launched here"),
        (["eval", "--out", "x", "--draft", "nonsense", "--target", "nonsense"], "'nonsense' is not a URL"),
        (
            ["eval", "--out", "x", "--draft", "http://127.0.0.1:9", "--target", "http://127.0.0.1:9"],
            "is the runtime up",
        ),
        (["eval", "--out", "x", "--alpha", "1.5"], "strictly between 0 and 1, not 1.5"),
        (["eval", "--out", "x", "--alpha", "0"], "strictly between 0 and 1, not 0"),
        (["eval", "--out", "x", "--alpha", "many"], "--alpha"),
        (["eval", "--out", "x", "--task", "gsm9k"], "unknown task 'gsm9k'; known: aime24"),
        (["eval", "--out", "x", "--program", "beam"], "unknown program 'beam'; known: direct, self_consistency"),
        (["eval", "--out", "x", "--split", "dev"], "no draft"),
        (["eval", "--out", "x", "--recipe", "magic"], "unknown recipe 'magic'; known: "),
        (["eval", "--out", "x", "--recipe", "pocket", "--alpha", "2"], "strictly between 0 and 1, not 2"),
        (["eval", "--out", "x", "--data", "rows"], "task chain generates its questions and takes no --data"),
        (["eval", "--out", "x", "--task", "math500", "--data", "nowhere", "--dry-run"], "no such file or folder"),
        (["eval", "--out", "x", "--dry-run", "--like", "nowhere"], "nowhere holds no run"),
        (["tasks", "validate", "mine.yaml"], "mine.yaml cannot be read"),
        (["tasks", "show", "chain", "--model", "/nowhere"], "--model /nowhere: no tokenizer there"),
        (["compare", "nowhere", "elsewhere"], "nowhere holds no run"),
        (["report", "nowhere"], "nowhere holds no run"),
        (["grade", "nowhere", "--judge", "http://127.0.0.1:9"], "nowhere holds no run"),
        (["eval", "--out", "x", "--questions", "0"], "questions must be at least 1, not 0"),
        (["eval", "--out", "x", "--levels", "3-10"], "levels are FIRST:LAST, such as 3:10, not '3-10'"),
        (["eval", "--out", "x", "--levels", "1:99"], "lie within 3 to 10, not 1:99"),
        (["eval", "--out", "x", "--set", "turns"], "--set takes NAME=VALUE"),
        (["eval", "--out", "x", "--set", "speed=9"], "has no parameter 'speed'"),
        (["eval", "--out", "x", "--temperature", "-1"], "--temperature must be at least 0"),
        (["eval", "--out", "x", "--top-p", "0"], "--top-p must lie in (0, 1]"),
        (["eval", "--out", "x", "--runtime", "all", "--program", "direct"], "--runtime is draft, target or both"),
        (["eval", "--out", "x", "--in-flight", "0"], "--in-flight must be at least 1"),
        (["eval", "--out", "x", "--calibration", "none.json"], "calibration card none.json does not exist"),
        (["eval", "--out", "x", "--calibration", "."], "calibration card . cannot be used"),
        (["solve", "1 + 1?"], "no draft and no target runtime"),
        (["solve", "1 + 1?", "--alpha", "-3"], "strictly between 0 and 1"),
        (["eval", "--out", "x", "--runtime", "draft"], "program a1 uses both runtimes, not the draft alone"),
        (["eval", "--out", "x", "--program", "none.py:mine"], "there is no file none.py"),
        (["eval", "--out", "x", "--vote", "loudest"], "unknown vote 'loudest'; known: majority"),
        (["eval", "--out", "x", "--rate", "luck"], "unknown rate 'luck'; known: own"),
        (["eval", "--out", "x", "--chunking", "page"], "unknown chunking 'page'; known: tokens"),
        (["eval", "--out", "x", "--set", "turns=soon"], "turns must be a whole number, such as 15, not 'soon'"),
        (["eval", "--out", "x", "--gate", "magic"], "unknown gate 'magic'; known: balanced"),
        (["eval", "--out", "x", "--alarm", "shout"], "unknown alarm 'shout'; known: warn, recalibrate, hand-over"),
        (["eval", "--out", "x", "--set", "score=luck"], "unknown score 'luck'; known: mean_loss"),
        (["eval", "--out", "x", "--gate", "turn-budget", "--alpha", "0.3"], "alpha 0.25 is a budget of 1"),
        (["calibrate", "--out", "x", "--certify", "epsilon=3"], "--certify takes epsilon=E,delta=D"),
        (["calibrate", "--out", "x", "--certify", "epsilon=.1,delta=.1", "--alphas", "1:0:2"], "FIRST:LAST:STEP"),
        (["replay", "none.jsonl"], "none.jsonl does not exist"),
        (["replay", ".", "--alpha", "2"], "strictly between 0 and 1, not 2"),
        (["replay", ".", "--sweep", "beta=1:2:1"], "--sweep takes alpha=FIRST:LAST:STEP"),
        (["replay", ".", "--seeds", "0"], "--seeds must be at least 1"),
        (["eval"], "--out"),
        (["evaluate"], "No such command"),
    ],
)
def test_bad_input_is_told_on_stderr_with_status_2(arguments, what, tmp_path):
    done = a1(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert what in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "x").exists()


def test_lists_fit_80_columns():
    for command, words in (
        ("tasks", ["chain", "calibration, test"]),
        ("programs", ["a1", "direct", "take_over"]),
        ("gates", ["balanced", "recommended", "turn-budget"]),
        ("scores", ["mean_loss", "worst_window"]),
        ("votes", ["majority", "weighted", "judge"]),
    ):
        done = a1(command)
        assert done.returncode == 0
        assert all(word in done.stdout for word in words)
        assert max(map(len, done.stdout.splitlines())) <= 80


def test_doctor_without_and_with_runtimes(runtimes, tmp_path):
    alone = a1("doctor", cwd=tmp_path)
    assert alone.returncode == 0, alone.stdout
    assert "none" in alone.stdout
    found = a1("doctor", "--draft", runtimes["draft"].url, "--target", runtimes["stranger"].url, cwd=tmp_path)
    assert found.returncode == 0, found.stdout
    assert "two tokenizers" in found.stdout
    broken = a1("doctor", "--draft", runtimes["draft"].url, "--target", "http://127.0.0.1:9", cwd=tmp_path)
    assert broken.returncode == 1
    assert "is the runtime up" in " ".join(broken.stdout.split())


def test_solve_shows_who_wrote_each_chunk_and_its_p_value(runtimes, tmp_path):
    where = ["--draft", runtimes["draft"].url, "--target", runtimes["target"].url]
    question = "Start with 39. Multiply by 2. Subtract 18. Add 7. What is the result?"
    done = a1("solve", question, "--alpha", "0.5", *where, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("draft") and " p = 0." in line for line in lines)
    assert any(line.startswith("answer: ") for line in lines)
    assert max(map(len, lines)) <= 80


def test_solve_shows_any_program(runtimes, tmp_path):
    where = ["--draft", runtimes["draft"].url, "--target", runtimes["target"].url]
    question = "Start with 39. Multiply by 2. Subtract 18. Add 7. What is the result?"
    done = a1("solve", question, "--program", "dvts", "--chains", "4", "--set", "width=2", *where, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("tokens pruned", "target rating 0.", "answer: "):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_program_in_a_users_file_works_in_every_command(runtimes, tmp_path):
    """The example in docs/programs.md, from another folder."""
    mine = ["--program", f"{ROOT / 'examples' / 'my_program.py'}:second_opinion"]
    where = ["--draft", runtimes["draft"].url, "--target", runtimes["target"].url]
    small = ["--questions", "3", "--chains", "2", "--quiet"]
    made = a1("calibrate", "--out", "cal", *mine, *small, *where, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    done = a1("eval", "--out", "run", *mine, *small, "--calibration", "cal/card.json", *where, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["configuration"]["program"] == "second_opinion"
    assert len(run["configuration"]["source"]) == 16
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["take_over"]["decisions"] == 6
    shown = a1("solve", "Start with 39. Add 2. Add 9. What is the result?", *mine, *where, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "answer: " in shown.stdout
    refused = a1("eval", "--out", "x", *mine, "--vote", "weighted", *where, cwd=tmp_path)
    assert refused.returncode == 2
    assert "has no parameter 'vote'" in refused.stderr


def test_calibrate_writes_a_card_that_eval_takes(runtimes, tmp_path):
    where = ["--draft", runtimes["draft"].url, "--target", runtimes["target"].url, "--quiet"]
    made = a1("calibrate", "--out", "cal", "--questions", "4", "--chains", "2", *where, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    card = json.loads((tmp_path / "cal" / "card.json").read_text())
    assert len(card["questions"]) == 4
    assert card["score"] == "mean_loss"
    done = a1(
        "eval", "--out", "run", "--questions", "3", "--chains", "2", "--calibration", "cal/card.json", *where,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["configuration"]["models"]["draft"]["model"] == "draft"
    assert run["configuration"]["gate"]["calibration"] is not None
    assert run["environment"]["packages"]["sglang"]


def test_a_run_is_calibrated_certified_and_replayed(runtimes, tmp_path):
    where = ["--draft", runtimes["draft"].url, "--target", runtimes["target"].url, "--quiet"]
    small = ["--questions", "8", "--chains", "2", "--levels", "3:4"]
    risk = ["--certify", "epsilon=0.5,delta=0.1", "--alphas", "0.5,0.7"]
    made = a1("calibrate", "--out", "cal", *small, *risk, *where, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "loses at most 0.5 of accuracy" in " ".join(made.stdout.split())
    card = json.loads((tmp_path / "cal" / "card.json").read_text())
    assert card["certificate"]["alpha"] == card["alpha"]
    assert card["smallest_alpha"] == 1 / (len(card["scores"]) + 1)
    few = a1("calibrate", "--out", "few", *small, "--certify", "epsilon=0.01,delta=0.1", *where, cwd=tmp_path)
    assert few.returncode == 2
    assert "--questions must be at least 230" in few.stderr
    # without --alpha the card's is taken
    done = a1(
        "eval", "--out", "run", "--questions", "4", "--chains", "2", "--levels", "3:4", "--calibration",
        "cal/card.json", *where, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["configuration"]["gate"]["alpha"] == card["alpha"]
    other = a1(
        "eval", "--out", "target", "--questions", "4", "--chains", "2", "--levels", "3:4", "--program", "direct",
        "--recipe", "pocket", "--draft", runtimes["draft"].url, "--target", runtimes["target"].url, cwd=tmp_path,
    )  # fmt: skip
    assert other.returncode == 0, other.stderr
    assert "8/8 chains, accuracy" in other.stdout
    assert "tok/s" in other.stdout
    compared = a1("compare", "target", "run", cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "run - target" in compared.stdout
    assert "times the FLOPs" in " ".join(compared.stdout.split())
    page = a1("report", "run", "target", "--out", "page/report.html", cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    assert "boxed" in (tmp_path / "page" / "report.html").read_text()
    said = a1("eval", "--out", "x", "--dry-run", "--like", "run", "--chains", "3", "--questions", "8", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert "time: about" in said.stdout
    again = a1("replay", "run", "--seeds", "2", "--alpha", "0.5", "--minimum", "1", "--out", "report", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    for word in ("balanced", "authors", "cannot know", "95% intervals", "log wealth"):
        assert word in " ".join(again.stdout.split())
    assert max(map(len, again.stdout.splitlines())) <= 80
    page = (tmp_path / "report" / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "cannot know" in page
    assert (tmp_path / "report" / "rates.png").stat().st_size > 10_000


def test_replay_prints_one_json_object(tmp_path):
    rows = [
        {"problem": q, "sample": s, "turns": [{"ppl": 1 + (q * 7 + s * 3 + t) % 11} for t in range(3)]}
        for q in range(5)
        for s in range(4)
    ]
    (tmp_path / "chains.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--json", "--seeds", "2", "--minimum", "1", "--interleave", "2"]
    done = a1("replay", "chains.jsonl", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ["balanced", "authors"]
    wanted = {
        "overall", "per_turn", "mean_turn_deviation", "max_turn_deviation", "mean_question_deviation", "selectivity",
    }  # fmt: skip
    assert wanted <= found["balanced"].keys()
    assert len(found["balanced"]["per_turn"]) == 3
    swept = a1("replay", "chains.jsonl", *options, "--sweep", "alpha=0.2:0.6:0.2", "--gate", "marginal", cwd=tmp_path)
    assert list(json.loads(swept.stdout)) == ["0.2", "0.4", "0.6"]
    shown = a1("replay", "chains.jsonl", "--sweep", "alpha=0.2:0.6:0.2", "--seeds", "1", "--out", "r", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert (tmp_path / "r" / "sweep.png").exists()
