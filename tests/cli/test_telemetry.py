"""`a1 timeline` and `a1 eval --metrics`, as they are typed."""

import json

SMALL = ("eval", "--task", "chain", "--questions", 3, "--chains", 2, "--out")


def test_a_timeline_of_two_runs(here, fakes, tmp_path):
    assert here(*SMALL, "a1", "--quiet").returncode == 0
    assert here(*SMALL, "sync", "--program", "a1_sync", "--quiet").returncode == 0
    done = here("timeline", "a1", "sync", "--out", "both.json")
    assert done.returncode == 0, done.stderr
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "seconds of requests" in done.stdout
    assert "ui.perfetto.dev" in done.stdout
    names = {
        event["args"]["name"]
        for event in json.loads((tmp_path / "both.json").read_text())["traceEvents"]
        if event["name"] == "process_name"
    }
    assert names == {
        f"{run}: {what}" for run in ("a1", "sync") for what in ("chains", "draft runtime", "target runtime")
    }  # fmt: skip


def test_a_timeline_as_json(here, fakes, tmp_path):
    assert here(*SMALL, "a1", "--quiet").returncode == 0
    said = json.loads(here("timeline", "a1", "--json").stdout)
    assert said["trace"] == "timeline.json.gz"
    assert (tmp_path / "timeline.json.gz").stat().st_size > 500
    summary = said["runs"]["a1"]
    assert summary["runtimes"].keys() == {"draft", "target"}
    assert summary["runtimes"]["draft"]["requests"] >= 6
    assert summary["chains"]["draft writes"] >= 0


def test_what_a_timeline_refuses(here, tmp_path):
    done = here("timeline", "nothing")
    assert (done.returncode, "nothing" in done.stderr) == (2, True)
    (tmp_path / "empty").mkdir()
    for arguments, says in ((("--out", "x.html"), ".json.gz"), (("--from", "3", "--to", "2"), "--from")):
        done = here("timeline", "empty", *arguments)
        assert done.returncode == 2
        assert says in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_metrics_of_an_eval(here, fakes):
    done = here(*SMALL, "a1", "--metrics", "0")
    assert done.returncode == 0, done.stderr
    assert "metrics: http://127.0.0.1:" in done.stderr
    done = here(*SMALL, "other", "--metrics", "soon")
    assert done.returncode == 2
    assert "--metrics" in done.stderr
