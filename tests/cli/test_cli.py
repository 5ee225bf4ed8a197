"""The command line as a user meets it: exit statuses, stderr, 80 columns."""

import json
import logging
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from a1_sgl.cli.doctor import _behind
from a1_sgl.engine.gateway import Worker
from a1_sgl.launch.gateway import gateway

from ..faults.proxy import Fault, Proxy

ROOT = Path(__file__).parent.parent.parent
PAIR = ["--draft", "http://127.0.0.1:9", "--target", "http://127.0.0.1:9"]


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
        (["report", "nowhere", "--out", "x"], "--out is the page itself, such as x.html, not x"),
        (["eval", "--dry-run", "--certified"], "--certified needs a card with a certificate"),
        (["grade", "nowhere", "--judge", "http://127.0.0.1:9"], "nowhere holds no run"),
        (["eval", "--out", "x", "--questions", "0"], "questions must be at least 1, not 0"),
        (["eval", "--out", "x", "--questions", "-1"], "questions must be at least 1, not -1"),
        (["calibrate", "--out", "x", "--chains", "-1"], "chains must be at least 1, not -1"),
        (["bench", "--out", "x", "--questions", "-1"], "questions must be at least 1, not -1"),
        (["bench", "--out", "x", "--repeats", "0"], "repeats must be at least 1, not 0"),
        (["tasks", "show", "chain", "--questions", "-1"], "questions must be at least 1, not -1"),
        (["tasks", "show", "chain", "--questions", "0"], "questions must be at least 1, not 0"),
        (["eval", "--out", "x", "--levels", "3-10"], "levels are FIRST:LAST, such as 3:10, not '3-10'"),
        (["eval", "--out", "x", "--levels", "1:99"], "lie within 3 to 10, not 1:99"),
        (["eval", "--out", "x", "--set", "turns"], "--set takes NAME=VALUE"),
        (["eval", "--out", "x", "--set", "speed=9"], "has no parameter 'speed'"),
        (["eval", "--out", "x", "--temperature", "-1"], "--temperature must be at least 0"),
        (["eval", "--out", "x", "--temperature", "nan"], "--temperature must be at least 0, not nan"),
        (["eval", "--out", "x", "--top-p", "0"], "--top-p must lie in (0, 1]"),
        (["eval", "--out", "x", "--runtime", "all", "--program", "direct"], "--runtime is draft, target or both"),
        (["eval", "--out", "x", "--in-flight", "0"], "--in-flight must be at least 1"),
        (["eval", "--out", "x", "--calibration", "none.json"], "calibration card none.json does not exist"),
        (["eval", "--out", "x", "--calibration", "."], "calibration card . cannot be used"),
        (["solve", "1 + 1?"], "no draft and no target runtime"),
        (["solve", "1 + 1?", "--alpha", "-3"], "strictly between 0 and 1"),
        (["solve", "", *PAIR], "the question is empty"),
        (["solve", " ", *PAIR], "the question is empty"),
        (["solve", "1 + 1?", "--chains", "0"], "chains must be at least 1, not 0"),
        (["eval", "--out", "x", "--runtime", "draft"], "program a1 uses both runtimes, not the draft alone"),
        (["eval", "--out", "x", "--program", "none.py:mine"], "there is no file none.py"),
        (["eval", "--out", "x", "--vote", "loudest"], "unknown vote 'loudest'; known: majority"),
        (["eval", "--out", "x", "--rate", "luck"], "unknown rate 'luck'; known: own"),
        (["eval", "--out", "x", "--chunking", "page"], "unknown chunking 'page'; known: tokens"),
        (["eval", "--out", "x", "--set", "turns=soon"], "turns must be a whole number, such as 15, not 'soon'"),
        (["eval", "--out", "x", "--set", "turns=-1"], "program a1: turns must be at least 1, such as 15, not -1"),
        (["eval", "--out", "x", "--set", "draft_tokens=0"], "draft_tokens must be at least 1, such as 500, not 0"),
        (["eval", "--out", "x", "--set", "retries=-1"], "retries must be at least 0, such as 4, not -1"),
        (
            ["eval", "--out", "x", "--program", "spec_reason", "--set", "threshold=99"],
            "threshold must be at most 10, such",
        ),
        (["eval", "--out", "x", "--gate", "magic"], "unknown gate 'magic'; known: balanced"),
        (["eval", "--out", "x", "--gate", "audited"], "gate audited needs epsilon"),
        (["eval", "--out", "x", "--epsilon", "0.1"], "gate adaptive-turn asks for no audits and takes no epsilon"),
        (
            ["eval", "--out", "x", "--gate", "audited", "--epsilon", "0.1", "--audit", "luck"],
            "unknown audit 'luck'; known: rewrite, judge, exact",
        ),
        (["eval", "--out", "x", "--alarm", "shout"], "unknown alarm 'shout'; known: warn, recalibrate, hand-over"),
        (["eval", "--out", "x", "--set", "score=luck"], "unknown score 'luck'; known: mean_loss"),
        (["eval", "--out", "x", "--first-stage", "luck"], "unknown score 'luck'; known: mean_loss"),
        (["eval", "--out", "x", "--first-stage", "own_loss", "--eta", "0.25"], "eta must lie in [0, alpha = 0.25)"),
        (["calibrate", "--out", "x", "--first-stage", "tail"], "score tail needs more than that"),
        (["eval", "--out", "x", "--gate", "turn-budget", "--alpha", "0.3"], "alpha 0.25 is a budget of 1"),
        (["certify", "--out", "x", "--calibration", "none.json", "--epsilon", "0.1"], "none.json does not exist"),
        (["certify", "--out", "x", "--epsilon", "0.1"], "--calibration"),
        (["certify", "--out", "x", "--calibration", "none.json"], "--epsilon"),
        (["eval", "--out", "x", "--gate", "frozen"], "gate frozen has the scores of a card and no others"),
        (["replay", "none.jsonl"], "none.jsonl does not exist"),
        (["replay", ".", "--alpha", "2"], "strictly between 0 and 1, not 2"),
        (["replay", ".", "--sweep", "beta=1:2:1"], "--sweep takes alpha=FIRST:LAST:STEP"),
        (["replay", ".", "--seeds", "0"], "--seeds must be at least 1"),
        (["eval"], "--out"),
        (["evaluate"], "No such command"),
    ],
)
def test_bad_input_is_told_on_stderr_with_status_2(arguments, what, here, tmp_path):
    done = here(*arguments)
    assert done.returncode == 2, done.stderr
    assert what in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("command", [["demo", "--out"], ["launch", "pocket", "--detach", "--state"]])
