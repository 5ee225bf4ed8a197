"""What a newcomer does first: options in a file, JSON, a program that fails, a folder that is there already."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from a1_sgl import cli
from a1_sgl.errors import ConfigError
from a1_sgl.programs import find_program
from a1_sgl.records import RunFolder

QUESTION = "Start with 39. Multiply by 2. Subtract 18. Add 7. What is the result?"
SMALL = ["--questions", "3", "--chains", "2", "--quiet"]


# --- a program file of one's own ------------------------------------------------------------------------------


def test_a_file_with_a_score_a_vote_and_a_rating_is_run_once(here, fakes, own_file, tmp_path):
    mine = ["--program", f"{own_file}:mine"]
    done = here("eval", "--out", "run", *mine, *SMALL, "--vote", "longest")
    assert done.returncode == 0, done.stderr
    assert own_file.with_suffix(".runs").read_text() == "x"
    configuration = RunFolder.read(tmp_path / "run").run["configuration"]
    assert (configuration["score"], configuration["vote"]) == ("loudest_loss", "longest")  # the program's own default
    solved = here("solve", QUESTION, *mine)
    assert solved.returncode == 0, solved.stderr
    other = here("eval", "--out", "other", *mine, *SMALL, "--set", "score=tail")
    assert other.returncode == 0, other.stderr
    named = here("eval", "--out", "named", *mine, *SMALL, "--set", "score=loudest_loss")
    assert named.returncode == 0, named.stderr
    assert own_file.with_suffix(".runs").read_text() == "x"
    luck = here("eval", "--out", "x", *mine, "--set", "score=luck")
    assert (luck.returncode, "unknown score 'luck'" in luck.stderr) == (2, True)
    under_a1 = here("eval", "--out", "a1", "--set", "score=loudest_loss", *SMALL)
    assert under_a1.returncode == 0, under_a1.stderr  # in this process it has a name by now


def test_a_list_of_a_file_does_not_run_it(here, own_file):
    done = here("programs", own_file)
    assert done.returncode == 0, done.stderr
    for word in ("mine", "broken", "Divides by nothing.", "loudest_loss", "longest", "brief", "--set words"):
        assert word in done.stdout
    found = json.loads(here("programs", own_file, "--json").stdout)
    assert [one["name"] for one in found["programs"]] == ["mine", "broken", "hopeless"]
    assert (found["scores"], found["votes"], found["rates"]) == (["loudest_loss"], ["longest"], ["brief"])
    assert not own_file.with_suffix(".runs").exists()


@pytest.mark.parametrize(
    ("program", "says"),
    [("broken", "ZeroDivisionError: division by zero"), ("hopeless", "KeyError: 'words'")],
)
def test_a_program_s_own_error_names_file_and_line(program, says, here, fakes, own_file, tmp_path):
    number = next(
        i
        for i, line in enumerate(own_file.read_text().splitlines(), 1)
        if "the broken line" in line or ("KeyError" in line and program == "hopeless")
    )
    if program == "hopeless":
        number = own_file.read_text()[: own_file.read_text().index("raise KeyError")].count("\n") + 1
    where = f"(mine.py:{number})"
    solved = here("solve", QUESTION, "--program", f"{own_file}:{program}")
    assert solved.returncode in (1, 2)
    (line,) = solved.stderr.splitlines()
    assert says in line
    assert where in line
    lost = here("eval", "--out", "run", "--program", f"{own_file}:{program}", *SMALL)
    assert lost.returncode == 1
    assert f"6 chains lost: {says} {where}" in lost.stderr
    assert "Traceback" not in lost.stderr
    told = here("solve", QUESTION, "--program", f"{own_file}:{program}", "-v")
    assert "Traceback (most recent call last)" in told.stderr
    assert f'mine.py", line {number}' in told.stderr
    assert "Traceback (most" in here("-v", "solve", QUESTION, "--program", f"{own_file}:{program}").stderr
    assert "Traceback" not in here("solve", QUESTION, "--program", f"{own_file}:{program}").stderr


# --- options in a file ----------------------------------------------------------------------------------------

YAML = "program: direct\nruntime: target\nquestions: 7\nchains: 3\ndry-run: true\nset: {max_tokens: 50}\n"
TOML = 'program = "direct"\nruntime = "target"\nquestions = 7\nchains = 3\ndry-run = true\nset = {max_tokens = 50}\n'


@pytest.mark.parametrize(("name", "text"), [("o.yaml", YAML), ("o.toml", TOML)])
def test_options_come_from_a_file_and_the_command_line_wins(name, text, here, tmp_path):
    (tmp_path / name).write_text(text)
    estimate = json.loads(here("eval", "--options", name, "--json").stdout)
    assert (estimate["questions"], estimate["chains"], estimate["decode"]) == (7, 21, {"target": 21 * 50})
    estimate = json.loads(here("eval", "--json", "--chains", "2", "--set", "max_tokens=9", "--options", name).stdout)
    assert (estimate["questions"], estimate["chains"], estimate["decode"]) == (7, 14, {"target": 14 * 9})


def test_a_file_goes_before_a_recipe(here, tmp_path):
    (tmp_path / "mine.yaml").write_text("about: x\nquestions: 5\nchains: 2\n")
    (tmp_path / "o.yaml").write_text("recipe: mine.yaml\nchains: 3\n")
    for order in (["--options", "o.yaml"], ["--options", "o.yaml", "--recipe", "mine.yaml"]):
        estimate = json.loads(here("eval", "--dry-run", "--json", *order).stdout)
        assert (estimate["questions"], estimate["chains"]) == (5, 15)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("chain: 3", "`a1 eval` has no option 'chain'; it has out, program"),
        ("verbose: true", "has no option 'verbose'"),
        ("chains: [1, 2]", "chains takes one value, not [1, 2]"),
        ("chains:", "chains takes one value, not None"),
        ("quiet: 3", "quiet takes true or false, not 3"),
        ("chains: true", "chains takes a value, not True"),
        ("chains: many", "'--chains'"),
        ("just text", "holds no options"),
        ("a: [", "is no YAML"),
        (None, "--options o.yaml cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(text, says, here, tmp_path):
    if text is not None:
        (tmp_path / "o.yaml").write_text(text)
    done = here("eval", "--dry-run", "--options", "o.yaml")
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())
    assert done.stdout == ""


# --- what is printed ------------------------------------------------------------------------------------------


def test_the_version(here):
    assert here("--version").stdout.startswith("a1-sgl ")


@pytest.mark.parametrize("command", ["programs", "recipes", "tasks", "gates", "scores", "votes"])
def test_lists_are_json_too_and_are_not_folded_in_a_pipe(command, here, monkeypatch):
    found = json.loads(here(command, "--json").stdout)
    rows = next(iter(found.values()))
    assert len(rows) >= 3
    assert all(row["name"] and row["about"] for row in rows)
    assert not any("`" in row["about"] for row in rows)
    monkeypatch.delenv("COLUMNS")
    wide = here(command).stdout.splitlines()
    assert all(sum(row["about"] in line for line in wide) >= 1 for row in rows)


def test_an_eval_is_json_too(here, fakes, tmp_path):
    done = here("eval", "--out", "run", *SMALL, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "run" / "summary.json").read_text())
    compared = here("eval", "--out", "other", *SMALL, "--seed", "0", "--alpha", "0.5", "--json")
    assert compared.returncode == 0, compared.stderr
    found = json.loads(here("compare", "run", "other", "--json").stdout)
    assert found["comparisons"][0]["difference"]["questions"] == 3
    assert json.loads(here("grade", "run", "--again", "--json").stdout)["chains"] == 6


def test_calibrate_certify_bench_and_doctor_are_json_too(here, fakes, tmp_path):
    made = json.loads(here("calibrate", "--out", "cal", *SMALL, "--json").stdout)
    assert (made["card"], made["questions"]) == ("cal/card.json", 3)
    risk = ["--calibration", made["card"], "--epsilon", "0.5", "--alphas", "0.5", "--questions", "8", "--chains", "2"]
    sure = json.loads(here("certify", "--out", "sure", *risk, "--json").stdout)
    assert [trial["alpha"] for trial in sure["trials"]] == [0.5]
    assert sure["card"] in (None, "sure/card.json")
    arms = ["--arm", "a1", "--arm", "a1_lookahead", "--repeats", "1", "--task", "chain"]
    raced = here("bench", "--out", "bench", *SMALL, *arms, "--json")
    assert raced.returncode == 0, raced.stderr
    assert json.loads(raced.stdout) == json.loads((tmp_path / "bench" / "results.json").read_text())
    again = here("bench", "--out", "bench", *SMALL, *arms, "--seed", "1", "--overwrite", "--json")
    assert again.returncode == 0, again.stderr
    checks = {one["name"]: one["state"] for one in json.loads(here("doctor", "--json").stdout)["checks"]}
    assert (checks["sglang"], checks["runtimes"]) == ("ok", "none")


def test_each_turn_s_rate_stands_beside_what_is_promised_of_it(here, fakes):
    done = here("eval", "--out", "run", "--questions", "30", "--chains", "4", "--quiet", "--alpha", "0.5")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith("gate: ")) <= 80
    head = next(i for i, line in enumerate(lines) if line.split() == ["turn", "decisions", "rate", "promised"])
    turn, decisions, _, _, _, low, to, high = lines[head + 1].split()
    assert (turn, decisions, to) == ("0", "120", "to")
    bound = (0.5 + 0.025) / (0.025 * 120)  # of adaptive-turn, docs/guarantees.md
    assert (low, high) == (f"{0.5 - bound:.1%}", f"{0.5 + bound:.1%}")
    assert "gate: adaptive-turn, no --calibration card: the gate's bank starts empty" in done.stdout
    assert "a1 calibrate --out" in done.stdout
    assert done.stderr == ""  # it is quiet
    loud = here("eval", "--out", "loud", "--questions", "3", "--chains", "2")
    assert loud.stderr.startswith("no --calibration card: the gate's bank starts empty")
    assert "/6 chains" in loud.stderr
    small = here("eval", "--out", "small", *SMALL)
    assert "-: nothing yet" in small.stdout


def test_solve_without_a_card_says_what_to_run(here, fakes):
    done = here("solve", QUESTION)
    assert done.returncode == 0, done.stderr
    assert "no --calibration card" in done.stderr
    assert "a1 calibrate --out" in done.stderr


def test_a_rating_is_shown_as_one(here, fakes):
    for more in ([], ["--alpha", "0.5"]):
        done = here("solve", QUESTION, "--program", "spec_reason", "--set", 'cue="7"', *more)
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stdout.splitlines() if " of 9" in line]
        assert "rating " in line
        assert "score" not in line
        assert ("p = " in line) == bool(more)


# --- folders --------------------------------------------------------------------------------------------------


def test_overwrite_throws_a_run_away_and_nothing_else(here, fakes, tmp_path):
    first = ["eval", "--out", "run", *SMALL]
    assert here(*first).returncode == 0
    refused = here(*first, "--alpha", "0.5")
    assert refused.returncode == 2
    assert "--overwrite begins anew" in refused.stderr
    began = RunFolder.read(tmp_path / "run").run["sessions"]
    assert here("calibrate", "--out", "cal", *SMALL).returncode == 0
    for slip in (["--gate", "magic"], ["--calibration", "cal/card.json", "--temperature", "0.9"]):  # nothing is lost
        wrong = here(*first, "--alpha", "0.5", "--overwrite", *slip)
        assert wrong.returncode == 2
        assert RunFolder.read(tmp_path / "run").run["sessions"] == began
    done = here(*first, "--alpha", "0.5", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert RunFolder.read(tmp_path / "run").run["configuration"]["gate"]["alpha"] == 0.5
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    done = here("eval", "--out", "mine", *SMALL, "--overwrite")
    assert done.returncode == 2
    assert "holds something and no run.json" in done.stderr
    assert (tmp_path / "mine" / "thesis.tex").exists()
    assert here("calibrate", "--out", "new", *SMALL, "--overwrite").returncode == 0  # nothing there is fine


def test_a_replay_is_of_the_run_s_own_gate_and_alpha(here, fakes, tmp_path):
    made = here("eval", "--out", "run", *SMALL, "--gate", "window", "--alpha", "0.3")
    assert made.returncode == 0, made.stderr
    few = ["--seeds", "1", "--minimum", "1"]
    found = json.loads(here("replay", "run", *few, "--json").stdout)
    assert list(found) == ["window", "balanced", "authors", "random", "oracle"]
    shown = here("replay", "run", *few).stdout
    assert "Rate at alpha 0.3" in shown
    assert "oracle: hindsight" in shown
    assert "so its rate is above alpha where alpha * n is not whole" in " ".join(shown.split())
    assert "Rate at alpha 0.2" in here("replay", "run", *few, "--alpha", "0.2").stdout
    assert list(json.loads(here("replay", "run", *few, "--gate", "random", "--json").stdout)) == ["random"]
    budget = here("eval", "--out", "budget", *SMALL, "--gate", "turn-budget", "--alpha", "0.5")
    assert budget.returncode == 0, budget.stderr
    assert "turn-budget" in json.loads(here("replay", "budget", *few, "--json").stdout)
    assert "turn-budget" not in json.loads(here("replay", "budget", *few, "--alpha", "0.3", "--json").stdout)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    both = here("replay", "run", "budget", *few)  # of two minds
    assert "Rate at alpha 0.4" in both.stdout
    assert "Rate at alpha 0.3" in here("replay", "run", "again", *few).stdout


def test_doctor_finds_sglang_in_a_process_of_its_own():
    """In this one somebody has made `import sglang` work already."""
    done = subprocess.run([sys.executable, "-m", "a1_sgl.cli", "doctor"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout
    assert re.search(r"sglang +ok +sglang 0\.", done.stdout)


def test_a_file_is_no_folder_for_a_run(here, fakes, tmp_path):
    (tmp_path / "notes.md").write_text("mine")
    done = here("eval", "--out", "notes.md", *SMALL)
    assert done.returncode == 2
    assert "notes.md is a file; a run needs a folder of its own" in done.stderr


def test_a_program_that_is_imported_already_is_not_run_again(own_file, monkeypatch):
    monkeypatch.syspath_prepend(str(own_file.parent))
    __import__(own_file.stem)
    try:
        assert find_program(f"{own_file}:mine").name.endswith("mine")
        assert own_file.with_suffix(".runs").read_text() == "x"
    finally:
        del sys.modules[own_file.stem]


def test_a_program_file_that_changed_is_run_again_and_one_that_failed_too(tmp_path):
    path = tmp_path / "changing.py"
    for said in ("first", "second"):
        path.write_text(f"raise RuntimeError('{said}')\n")
        for _ in range(2):
            with pytest.raises(ConfigError, match=f"cannot be loaded.*{said}"):
                find_program(f"{path}:mine")


def test_a_dry_run_needs_no_folder(here):
    done = here("eval", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "100 questions x 4 chains" in done.stdout
    missing = here("eval")
    assert missing.returncode == 2
    assert "--out is missing" in missing.stderr


def test_consoles_are_as_wide_as_what_they_print_to(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert cli.console.width > 1000
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.console.width == 80
