"""`a1 serve`: options that cannot be are refused before a runtime is asked."""

import pytest

KEY = "k" * 24


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tls-cert", "c.pem"], "go together"),
        (["--host", "0.0.0.0"], "there is no key"),
        (["--host", "0.0.0.0", "--allow-host", "a.example"], "there is no key"),
        (["--pocket-task", "chain"], "without --pocket"),
        (["--pocket", "--pocket-task", "maths"], "there are pocket pairs of chain, stories"),
        (["--alarm-threshold", "10"], "without --alarm"),
        (["--allow-mismatch", "x"], "without --calibration"),
        (["--keys", "none.yaml"], "none.yaml cannot be read"),
        (["--defaults", "none.yaml"], "none.yaml cannot be read"),
        (["--calibration", "none.json"], "does not exist"),
        (["--gate", "audited"], "nobody audits them"),
        (["--gate", "turn-budget"], "there are balanced"),
        (["--alarm", "shout"], "--alarm is warn"),
        (["--reasoning", "deep"], "--reasoning is think, open or none"),
        (["--max-requests", "0"], "requests must be above 0"),
        (["--grace", "-1"], "at least 0 s"),
        (["--pocket", "--draft", "http://127.0.0.1:1"], "leave --draft, --target and --verifier out"),
        (["--port", "99999"], "--port"),
    ],
)
def test_what_cannot_be_is_refused(here, options, said):
    done = here("serve", *options)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize("options", [["--gate", "frozen"], ["--tool-parser", "mine"], ["--alpha", "2"]])
def test_what_the_runtimes_do_not_fit_is_refused(here, fakes, options):
    done = here("serve", "--port", "0", *options)
    assert done.returncode == 2, done.stderr


def test_it_serves_until_it_is_interrupted_and_keeps_the_gate(here, fakes, monkeypatch, tmp_path):
    import httpx

    from a1_sgl.serve.running import Running

    said = []

    def wait(self):
        headers = {"Authorization": f"Bearer {KEY}"}
        asked = {"model": "a1", "messages": [{"role": "user", "content": "Start with 3. Add 4. What is the result?"}]}
        said.append(httpx.post(f"{self.url}/v1/chat/completions", json=asked, headers=headers, timeout=60).json())
        said.append(httpx.get(f"{self.url}/v1/models").status_code)
        raise KeyboardInterrupt

    monkeypatch.setattr(Running, "wait", wait)
    monkeypatch.setenv("A1_SERVE_KEYS", KEY)
    done = here("serve", "--port", "0", "--gate-state", tmp_path / "kept")
    assert done.returncode == 0, done.stderr
    assert "\\boxed{7}" in said[0]["choices"][0]["message"]["content"]
    assert said[1] == 401
    assert "stopped; the gate is saved" in done.stdout
    assert KEY not in done.stdout + done.stderr
    assert (tmp_path / "kept" / "gate.json").exists()