def test_a_folder_that_cannot_be_is_named_on_stderr_with_status_2(command, here, tmp_path):
    (tmp_path / "file").write_text("mine\n")
    done = here(*command, "file")
    assert done.returncode == 2
    assert done.stderr == "a1: file/logs: Not a directory\n" or "file/" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine\n"


def test_a_process_of_its_own_ends_with_that_status_as_well(tmp_path):
    command = [sys.executable, "-m", "a1_sgl.cli", "eval", "--out", "x", "--alpha", "1.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("a1: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--deadline", "0"], "--deadline must be above 0 s, not 0"),
        (["--deadline", "-3"], "--deadline must be above 0 s, not -3"),
        (["--deadline", "nan"], "--deadline must be above 0 s, not nan"),
        (["--patience", "0"], "--patience must be above 0 s, not 0"),
        (["--silence", "-1"], "--silence must be above 0 s, not -1"),
        (["--in-flight", "0"], "--in-flight must be at least 1, not 0"),
        (["--ca-file", "none.pem"], "--ca-file: there is no file none.pem"),
        (["--ca-file", "."], "--ca-file . holds no certificates"),
        (["--ca-file", "words"], "--ca-file words holds no certificates in PEM form"),
        (["--ca-file", "words", "--insecure"], "--insecure trusts whoever answers, --ca-file only whom it names; give"),
        (["--api-key-file", "none"], "--api-key-file none cannot be read"),
        (["--api-key-file", "."], "--api-key-file . cannot be read"),
        (["--api-key-file", "empty"], "--api-key-file empty is empty"),
        (["--api-key-file", "words"], "--api-key-file words is no key"),
        (["--api-key-file", "words", "--api-key", "topsecret"], "both hold a key; give one of them"),
        (["--api-key", "tops\u00e9cret"], "--api-key is no key"),
        (["--draft", "127.0.0.1:30000"], "'127.0.0.1:30000' is not a URL; it must look like http://"),
        (["--draft", "http://"], "'http://' is not a URL"),
        (["--draft", "http://nowhere.invalid:1"], "draft runtime http://nowhere.invalid:1: /get_model_info failed"),
        (["--draft", "http://[::1]:9"], "draft runtime http://[::1]:9: /get_model_info failed"),
        ([], "draft runtime http://127.0.0.1:9: /get_model_info failed"),
    ],
)
@pytest.mark.parametrize("command", [["eval", "--out", "x"], ["solve", "1 + 1?"]], ids=["eval", "solve"])
def test_a_connection_that_cannot_be_is_one_line_with_status_2(command, options, what, here, tmp_path):
    (tmp_path / "words").write_text("topsecret\nand more\n")
    (tmp_path / "empty").write_text("\n")
    pair = [one for pair in zip(PAIR[::2], PAIR[1::2], strict=True) if pair[0] not in options for one in pair]
    done = here(*command, *pair, *options)
    assert done.returncode == 2
    assert what in done.stderr
    assert done.stderr.startswith("a1: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert "secret" not in done.stderr
    assert not (tmp_path / "x").exists()


def test_a_server_that_is_no_sglang_is_named(here, tmp_path):
    pages = {
        "/missing": (404, b"<html>\n<b>not\nhere</b></html>"), "/page": (200, b"<html>\nhello</html>"),
        "/json": (200, b'{"name": "other"}'), "/array": (200, b"[1]"),
    }  # fmt: skip

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            page, _, _ = self.path[1:].partition("/")
            status, body = pages[f"/{page}"] if self.path.endswith("/get_model_info") else (404, b"no such page")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for path, what in (
            ("/missing", "has no /get_model_info"), ("/page", "not JSON"), ("/json", "is no SGLang runtime"),
            ("/array", "is no SGLang runtime"),
        ):  # fmt: skip
            url = f"http://127.0.0.1:{server.server_port}{path}"
            done = here("eval", "--out", "x", "--program", "direct", "--target", url)
            assert done.returncode == 2
            assert f"target runtime {url}: " in done.stderr
            assert what in done.stderr
            assert done.stderr.count("\n") == 1
        server.shutdown()
    assert not (tmp_path / "x").exists()


def test_what_a_program_refuses_ends_the_run_with_status_2(here, runtimes):
    where = ["--draft", runtimes["draft"].url, "--target", runtimes["target"].url]
    done = here("eval", "--out", "x", "--program", "a1_sync", "--set", "budget=7", "--quiet", *where)
    assert done.returncode == 2
    assert done.stderr.startswith("a1: budget must lie between 0 and samples = 4, not 7")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_run_with_redraws_and_a_verifier_is_replayed_and_graded_again(here, runtimes, tmp_path):
    urls = {name: runtimes[name].url for name in ("draft", "target")}
    where = ["--draft", urls["draft"], "--target", urls["target"], "--verifier", urls["target"]]
    small = ["--questions", "4", "--chains", "2", "--quiet"]
    done = here("eval", "--out", "run", "--program", "self_reject", "--runtime", "both", *small, *where)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert any(event.get("attempt", 0) > 0 for event in events)
    summary = (tmp_path / "run" / "summary.json").read_text()
    assert json.loads(summary)["tokens"]["verifier_prefill"] > 0
    replayed = here("replay", "run", "--seeds", "1", "--minimum", "1", "--json")
    assert replayed.returncode == 0, replayed.stderr
    assert 0 < json.loads(replayed.stdout)["balanced"]["overall"] < 1
    again = here("grade", "run", "--again")
    assert again.returncode == 0, again.stderr
    assert "8 chains graded, 0 grades changed" in again.stdout
    assert (tmp_path / "run" / "summary.json").read_text() == summary


def test_several_urls_of_a_role_are_a_fleet(here, runtimes, tmp_path):
    """Its questions are spread, and the record counts by role and not by runtime."""
    with Proxy(runtimes["target"].url) as one, Proxy(runtimes["target"].url) as other:
        where = ["--target", one.url, "--target", other.url]
        done = here(
            "eval", "--out", "run", "--program", "direct", "--questions", "8", "--chains", "1", "--quiet", *where
        )
        assert done.returncode == 0, done.stderr
        assert min(one.requests["/generate"], other.requests["/generate"]) >= 4
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["chains_lost"] == 0
    tokens = summary["tokens"]
    assert tokens["target_decode"] > 0 == tokens["draft_decode"]
    assert not [name for name in tokens if "127.0.0.1" in name or "-0" in name or "-1" in name]


SECRET = "sk-3f9a77-topsecret"


@pytest.mark.parametrize("way", ["option", "environment", "file"])
def test_a_key_is_sent_and_is_written_nowhere(way, here, runtimes, tmp_path, monkeypatch, caplog):
    """Through a proxy that wants it, with faults that are told of and a chain that is lost."""
    caplog.set_level(logging.DEBUG)
    (tmp_path / "key").write_text(SECRET + "\n")
    if way == "environment":
        monkeypatch.setenv("A1_API_KEY", SECRET)
    options = {"option": ["--api-key", SECRET], "environment": [], "file": ["--api-key-file", "key"]}[way]
    fault = Fault(("error",), share=0.3, lasting=True, key=SECRET)
    with Proxy(runtimes["target"].url, fault) as proxy:
        command = ["eval", "--out", "run", "--program", "direct", "--target", proxy.url, "--questions", "4"]
        done = here(*command, "--chains", "1", "--patience", "1", *options)
        assert done.returncode == 1, done.stderr
        assert len(proxy.touched) == 1
        refused = here("eval", "--out", "other", "--program", "direct", "--target", proxy.url, "--api-key", "wrong-key")
    monkeypatch.delenv("A1_API_KEY", raising=False)
    assert proxy.refused > 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["chains_lost"] == 1
    assert refused.returncode == 2
    assert f"target runtime {proxy.url}: /get_model_info answered 401" in refused.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 5
    said = [done.stdout, done.stderr, refused.stdout, refused.stderr, caplog.text]
    assert not [path for path in files if b"topsecret" in path.read_bytes()]
    assert not [text for text in said if "topsecret" in text or "wrong-key" in text]


def test_lists_fit_80_columns(here):
    for command, words in (
        ("tasks", ["chain", "calibration, test"]),
        ("programs", ["a1", "direct", "take_over"]),
        ("gates", ["balanced", "recommended", "turn-budget", "audited", "rewrite", "exact"]),
        ("scores", ["mean_loss", "worst_window"]),
        ("votes", ["majority", "weighted", "judge"]),
    ):
        done = here(command)
        assert done.returncode == 0
        assert all(word in done.stdout for word in words)
        assert max(map(len, done.stdout.splitlines())) <= 80


def test_doctor_without_and_with_runtimes(here, runtimes, tmp_path):
    alone = here("doctor")
    assert alone.returncode == 0, alone.stdout
    assert "none" in alone.stdout
    found = here("doctor", "--draft", runtimes["draft"].url, "--target", runtimes["stranger"].url)
    assert found.returncode == 0, found.stdout
    assert "two tokenizers" in found.stdout
    broken = here("doctor", "--draft", runtimes["draft"].url, "--target", "http://127.0.0.1:9")
    assert broken.returncode == 1
    assert "is the runtime up" in " ".join(broken.stdout.split())


def test_doctor_says_what_is_behind_a_gateway(here, runtimes, tmp_path):
    with gateway([runtimes["draft"].url], tmp_path / "logs") as at:
        found = here("doctor", "--draft", at.url, "--target", runtimes["target"].url, "--json")
    assert found.returncode == 0, found.stdout
    says = next(one["says"] for one in json.loads(found.stdout)["checks"] if one["name"] == "draft runtime")
    assert says.endswith(f"; a gateway before 1 worker: {runtimes['draft'].url}; aborts reach it")
    near, far = Worker("http://a:1"), Worker("http://b:2", healthy=False)
    assert _behind([(near, True), (far, False)]).startswith(
        "; a gateway before 2 workers: http://a:1, http://b:2; it finds http://b:2 not healthy; aborts reach not http://b"
    )
    assert "aborts reach none of them from here" in _behind([(near, False), (far, False)])
    assert _behind([]) == ""


def test_solve_shows_who_wrote_each_chunk_and_its_p_value(here, runtimes, tmp_path):
    where = ["--draft", runtimes["draft"].url, "--target", runtimes["target"].url]
    question = "Start with 39. Multiply by 2. Subtract 18. Add 7. What is the result?"
    done = here("solve", question, "--alpha", "0.5", *where)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("draft") and " p = 0." in line for line in lines)
    assert any(line.startswith("answer: ") for line in lines)
    assert max(map(len, lines)) <= 80
    assert "scores of the pocket pair's own card" in done.stderr
    other = here("solve", question, "--temperature", "0.9", *where)
    assert "no --calibration card" in other.stderr  # that one was made at another


