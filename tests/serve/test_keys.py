"""Who may ask, and how much."""

import logging

import pytest

from a1_sgl.errors import ConfigError
from a1_sgl.serve.keys import Entry, Keys, Owner
from a1_sgl.serve.refusals import Refusal
from a1_sgl.testing import FakeEngine

from .conftest import steps, until

KEY, OTHER = "k" * 24, "o" * 24


def test_without_keys_everybody_is_one_owner():
    keys = Keys()
    assert keys.open
    assert keys.owner(None) is keys.owner("Bearer whatever")


@pytest.mark.parametrize("header", [None, "", "Bearer", f"Bearer {KEY}x", f"Basic {KEY}", KEY, "Bearer ü"])
def test_what_is_no_key_is_refused(header):
    with pytest.raises(Refusal) as refused:
        Keys([Entry(name="a", key=KEY)]).owner(header)
    assert refused.value.status == 401


def test_all_keys_are_compared_in_constant_time(monkeypatch):
    """A comparison that ends at the first that fits, or at the first character that does not, tells where it is."""
    from a1_sgl.serve import keys as module

    compared = []
    original = module.hmac.compare_digest
    monkeypatch.setattr(module.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or original(a, b))
    keys = Keys([Entry(name="a", key=KEY), Entry(name="b", key=OTHER)])
    assert keys.owner(f"bearer {KEY}").name == "a"
    assert len(compared) == 2
    assert all(len(a) == len(b) == 32 for a, b in compared)  # hashes, which have one length


def test_a_rate_is_a_burst_and_then_evenly():
    now = [0.0]
    owner = Owner("a", per_minute=2, clock=lambda: now[0])
    owner.check()
    owner.check()
    with pytest.raises(Refusal) as refused:
        owner.check()
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "30"})
    now[0] = 31
    owner.check()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- {name: a, key: short}", "16 printable"),
        (f"- {{name: a, key: {KEY}}}\n- {{name: a, key: {OTHER}}}", "twice"),
        (f"- {{name: a, key: {KEY}}}\n- {{name: b, key: {KEY}}}", "twice"),
        (f"- {{name: a, key: {KEY}, per_minute: 0}}", "per_minute"),
        (f"- {{name: a, key: {KEY}, what: 1}}", "what"),
        ("[]", "no key"),
        (f"- {{name: a, key: [{KEY}]}}", "key"),
        ("a: b: c", "no YAML"),
    ],
)
def test_a_keys_file_that_cannot_be_used_is_refused_and_says_no_key(tmp_path, content, said):
    file = tmp_path / "keys.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=said) as refused:
        Keys.load(file)
    assert KEY not in str(refused.value)


def test_keys_of_the_environment(tmp_path):
    keys = Keys.load(None, f"{KEY}, {OTHER}")
    assert keys.owner(f"Bearer {OTHER}").name == "environment-2"


def test_a_key_is_wanted_and_never_logged(serving, caplog):
    caplog.set_level(logging.DEBUG)
    server = serving(keys=Keys([Entry(name="alice", key=KEY)]))
    for path in ("/v1/models", "/metrics"):
        assert server.http.get(path).status_code == 401
        assert server.http.get(path, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    answer = server.post(headers={"Authorization": "Bearer wrong-wrong-wrong"})
    assert answer.json()["error"]["type"] == "authentication_error"
    assert server.post(headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert server.http.get("/health").status_code == server.http.get("/ready").status_code == 200
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert KEY not in "\n".join(ours)
    assert KEY not in repr(server.service.keys.__dict__)


def test_a_key_has_so_many_at_once(serving, aside):
    slow = FakeEngine(steps, name="draft", model="d", delay=lambda call: 1.0 if call.kind == "generate" else 0)
    server = serving(slow, keys=Keys([Entry(name="a", key=KEY, at_once=1), Entry(name="b", key=OTHER)]))
    mine, theirs = ({"Authorization": f"Bearer {key}"} for key in (KEY, OTHER))
    first = aside(server.post, headers=mine)
    until(lambda: server.service.jobs)
    assert server.post(headers=mine).json()["error"]["code"] == "too_many_at_once"
    assert server.post(headers=theirs).status_code == 200
    assert first().status_code == 200
    assert server.post(headers=mine).status_code == 200


def test_one_keys_idempotency_keys_are_not_anothers(serving):
    server = serving(keys=Keys([Entry(name="a", key=KEY), Entry(name="b", key=OTHER)]))
    said = [
        server.post(headers={"Authorization": f"Bearer {key}", "Idempotency-Key": "same"}).json()["id"]
        for key in (KEY, OTHER)
    ]
    assert said[0] != said[1]
