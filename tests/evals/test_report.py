import json
import re
import shutil

import pytest

from a1_sgl.errors import ConfigError
from a1_sgl.evals.page.write import as_json
from a1_sgl.evals.report import write
from a1_sgl.records import RunFolder

from .made import run

ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>&amp;\u2028"


@pytest.fixture
def page(tmp_path):
    first = run(tmp_path / "a", [["1", "1"], ["1", "2"], ["2", "2"]], ask=f"Which? {ATTACK}")
    second = run(tmp_path / "b", [["1", "1"], ["1", "1"], [ATTACK, "2"]], text=f"It is {{}} {ATTACK}")
    written = write(tmp_path / "out" / "report.html", {"one": first, f"two {ATTACK}": second})
    assert {path.suffix for path in written} == {".html", ".png"}
    assert all(path.stat().st_size > 5000 for path in written)
    return written[0]


def test_the_page_needs_no_network_and_escapes_what_models_wrote(page):
    text = page.read_text()
    sources = re.findall(r'<\w[^>]*\b(?:src|href)="([^"]*)"', text)
    assert len(sources) > 3
    assert all(source.startswith("data:") for source in sources)
    assert "@import" not in text
    assert "url(" not in text
    assert text.count("<script") == 2
    assert "window.hacked = 1</script>" not in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1]
    runs = json.loads(data)
    assert runs[0]["questions"][0]["text"] == f"Which? {ATTACK}"
    chunks = runs[1]["questions"][0]["chains"][0]["chunks"]
    assert [(c["author"], c["dropped"], c["over"], c["p"]) for c in chunks] == [
        ("draft", "replaced", True, 0.1), ("target", None, False, None),
    ]  # fmt: skip


def test_json_cannot_end_its_element():
    assert json.loads(as_json({"a": ATTACK})) == {"a": ATTACK}
    assert not set("<>&\u2028") & set(as_json(ATTACK))


def test_the_page_in_a_browser(page):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width, scheme in ((1280, "light"), (390, "dark")):
            tab = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True)
            said = []
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.goto(page.as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth") <= width  # wide tables scroll by themselves
            assert tab.locator("#count").inner_text() == "3 of 3 questions."
            assert ATTACK.split("<img")[0] in tab.locator(".ask").inner_text()
            tab.select_option("#which", "wrong")
            assert tab.locator("#count").inner_text() == "2 of 3 questions."
            tab.select_option("#which", "split")
            assert tab.locator("#question option").count() == 1
            assert "2 (wrong)" in tab.locator("#view").inner_text()
            tab.select_option("#which", "all")
            tab.select_option("#run", "1")
            tab.fill("#search", "no such words")
            assert "No question passes" in tab.locator("#view").inner_text()
            tab.fill("#search", "")
            tab.select_option("#question", "0")
            tab.locator("h1").click()
            tab.keyboard.press("ArrowRight")
            assert tab.locator("#question").input_value() == "1"
            tab.keyboard.press("ArrowLeft")
            assert tab.locator("#question").input_value() == "0"
            assert tab.locator(".chunk.dropped").count() == 2
            assert tab.evaluate("window.hacked") is None
            assert said == []
        browser.close()


def test_a_run_without_chains_is_refused(tmp_path):
    folder = RunFolder.open(tmp_path / "run", {"chains": 1}, {})
    with pytest.raises(ConfigError, match="run none has no finished chain"):
        write(tmp_path / "report.html", {"none": folder})


def test_runs_that_are_not_comparable_stand_beside_each_other(tmp_path):
    runs = {"a": run(tmp_path / "a", [["1"]]), "b": run(tmp_path / "b", [["1"]], asked="def")}
    page = write(tmp_path / "report.html", runs)[0].read_text()
    assert "The runs are not compared" in page
