"""`a1 bench` and `a1 bench rho` as a user meets them."""

import json
import os

import pytest

from a1_sgl.evals.speed.rho import Rho


@pytest.fixture
def urls(runtimes):
    return ["--draft", runtimes["draft"].url, "--target", runtimes["target"].url]


FEW = ["--task", "chain", "--questions", "2", "--chains", "2", "--repeats", "2", "--quiet"]


def test_a_bench_says_how_fast_and_why_in_80_columns(here, urls, tmp_path):
    said = here("bench", "--out", "b", *urls, *FEW, "--arm", "target", "--arm", "draft", "--arm", "a1")
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    words = said.stdout.split()
    for word in ("accuracy", "queue", "gamma", "busy", "rho", "efficiency", "limit"):
        assert any(word in one for one in words), word
    results = json.loads((tmp_path / "b" / "results.json").read_text())
    assert len(results["runs"]) == 6
    assert results["base"] == "target"
    assert results["speed_up"]["a1"]["low"] <= results["speed_up"]["a1"]["mean"] <= results["speed_up"]["a1"]["high"]
    # Every run is a folder that other commands read.
    assert here("compare", "b/round-1/target", "b/round-1/a1").returncode == 0


def test_without_answers_to_grade_there_is_no_accuracy(here, urls):
    arms = ["--arm", "a1", "--arm", "a1_sync"]
    said = here("bench", "--out", "b", *urls, *FEW, *arms, "--fixed", "2x8", "--paced", "--alpha", "0.5")
    assert said.returncode == 0, said.stderr
    assert "accuracy" not in said.stdout
    assert "x a1 [95%]" in said.stdout
    assert "50.0%" in said.stdout
    assert "barrier" in said.stdout


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--arm", "turbo"], "unknown arm 'turbo'; known: target, draft, a1"),
        (["--fixed", "8"], "fixed lengths are TURNSxTOKENS, such as 8x64, not '8'"),
        (["--temperature", "-1"], "temperature must be at least 0, not -1"),
        (["rho", "--chunk", "0"], "--chunk must be at least 1, not 0"),
        (["--repeats", "0"], "repeats must be at least 1, not 0"),
        (["--alpha", "1.5"], "alpha is the nominal take-over rate"),
        (["--take-over", "resample"], "unknown take-over 'resample' for a bench; known: continue, replace"),
        (["--gate", "nonsense"], "unknown gate 'nonsense'"),
        (["--task", "nonsense"], "unknown task 'nonsense'"),
        ([], "no draft and no target runtime is launched here"),
        (["rho", "--alpha", "0"], "--alpha must lie strictly between 0 and 1, not 0"),
        (["rho", "--seconds", "0"], "--seconds must be above 0, not 0"),
        (["rho"], "no target runtime is launched here"),
        (["rho", "--target", "http://a:1", "--target", "http://b:1"], "rho is measured on one runtime"),
    ],
)
def test_what_is_wrong_is_said(here, arguments, what):
    said = here("bench", *arguments)
    assert said.returncode == 2
    assert what in said.stderr
    assert said.stdout == ""
    assert len(said.stderr.splitlines()) == 1


def test_rho_is_measured_kept_and_used(here, runtimes, tmp_path):
    target = ["--target", runtimes["target"].url]
    said = here("bench", "rho", *target, "--seconds", "4", "--in-flight", "4", "--chunk", "16")
    assert said.returncode == 0, said.stderr
    assert max(map(len, said.stdout.splitlines())) <= 80
    assert "A1 can pay" in said.stdout or "A1 cannot pay" in said.stdout
    assert "left out: " in said.stdout
    kept = Rho.find(tmp_path / ".a1")
    assert kept.model == "target"
    dry = here("eval", "--out", "x", "--dry-run", "--questions", "2")
    assert "on target" in dry.stdout
    assert "rho" in dry.stdout
    # Of a program that does not take over it says nothing.
    assert "rho" not in here("eval", "--out", "x", "--dry-run", "--program", "direct", "--questions", "2").stdout


def test_doctor_says_whether_a1_pays(here, runtimes, tmp_path):
    urls = ["--draft", runtimes["draft"].url, "--target", runtimes["target"].url]
    (speed,) = [one for one in json.loads(here("doctor", *urls, "--json").stdout)["checks"] if one["name"] == "speed"]
    assert (speed["state"], speed["says"][:29]) == ("none", "not measured; `a1 bench rho` ")
    found = Rho(
        model="target", model_sha256="0" * 16, machine="m", packages={}, prefix=9, decode={64: 1.0},
        verify={64: {64: 0.25}},
    )  # fmt: skip
    found.save(tmp_path / ".a1")
    assert "measured of another model" in " ".join(here("doctor", *urls).stdout.split())
    from a1_sgl.session import Backend

    with Backend.connect(target=runtimes["target"].url) as single:
        served = single.roles.writer.engine.identity.model_sha256
    found.model_copy(update={"model_sha256": served}).save(tmp_path / ".a1")
    assert "1 / (alpha + rho) = 2.0 times" in " ".join(here("doctor", *urls).stdout.split())
    (tmp_path / ".a1" / "rho.json").write_text("nonsense")
    broken = here("doctor", *urls)
    assert broken.returncode == 1
    assert "cannot be read" in broken.stdout
    assert os.listdir(tmp_path / ".a1") == ["rho.json"]