def test_solve_shows_any_program(here, runtimes, tmp_path):
    where = ["--draft", runtimes["draft"].url, "--target", runtimes["target"].url]
    question = "Start with 39. Multiply by 2. Subtract 18. Add 7. What is the result?"
    done = here("solve", question, "--program", "dvts", "--chains", "4", "--set", "width=2", *where)
    assert done.returncode == 0, done.stderr
    for word in ("tokens pruned", "target rating 0.", "answer: "):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_program_in_a_users_file_works_in_every_command(here, runtimes, tmp_path):
    """The example in docs/programs.md, from another folder."""
    mine = ["--program", f"{ROOT / 'examples' / 'my_program.py'}:second_opinion"]
    where = ["--draft", runtimes["draft"].url, "--target", runtimes["target"].url]
    small = ["--questions", "3", "--chains", "2", "--quiet"]
    made = here("calibrate", "--out", "cal", *mine, *small, *where)
    assert made.returncode == 0, made.stderr
    done = here("eval", "--out", "run", *mine, *small, "--calibration", "cal/card.json", *where)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["configuration"]["program"] == "second_opinion"
    assert len(run["configuration"]["source"]) == 16
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["take_over"]["decisions"] == 6
    shown = here("solve", "Start with 39. Add 2. Add 9. What is the result?", *mine, *where)
    assert shown.returncode == 0, shown.stderr
    assert "answer: " in shown.stdout
    voted = here("eval", "--out", "voted", *mine, *small, "--vote", "weighted", *where)
    assert voted.returncode == 0, voted.stderr
    assert json.loads((tmp_path / "voted" / "summary.json").read_text())["vote"] == "weighted"
    refused = here("eval", "--out", "x", *mine, "--set", "speed=9", *where)
    assert refused.returncode == 2
    assert "program second_opinion has no parameter 'speed'" in refused.stderr


