"""`a1 eval` under faults: every chain exactly once, the right exit status, nothing left running, nothing spoiled.

A selection of `matrix`, small enough for every test run; the whole of it is slow.
"""

import re

import pytest

from .matrix import (
    ANSWERS,
    TRANSPORT,
    Case,
    Fault,
    Pair,
    cases,
    client_interrupted,
    file_limit,
    judge,
    second_client,
)

EVERYTHING = Fault((*TRANSPORT, *ANSWERS), gateway=True)
SHORT = ("--levels", "3:4")
SELECTION = [
    Case("transport", Fault(TRANSPORT), options=("--set", "take_over=resample", *SHORT), questions=4),
    Case("answers", Fault(ANSWERS), "a1_lookahead", SHORT, questions=4),
    Case("interrupted, no aborts", EVERYTHING, options=SHORT, act=client_interrupted, status=(130,), questions=8),
    Case("second client", options=SHORT, act=second_client, questions=4),
    Case("limit on the size of files", options=SHORT, act=file_limit, status=(2,), questions=8),
    Case(
        "lasting", Fault(("nan", "garbage", "error"), share=0.25, lasting=True), status=(1,), on=("target",),
        questions=4, options=("--patience", "5", *SHORT),
    ),
]  # fmt: skip


def check(row, case, out):
    said = "".join(path.read_text(errors="replace") for path in out.parent.glob("*.log"))
    assert row["problems"] == [], f"{row}\n{said}"
    assert row["finished"] + row["resumed"] == row["chains"] == case.questions * case.chains
    assert (row["lost_end"], row["doubled"]) == (0, 0)
    assert case.fault == Fault() or row["injected"] > 0
    return said


@pytest.mark.parametrize("case", SELECTION, ids=lambda case: case.name)
def test_a_fault_loses_nothing(case, runtimes, tmp_path):
    urls = {name: runtimes[name].url for name in ("draft", "target")}
    row = judge(case, urls, tmp_path / "run", limit=200)
    said = check(row, case, tmp_path / "run")
    if case.name == "lasting":
        assert 0 < row["lost"] <= row["touched"] == case.chains
        assert sum(map(int, re.findall(r"(\d+) chains lost: ", said))) == row["lost"]
    elif case.act is None:
        assert row["lost"] == 0
    if case.act is second_client:
        assert "is writing to" in said
    if case.act is file_limit:
        assert "chains.jsonl cannot be written" in said or "events.jsonl cannot be written" in said
        assert "finished chains are kept" in said


# --- the whole matrix -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A pair whose target is killed and frozen."""
    with Pair(tmp_path_factory.mktemp("runtimes")) as pair:
        yield pair


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.name} {case.program} {' '.join(case.options)}")
def test_the_whole_matrix(case, own, tmp_path):
    check(judge(case, own.urls, tmp_path / "run", pair=own), case, tmp_path / "run")
