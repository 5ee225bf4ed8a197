"""`a1 simulate` on a run of the fakes."""

import json

import pytest

from a1_sgl.evals.simulate.costs import PAIRS, Pair, find_pair


@pytest.fixture
def run(here, fakes):
    done = here("eval", "--out", "run", "--questions", "6", "--chains", "4", "--quiet")
    assert done.returncode == 0, done.stderr


def test_a_pair_is_fitted_and_checked(here, run, tmp_path):
    done = here("simulate", "fit", "run", "--pair", PAIRS[0], "--out", "new/pair.yaml")
    assert done.returncode == 0, done.stderr
    assert "written: new/pair.yaml" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert Pair.load(tmp_path / "new" / "pair.yaml").target.costs == find_pair(PAIRS[0]).target.costs
    done = here("simulate", "check", "run", "--pair", "new/pair.yaml", "--json")
    (check,) = json.loads(done.stdout)["checks"]
    assert (check["run"], check["chains"]) == ("run", 24)
    assert check["wall_s"]["error"] == pytest.approx(check["wall_s"]["simulated"] / check["wall_s"]["recorded"] - 1)


def test_a_plan_has_a_row_for_every_combination(here, run):
    done = here("simulate", "plan", "run", "--pair", PAIRS[0], "--questions", "20", "--targets", "1,2", "--alpha",
                "0.1:0.3:0.1", "--chains", "4,16", "--within", "1000")  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines[: 1 + 2 * 2 + 3 * 2 * 2])
    rows = [line.split() for line in lines[1 : 1 + 2 * 2 + 3 * 2 * 2]]
    assert [row[0] for row in rows] == ["target"] * 4 + ["a1"] * 12
    assert "95% within 1000 s, cheapest:" in done.stdout
    assert "no record says" in " ".join(done.stdout.split())


def test_a_plan_is_json_and_names_the_cheapest(here, run):
    arguments = [
        "simulate",
        "plan",
        "run",
        "--pair",
        PAIRS[0],
        "--rate",
        "0.5",
        "--questions",
        "40",
        "--targets",
        "1,4",
    ]
    found = json.loads(here(*arguments, "--within", "1e9", "--json").stdout)
    assert {row["arm"] for row in found["rows"]} == {"a1", "target"}
    kept = [row for row in found["rows"] if row["meets"]]
    assert found["cheapest"]["device_s"] == min(row["device_s"] for row in kept)
    late = json.loads(here(*arguments, "--within", "1e-9", "--json").stdout)
    assert late["cheapest"] is None
    again = json.loads(here(*arguments, "--within", "1e9", "--json").stdout)
    assert again == found


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plan", "run", "--pair", "none"], "pair 'none' is no file and none of"),
        (["plan", "none", "--pair", PAIRS[0]], "none holds no run"),
        (["plan", "run", "--pair", PAIRS[0], "--targets", "0.5"], "--targets takes whole numbers from 1 on"),
        (["plan", "run", "--pair", PAIRS[0], "--take-over", "resample"], "--take-over is continue or replace"),
        (["plan", "run", "--pair", PAIRS[0], "--within", "0"], "more than 0 seconds"),
        (["plan", "run", "--pair", PAIRS[0], "--rate", "0"], "above 0 a second"),
        (["plan", "run", "--pair", PAIRS[0], "--stretch", "0"], "a factor above 0"),
        (["plan", "run", "--pair", PAIRS[0], "--arm", "beam"], "unknown arm 'beam'"),
        (["check", "run", "run", "--pair", PAIRS[0]], "named twice"),
        (["fit", "run", "--pair", PAIRS[0]], "--out"),
    ],
)
def test_bad_input_is_told_on_stderr_with_status_2(arguments, says, here, run):
    done = here("simulate", *arguments)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())
    assert done.stdout == ""
