"""Options that would do nothing are refused; what a file or a recipe says for another program is left aside."""

import json

import pytest

DIRECT = ["--program", "direct"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--eta", "0.1"], "--eta 0.1 does nothing without --first-stage; name one, or leave --eta out"),
        (["--explore", "3"], "--explore 3 does nothing without --first-stage"),
        (["--alarm-threshold", "20"], "--alarm-threshold 20.0 does nothing without --alarm; name one"),
        (["--alarm-threshold", "100"], "--alarm-threshold 100.0 does nothing"),  # the default, but given
        (["--allow-mismatch", "task"], "--allow-mismatch task does nothing without --calibration"),
        (
            [*DIRECT, "--alpha", "0.3"],
            "--alpha 0.3 does nothing with program direct, which takes no gate; name another",
        ),
        ([*DIRECT, "--gate", "balanced"], "--gate balanced does nothing with program direct"),
        ([*DIRECT, "--certified"], "--certified does nothing with program direct"),
        ([*DIRECT, "--alarm", "warn"], "--alarm warn does nothing with program direct"),
        ([*DIRECT, "--epsilon", "0.1"], "--epsilon 0.1 does nothing with program direct"),
        (["--program", "spec_reason", "--gate", "balanced"], "which takes a gate only with --alpha; give that too"),
        (["--set", "turns=3", "--set", "turns=4"], "--set gives one parameter twice, turns=3 and turns=4"),
        (["--set", "turns=3", "--set", "turns=3"], "--set gives one parameter twice, turns=3 and turns=3"),
    ],
)
def test_what_does_nothing_is_refused(arguments, says, here):
    done = here("eval", "--dry-run", *arguments)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["solve", "1 + 1?", *DIRECT, "--alpha", "0.3"], "--alpha 0.3 does nothing with program direct"),
        (["solve", "1 + 1?", *DIRECT, "--calibration", "c.json"], "--calibration c.json does nothing with"),
        (["eval", "--out", "x", "--like", "run"], "--like run does nothing without --dry-run"),
        (
            ["replay", "run", "--sweep", "alpha=0.1:0.2:0.1", "--alpha", "0.3"],
            "--alpha 0.3 does nothing beside --sweep",
        ),
        (["grade", "run", "--again", "--model", "x"], "--model x does nothing without --judge"),
        (["grade", "run", "--again", "--tolerance", "1"], "--tolerance 1.0 does nothing without --explain"),
    ],
)
def test_so_it_is_by_other_commands(arguments, says, here):
    done = here(*arguments)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())


def test_what_is_said_for_another_program_is_left_aside_where_the_program_is_said_nearer(here, tmp_path):
    (tmp_path / "mine.yaml").write_text("about: x\nprogram: a1\nalpha: 0.3\ngate: balanced\nquestions: 5\n")
    (tmp_path / "o.yaml").write_text("program: a1\nalpha: 0.3\ngate: balanced\nquestions: 5\n")
    (tmp_path / "direct.yaml").write_text("program: direct\nquestions: 5\n")
    (tmp_path / "both.yaml").write_text("program: direct\nalpha: 0.3\n")
    (tmp_path / "rate.yaml").write_text("alpha: 0.3\n")
    (tmp_path / "recipe.yaml").write_text("about: x\nprogram: direct\nquestions: 5\n")
    for fine in (
        ["--recipe", "mine.yaml", *DIRECT], ["--options", "o.yaml", *DIRECT],
        ["--recipe", "mine.yaml", "--options", "direct.yaml"], ["--recipe", "mine.yaml"], ["--options", "o.yaml"],
    ):  # fmt: skip
        done = here("eval", "--dry-run", "--json", *fine)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["questions"] == 5
    for idle in (
        ["--options", "both.yaml"], ["--recipe", "recipe.yaml", "--alpha", "0.3"],
        ["--recipe", "recipe.yaml", "--options", "rate.yaml"], ["--options", "rate.yaml", "--options", "direct.yaml"],
    ):  # fmt: skip
        done = here("eval", "--dry-run", *idle)
        assert done.returncode == 2
        assert "--alpha 0.3 does nothing with program direct" in done.stderr


def test_files_of_options_add_up_and_none_may_say_what_another_says(here, tmp_path):
    (tmp_path / "one.yaml").write_text("questions: 7\nset: {turns: 3}\n")
    (tmp_path / "two.toml").write_text("chains = 3\n")
    (tmp_path / "three.yaml").write_text("questions: 8\n")
    (tmp_path / "four.yaml").write_text("set: [turns=3, turns=4]\n")
    (tmp_path / "five.yaml").write_text("set: {draft_tokens: 9}\n")
    two = here("eval", "--dry-run", "--json", "--options", "one.yaml", "--options", "two.toml")
    found = json.loads(two.stdout)
    assert (found["questions"], found["chains"]) == (7, 21)
    for files, says in (
        (["one.yaml", "three.yaml"], "one.yaml and three.yaml both say questions; leave it out of one of them"),
        (["one.yaml", "one.yaml"], "one.yaml and one.yaml both say questions"),
        (["one.yaml", "five.yaml"], "one.yaml and five.yaml both say set"),
        (["four.yaml"], "four.yaml: set gives one parameter twice, turns=3 and turns=4"),
    ):
        done = here("eval", "--dry-run", *(one for file in files for one in ("--options", file)))
        assert done.returncode == 2
        assert says in done.stderr
