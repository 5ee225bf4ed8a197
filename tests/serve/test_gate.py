"""The gate that all requests share: what it holds, and what is left of it after an end of any kind."""

import json
import os
import signal
import subprocess
import sys

import pytest

from a1_sgl.conformal import Card
from a1_sgl.errors import ConfigError
from a1_sgl.serve import gate as module
from a1_sgl.serve.gate import Gates, Kind

KIND = Kind("adaptive-turn", 0.25)
CARD = Card("mean_loss", tuple(range(1, 30)), ((0, 0, 0),) * 29, ("q",), "t", 0.25, {"models": {}})


def decide(level, count, start=0):
    for i in range(start, start + count):
        level.begin(f"q{i}")
        for turn in range(3):
            level(float((i * 7 + turn) % 11), question=f"q{i}", sample=0, turn=turn)
        level.finish(f"q{i}", 0)
        level.end(f"q{i}")


def state(gates):
    return json.loads(json.dumps([level.state() for level in gates.levels]))


def test_nothing_is_lost_where_the_server_ends_in_order(tmp_path):
    gates = Gates(KIND, tmp_path)
    decide(gates.at("mean_loss", 0.25), 30)
    before = state(gates)
    gates.close()
    assert state(Gates(KIND, tmp_path)) == before


def test_a_kill_costs_what_was_not_flushed(tmp_path):
    """A process that is killed: what was flushed is there, and the rest is not half there."""
    script = f"""
import os, signal
from pathlib import Path
from tests.serve.test_gate import *
gates = Gates(KIND, Path({str(tmp_path)!r}))
level = gates.at("mean_loss", 0.25)
decide(level, 20)
gates.flush()
decide(level, 1, 20)
os.kill(os.getpid(), signal.SIGKILL)
"""
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    done = subprocess.run([sys.executable, "-c", script], cwd=root, timeout=120)
    assert done.returncode == -signal.SIGKILL
    expected = Gates(KIND)
    decide(expected.at("mean_loss", 0.25), 20)
    assert state(Gates(KIND, tmp_path)) == state(expected)


@pytest.mark.parametrize("alarm", [None, "warn"])
def test_a_journal_comes_to_what_a_state_does(tmp_path, alarm):
    kind = Kind("adaptive-turn", 0.25, alarm=alarm, card=CARD)
    gates = Gates(kind, tmp_path)
    decide(gates.at("mean_loss", 0.25), 45)
    decide(gates.at("mean_loss", 0.4), 5)
    gates.flush()
    gates._lock.release()
    again = Gates(kind, tmp_path)
    assert sorted(state(again), key=lambda one: one["alpha"]) == sorted(state(gates), key=lambda one: one["alpha"])


def test_a_torn_last_entry_is_left_out_and_a_damaged_one_is_named(tmp_path):
    gates = Gates(KIND, tmp_path)
    decide(gates.at("mean_loss", 0.25), 2)
    gates.flush()
    gates._lock.release()
    (journal,) = tmp_path.glob("gate-*.log")
    with journal.open("ab") as file:
        file.write(b'["d", "mean')
    again = Gates(KIND, tmp_path)
    assert again.at("mean_loss", 0.25).counts.decisions == 6
    again.flush()
    again._lock.release()
    (journal,) = tmp_path.glob("gate-*.log")
    journal.write_bytes(b"what\n" + journal.read_bytes())
    with pytest.raises(ConfigError, match="line 1"):
        Gates(KIND, tmp_path)


def test_the_state_takes_the_journals_place_before_that_grows_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "JOURNAL", 50)
    gates = Gates(KIND, tmp_path)
    for i in range(60):
        decide(gates.at("mean_loss", 0.25), 1, i)
        gates.flush()
    assert len(list(tmp_path.glob("gate-*.log"))) == 1
    assert sum(file.read_bytes().count(b"\n") for file in tmp_path.glob("gate-*.log")) < 60
    assert gates.at("mean_loss", 0.25).counts.decisions == 180