def test_calibrate_writes_a_card_that_eval_takes(here, runtimes, tmp_path):
    where = ["--draft", runtimes["draft"].url, "--target", runtimes["target"].url, "--quiet"]
    made = here("calibrate", "--out", "cal", "--questions", "4", "--chains", "2", *where)
    assert made.returncode == 0, made.stderr
    card = json.loads((tmp_path / "cal" / "card.json").read_text())
    assert len(card["questions"]) == 4
    assert card["score"] == "mean_loss"
    done = here("eval", "--out", "run", "--questions", "3", "--chains", "2", "--calibration", "cal/card.json", *where)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["configuration"]["models"]["draft"]["model"] == "draft"
    assert run["configuration"]["gate"]["calibration"] is not None
    assert run["environment"]["packages"]["sglang"]


def test_a_run_is_calibrated_certified_and_replayed(here, runtimes, tmp_path):
    where = ["--draft", runtimes["draft"].url, "--target", runtimes["target"].url, "--quiet"]
    small = ["--questions", "8", "--chains", "2", "--levels", "3:4"]
    made = here("calibrate", "--out", "cal", *small, *where)
    assert made.returncode == 0, made.stderr
    bare = json.loads((tmp_path / "cal" / "card.json").read_text())
    assert bare["smallest_alpha"] == 1 / (len(bare["scores"]) + 1)
    risk = ["--calibration", "cal/card.json", "--epsilon", "0.5", "--alphas", "0.5,0.7", *small]
    sure = here("certify", "--out", "certified", *risk, *where)
    assert sure.returncode == 0, sure.stderr
    assert "loses at most 0.5 of such questions" in " ".join(sure.stdout.split())
    certificate = json.loads((tmp_path / "certified" / "card.json").read_text())["certificate"]
    few = here("certify", "--out", "few", *risk, "--epsilon", "0.01", *where)
    assert few.returncode == 2
    assert "--questions must be at least" in few.stderr
    # without --alpha and --gate those that are certified are taken
    done = here(
        "eval", "--out", "run", "--questions", "4", "--chains", "2", "--levels", "3:4", "--calibration",
        "certified/card.json", "--certified", "--losses", *where,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "certified: alpha" in done.stdout
    gate = json.loads((tmp_path / "run" / "run.json").read_text())["configuration"]["gate"]
    assert gate["alpha"] == min(trial["alpha"] for trial in certificate["trials"] if trial["after"])
    assert gate["kind"] == "frozen"
    other = here(
        "eval", "--out", "target", "--questions", "4", "--chains", "2", "--levels", "3:4", "--program", "direct",
        "--recipe", "pocket", "--draft", runtimes["draft"].url, "--target", runtimes["target"].url,
    )  # fmt: skip
    assert other.returncode == 0, other.stderr
    assert "8/8 chains, accuracy" in other.stderr
    assert "tok/s" in other.stderr
    compared = here("compare", "target", "run")
    assert compared.returncode == 0, compared.stderr
    assert "run - target" in compared.stdout
    assert "times the FLOPs" in " ".join(compared.stdout.split())
    page = here("report", "run", "target", "--out", "page/report.html")
    assert page.returncode == 0, page.stderr
    text = (tmp_path / "page" / "report.html").read_text()
    assert "boxed" in text
    assert '"losses":[["' in text
    said = here("eval", "--out", "x", "--dry-run", "--like", "run", "--chains", "3", "--questions", "8")
    assert said.returncode == 0, said.stderr
    assert "time: about" in said.stdout
    again = here("replay", "run", "--seeds", "2", "--alpha", "0.5", "--minimum", "1", "--out", "report")
    assert again.returncode == 0, again.stderr
    for word in ("balanced", "authors", "cannot know", "95% intervals", "log wealth"):
        assert word in " ".join(again.stdout.split())
    assert max(map(len, again.stdout.splitlines())) <= 80
    assert "so its rate is above alpha where alpha * n is not whole" in " ".join(again.stdout.split())
    page = (tmp_path / "report" / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "cannot know" in page
    assert (tmp_path / "report" / "report-rates.png").stat().st_size > 10_000


def test_replay_prints_one_json_object(here, tmp_path):
    rows = [
        {"problem": q, "sample": s, "turns": [{"ppl": 1 + (q * 7 + s * 3 + t) % 11} for t in range(3)]}
        for q in range(5)
        for s in range(4)
    ]
    (tmp_path / "chains.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--json", "--seeds", "2", "--minimum", "1", "--interleave", "2"]
    done = here("replay", "chains.jsonl", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ["balanced", "authors", "random", "oracle"]
    wanted = {
        "overall", "per_turn", "mean_turn_deviation", "max_turn_deviation", "mean_question_deviation", "selectivity",
        "bound", "per_turn_bound",
    }  # fmt: skip
    assert wanted <= found["balanced"].keys()
    assert len(found["balanced"]["per_turn"]) == 3
    swept = here("replay", "chains.jsonl", *options, "--sweep", "alpha=0.2:0.6:0.2", "--gate", "marginal")
    assert list(json.loads(swept.stdout)) == ["0.2", "0.4", "0.6"]
    shown = here("replay", "chains.jsonl", "--sweep", "alpha=0.2:0.6:0.2", "--seeds", "1", "--out", "r")
    assert shown.returncode == 0, shown.stderr
    assert (tmp_path / "r" / "report-sweep.png").exists()
