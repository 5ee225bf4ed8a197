"""What was launched is found by role."""

import psutil
import pytest

from a1_sgl.cli.runtimes import Runtimes
from a1_sgl.errors import ConfigError
from a1_sgl.launch.runtimes import Running
from a1_sgl.launch.state import State


def runtimes(folder, **given):
    return Runtimes(given, folder, 64, None, 1.0, 1.0, None, None, None, False)


@pytest.fixture
def launched(tmp_path):
    """Two targets, a draft and a verifier, all of this process, and one that is dead."""
    me = psutil.Process()
    alive = [("draft", "draft"), ("target-0", "target"), ("target-1", "target"), ("verifier", "verifier")]
    state = [Running(name, "m", f"http://{name}", me.pid, me.create_time(), "log", role) for name, role in alive]
    State(tmp_path).write([*state, Running("target-2", "m", "http://dead", me.pid, 0.0, "log", "target")])
    return tmp_path


def test_several_runtimes_of_one_role_are_a_fleet(launched):
    found = runtimes(launched).urls(("draft", "target"))
    assert found == {"draft": ["http://draft"], "target": ["http://target-0", "http://target-1"]}


def test_a_url_that_is_given_goes_before_what_was_launched(launched):
    assert runtimes(launched, target=["http://mine"]).urls(("target",)) == {"target": ["http://mine"]}


@pytest.mark.parametrize(("given", "verifier"), [({}, ["http://verifier"]), ({"draft": ["http://mine"]}, None)])
def test_a_launched_verifier_is_that_of_the_launched_pair(given, verifier, launched, monkeypatch):
    seen = {}

    class Connected:
        def __init__(self, *urls, verifier=None, **settings):
            seen["verifier"] = verifier

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    monkeypatch.setattr("a1_sgl.session.Backend.connect", Connected)
    with runtimes(launched, **given).connect(None):
        assert seen["verifier"] == verifier


def test_what_was_not_launched_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no draft and no target runtime is launched here"):
        runtimes(tmp_path).urls(("draft", "target"))