def test_questions_that_were_open_are_over_when_it_is_read_again(tmp_path):
    gates = Gates(KIND, tmp_path)
    level = gates.at("mean_loss", 0.25)
    level.begin("open")
    level(1.0, question="open", sample=0, turn=0)
    gates.flush()
    gates._lock.release()
    again = Gates(KIND, tmp_path).at("mean_loss", 0.25)
    assert again.idle
    assert not again.gate.holds("open")
    assert again.counts.rate.n == 1


def test_every_alpha_and_score_has_a_gate_and_the_oldest_idle_one_goes():
    gates = Gates(KIND)
    first = gates.at("mean_loss", 0.25)
    kept = gates.at("mean_loss", 0.5)
    kept.begin("q")
    for i in range(40):
        gates.at("mean_loss", 0.3 + i / 1000)
    assert len(gates.levels) == module.MOST
    assert first in gates.levels
    assert kept in gates.levels  # somebody asks it
    assert gates.at("other", 0.25) is not first


def test_a_card_fills_the_gate_of_its_score_alone():
    gates = Gates(Kind("adaptive-turn", 0.25, card=CARD))
    assert gates.at("mean_loss", 0.3).scores == 29
    assert gates.at("max_loss", 0.25).scores == 0


def test_what_is_remembered_of_questions_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "QUESTIONS", 10)
    level = Gates(KIND).at("mean_loss", 0.25)
    decide(level, 50)
    assert len(level.counts.recent) == 10
    assert not level.counts.open
    assert level.counts.rate.n == 30
    assert level.counts.decisions == 150
    low, high = level.counts.rate.interval()
    assert low <= level.counts.rate.realised <= high


def test_a_state_of_another_set_up_is_refused_by_what_differs(tmp_path):
    Gates(KIND, tmp_path).close()
    with pytest.raises(ConfigError, match="gate 'adaptive-turn', now 'marginal'"):
        Gates(Kind("marginal", 0.25), tmp_path)


def test_a_folder_is_one_servers(tmp_path):
    gates = Gates(KIND, tmp_path)
    with pytest.raises(ConfigError, match="another folder"):
        Gates(KIND, tmp_path)
    gates.close()
    Gates(KIND, tmp_path)


def test_a_damaged_state_is_refused(tmp_path):
    (tmp_path / "gate.json").write_text("{}")
    with pytest.raises(ConfigError, match="move the folder away"):
        Gates(KIND, tmp_path)


def test_a_full_disk_ends_no_request_and_loses_nothing_once_there_is_room(tmp_path):
    gates = Gates(KIND, tmp_path)
    level, journal = gates.at("mean_loss", 0.25), gates._journal
    with open("/dev/full", "wb", buffering=0) as full:
        gates._journal = full
        for i in range(10):
            decide(level, 50, 50 * i)
            gates.flush()
    gates._journal = journal
    gates.flush()
    gates._lock.release()
    assert state(Gates(KIND, tmp_path)) == state(gates)


def test_what_waits_for_a_full_disk_does_not_grow_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "JOURNAL", 50)
    gates = Gates(KIND, tmp_path)
    monkeypatch.setattr(module, "replace", lambda path, data: (_ for _ in ()).throw(OSError(28, "No space left")))
    for i in range(100):
        decide(gates.at("mean_loss", 0.25), 1, i)
        gates.flush()
    assert gates._unwritten.count(b"\n") <= 50


def test_an_end_whose_beginning_is_not_on_record_is_no_damage(tmp_path):
    gates = Gates(KIND, tmp_path)
    mine = gates.at("mean_loss", 0.5)
    for i in range(40):
        gates.at("mean_loss", 0.3 + i / 1000)
    mine.begin("q")  # of a gate that made room for others before it was asked
    gates.save()
    mine.end("q")
    gates.flush()
    gates._lock.release()
    assert Gates(KIND, tmp_path).at("mean_loss", 0.5).idle


def test_a_disk_that_takes_no_state_ends_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "JOURNAL", 1)
    gates = Gates(KIND, tmp_path)

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "replace", full)
    decide(gates.at("mean_loss", 0.25), 1)
    gates.flush()
    assert "No space left" in caplog.text
    assert gates.at("mean_loss", 0.25).counts.decisions == 3
