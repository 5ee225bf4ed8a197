"""What commands print fits a terminal of 80 columns, and says what the summaries do."""

import copy
import io

import pytest
from rich.console import Console

from a1_sgl.cli import common, replay
from a1_sgl.conformal import BUDGETS, GATES
from a1_sgl.evals.metrics import take_over
from a1_sgl.evals.replay import RULES
from a1_sgl.types import LostEvent

from ..evals.made import run, written


@pytest.fixture
def printed(monkeypatch):
    out = io.StringIO()
    console = Console(file=out, width=80)
    monkeypatch.setattr(common, "console", console)

    def lines(table=None):
        if table is not None:
            console.print(table)
        return out.getvalue().splitlines()

    return lines


ALL = {"mean": 1.0, "low": 0.94, "high": 1.0}
SUMMARY = {
    "chains_per_question": 16, "vote": "majority", "wall_s": 12345.6, "chains_completed": 1600, "chains_lost": 2,
    "audits": None,
    "accuracy": ALL, "answer_accuracy": ALL, "maj_at": {"16": ALL}, "pass_at": {"16": ALL},
    "tokens": {"draft_decode": 12345678, "draft_dropped": 0, "target_decode": 12345678, "target_dropped": 5,
               "target_prefill": 12345678, "target_spared": 0, "cached_share": 0.841},
    "take_over": take_over([], 0.25) | {"realised": 0.246, "low": 0.218, "high": 0.275, "decisions": 1563,
                                        "selectivity": 0.922, "bound": 0.0441},
}  # fmt: skip


def turns(*bounds):
    return [{"turn": turn, "bound": bound} for turn, bound in enumerate(bounds)]


@pytest.mark.parametrize(
    ("by_turn", "says"),
    [
        (turns(0.0191, 0.11), "at most ±11.0%"),
        (turns(0.0191, None), "at best ±2.0%"),
        (turns(None, None), "-"),
        ([], "-"),
    ],
)
def test_three_runs_fit_with_their_bounds(printed, by_turn, says):
    run = copy.deepcopy(SUMMARY)
    run["take_over"]["by_turn"] = by_turn
    common.print_summaries({"draft only": run, "target only": run, "A1": run})
    lines = printed()
    assert all(len(line) <= 80 for line in lines)
    rows = [line.split("  ") for line in lines]
    assert sum("24.6% [21.8, 27.5]" in line for line in lines) == 1  # no cell is wrapped
    at = next(i for i, line in enumerate(lines) if line.startswith("take-over rate"))
    assert lines[at + 1].split()[0] == "alpha"
    assert lines[at + 2].split() == ["bound", *["±4.5%"] * 3]
    assert lines[at + 3].split()[:2] == ["by", "turn"]
    assert [cell.strip() for cell in rows[at + 3] if cell.strip()] == ["by turn", says, says, says]


@pytest.mark.parametrize(("width", "parts"), [(80, [["A", "B"], ["C", "D"]]), (40, [["A"], ["B"], ["C"], ["D"]])])
def test_a_table_that_is_too_wide_comes_in_parts(width, parts):
    cells = ["20.6% [10.8, 33.8] ±25.7%"] * 4
    content = {"title": "", "head": ["turn", "chunks", *"ABCD"], "rows": [["0", "160", *cells]] * 2, "keys": 2}
    found = list(replay._parts(content, width))
    assert [part["head"] for part in found] == [["turn", "chunks", *names] for names in parts]
    assert all(row == ["0", "160", *cells[: len(row) - 2]] for part in found for row in part["rows"])
    assert list(replay._parts(content, 1000)) == [{"head": content["head"], "rows": content["rows"]}]


@pytest.mark.parametrize("swept", [False, True])
def test_every_gate_s_replay_fits_with_its_bound(printed, swept):
    measured = {
        "overall": 1.0, "bound": 0.12345, "mean_turn_deviation": 0.123, "max_turn_deviation": 0.456,
        "mean_question_deviation": 0.123, "selectivity": 1.0,
    }  # fmt: skip
    gates = {name: measured for name in (*GATES, *BUDGETS, *RULES)}
    content = replay._swept({0.375: gates, 0.4: gates}) if swept else replay._summary(gates, 0.375)
    lines = printed(replay._rich(content))
    assert len(lines) == 1 + (1 + swept) * len(gates)
    for line in lines[1:]:
        name, *cells = line.split()
        assert name in gates
        assert len(cells) == 6
        assert "±12.4%" in cells


def test_a_comparison_has_the_chains_that_were_lost_in_its_table(here, tmp_path):
    def half(question, sample, answer, at, text):
        whole = written(question, sample, answer, at, text)
        return [LostEvent(question=question, sample=sample, error="gone")] if (question, sample) == ("q0", 1) else whole

    for name, write in (("whole", written), ("half", half)):
        run(tmp_path / name, [["1", "1"], ["1", "2"]], write=write)
    done = here("compare", "whole", "half", "--allow", "unfinished")
    assert done.returncode == 0, done.stderr
    head, row, *_ = done.stdout.splitlines()
    assert head.endswith("chains lost")
    assert row.split()[-2:] == ["1,", "0"]
    assert max(map(len, done.stdout.splitlines()[:3])) <= 80
