import contextlib
import json
import re
import shutil

import pytest

from a1_sgl.conformal import SCORES, Screening
from a1_sgl.conformal.gate import UNSEEN
from a1_sgl.errors import ConfigError
from a1_sgl.evals.browser import browsed
from a1_sgl.evals.metrics import missing, summarise
from a1_sgl.evals.page.write import as_json, save
from a1_sgl.evals.report import _timeline, costs, front, label, labelled, write
from a1_sgl.evals.runner import evaluate
from a1_sgl.records import Recorder, RunFolder
from a1_sgl.types import AuditEvent, ChunkEvent, Grade, LostEvent, RatingEvent, VerdictEvent, calls_of

from . import storytellers
from .made import CONFIGURATION, call, run, written
from .test_audits import plan

ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>&amp;\u2028"


@pytest.fixture
def page(tmp_path):
    first = run(tmp_path / "a", [["1", "1"], ["1", "2"], ["2", "2"]], ask=f"Which? {ATTACK}")
    second = run(tmp_path / "b", [["1", "1"], ["1", "1"], [ATTACK, "2"]], text=f"It is {{}} {ATTACK}")
    written = write(tmp_path / "out" / "report.html", {"one": first, f"two {ATTACK}": second})
    assert {path.suffix for path in written} == {".html", ".png"}
    assert all(path.stat().st_size > 5000 for path in written)
    assert all(path.name.startswith("report-") for path in written[1:])  # so that pages in one folder have their own
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


def test_a_run_that_was_stopped_says_so(tmp_path):
    whole = run(tmp_path / "a", [["1", "1"]])
    stopped = run(tmp_path / "b", [["1"], ["1", "2"], []], gate={"alpha": 0.4})
    assert [missing(summarise(folder)) for folder in (whole, stopped)] == [0, 3]
    text = write(tmp_path / "report.html", {"a": whole, "b": stopped})[0].read_text()
    assert text.count(" is 3 chains short of its end, and brief chains end first: ") == 1


@pytest.mark.parametrize(("sessions", "shown"), [([100.0], "run"), ([100.0, 900.0], "run, session 1 of 2")])
def test_a_timeline_is_of_the_last_session_that_asked_for_anything(tmp_path, sessions, shown):
    """The same command on a finished run opens another session, in which nothing happens."""
    folder = run(tmp_path / "a", [["1", "1"]])
    calls = calls_of(folder.events)
    begun = min(one.started for one in calls) - 1
    folder.run["sessions"] = [begun, max(one.ended for one in calls) + 1][: len(sessions)]
    (axes,) = _timeline("run", folder, False).axes
    assert axes.lines
    assert axes.get_legend().get_title().get_text() == shown


def test_json_cannot_end_its_element():
    assert json.loads(as_json({"a": ATTACK})) == {"a": ATTACK}
    assert not set("<>&\u2028") & set(as_json(ATTACK))


@contextlib.contextmanager
def opened(page, *shapes):
    """The page in a browser without a network, in each shape; nothing is said on the console."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium on the PATH")
    from playwright.sync_api import sync_playwright

    def tabs():
        for width, scheme in shapes:
            tab = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True)
            said = []
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.goto(page.as_uri())
            yield tab
            assert said == []

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield tabs()
        browser.close()


SHAPES = (1280, "light"), (390, "dark")


def test_the_page_in_a_browser(page):
    with opened(page, *SHAPES) as tabs:
        for tab in tabs:
            width = tab.viewport_size["width"]
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


@pytest.fixture
def three(tmp_path):
    """Runs of two tasks that agree and disagree."""
    runs = {
        "a": run(tmp_path / "a", [["1", "1"], ["1", "2"], ["2", "2"]], text="It is\n{}", score="llr"),
        "b": run(tmp_path / "b", [["1", "1"], ["2", "2"], ["3", "3"]], program="direct", runtime="target", gate=None),
        "c": run(tmp_path / "c", [["1"]], task="stories", split="dev", chains=1, ask="Other?", program="x/mine.py:go"),
    }
    return write(tmp_path / "report.html", runs)[0]


def test_runs_stand_side_by_side_and_links_open_chains(three):
    with opened(three, *SHAPES) as tabs:
        for tab in tabs:
            width, view = tab.viewport_size["width"], tab.locator("#view")
            # the headline table fits, and on a phone it is a column of figures beside their names
            for table in tab.locator(".scroll").all():
                assert table.evaluate("one => one.scrollWidth - one.clientWidth") <= (0 if width == 1280 else 120)
            tab.select_option("#run", "3")
            assert tab.locator("#count").inner_text() == "4 of 4 questions."
            assert view.locator("section").count() == 2
            assert view.locator("h3").all_inner_texts() == ["a1 (alpha 0.25, chain)", "direct (target alone, chain)"]
            tops = view.locator("section").evaluate_all("all => all.map(one => one.getBoundingClientRect().top)")
            assert (tops[0] == tops[1]) == (width == 1280)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            tab.select_option("#which", "apart")
            assert tab.locator("#question option").all_inner_texts() == ["q1: What?", "q2: What?"]
            # a link of a chain leads to it, whatever is filtered
            tab.select_option("#question", "1")
            href = view.locator("section").nth(1).locator("article a").nth(1).get_attribute("href")
            assert href == "#q=q2&run=3&sample=1&of=1"
            tab.fill("#search", "no such words")
            tab.evaluate("href => { location.hash = href }", href)
            tab.wait_for_function("document.activeElement.id === 'chain-1-1'")
            assert tab.locator("#search").input_value() == ""
            tab.goto(f"{three.as_uri()}#q=q1&sample=1")
            tab.wait_for_function("document.activeElement.id === 'chain-0-1'")
            assert tab.locator("#run").input_value() == "0"
            assert "chain 1: 2 (wrong)" in tab.locator(":focus").inner_text()
            tab.goto(f"{three.as_uri()}#q=q9")
            tab.wait_for_function("document.getElementById('view').innerText.includes('q9 is not in this page')")
            # axes of the cost can be chosen with the keyboard, and the figure that suits the page is shown
            shown = "all => all.filter(one => one.checkVisibility()).map(one => [one.alt, one.currentSrc.length])"
            assert [alt for alt, _ in tab.locator("fieldset img").evaluate_all(shown)] == [
                "accuracy against cost, target tokens"
            ]
            tab.locator("fieldset input:checked").focus()
            tab.keyboard.press("ArrowRight")
            ((alt, length),) = tab.locator("fieldset img").evaluate_all(shown)
            assert alt == "accuracy against cost, FLOPs"
            narrow = tab.locator("fieldset source").nth(1).evaluate("one => one.srcset.length")
            assert (length == narrow) == (width == 390)


def test_a_run_without_chains_is_refused(tmp_path):
    folder = RunFolder.open(tmp_path / "run", {"chains": 1}, {})
    with pytest.raises(ConfigError, match="run none has no finished chain"):
        write(tmp_path / "report.html", {"none": folder})


def test_runs_that_are_not_comparable_stand_beside_each_other(tmp_path):
    runs = {"a": run(tmp_path / "a", [["1"]]), "b": run(tmp_path / "b", [["1"]], asked="def")}
    page = write(tmp_path / "report.html", runs)[0].read_text()
    assert "The runs are not compared: " in page
    runs = {name: run(tmp_path / name, [["1"]], chains=1, asked=name) for name in "cd"}
    page = write(tmp_path / "report.html", runs)[0].read_text()
    assert "asked: 1 questions there, 1 here, 1 in both; --allow asked compares those in both; run both" in page


def test_the_page_speaks_of_all_its_runs(three):
    text = three.read_text()
    assert (
        "Task chain, split test, 3 questions, 2 chains each: a1 (alpha 0.25, chain); direct (target alone, chain). "
        "Task stories, split dev, 1 question, 1 chain each: mine.py:go (alpha 0.25, stories)."
    ) in text
    head = re.search(r"<thead>(.*?)</thead>", text, re.S)[1]
    assert re.findall(r"<th[^>]*>(.*?)</th>", head) == [
        "a1 (alpha 0.25, chain)", "direct (target alone, chain)", "mine.py:go (alpha 0.25, stories)"
    ]  # fmt: skip
    assert "<figcaption>timeline 2: direct (target alone, chain)</figcaption>" in text
    assert f"<dt>llr</dt><dd>{SCORES['llr'].about.replace(chr(39), '&#39;')}</dd>" in text
    assert 'class="key dropped"' in text
    assert "key program" not in text  # no program wrote anything


def test_runs_are_named_by_what_they_are():
    a1 = CONFIGURATION | {"gate": {"alpha": 0.25, "kind": "balanced", "first": {"score": "own_loss"}}}
    assert label(a1) == "a1 (alpha 0.25, balanced, first stage own_loss, chain)"
    audited = CONFIGURATION | {"gate": {"alpha": 0.25, "kind": "audited", "audits": {"epsilon": 0.03}}}
    assert label(audited) == "a1 (epsilon 0.03, audited, chain)"
    assert (
        label(CONFIGURATION | {"gate": None, "program": "direct", "runtime": "draft"}) == "direct (draft alone, chain)"
    )


def test_only_runs_that_are_alike_are_told_apart_by_their_folders(tmp_path):
    runs = {name: run(tmp_path / name, [["1"]]) for name in "ab"} | {"c": run(tmp_path / "c", [["1"]], task="t")}
    assert [*labelled(runs)] == ["a1 (alpha 0.25, chain, a)", "a1 (alpha 0.25, chain, b)", "a1 (alpha 0.25, t)"]


def judged(question, sample, answer, at, text):
    """A chain whose first chunk was accepted unseen, the second kept, the third handed over at nearly the same p."""
    *_, end = written(question, sample, answer, at, text)
    name = {"question": question, "sample": sample}

    def chunk(turn, author="draft"):
        return ChunkEvent(**name, turn=turn, author=author, text=f"chunk {turn} ", tokens=3, ended=False, calls=())

    def verdict(turn, p, level, **rest):
        more = {"score": 0.5, "call": call("target", "verify", at)} | rest
        over = p <= level
        return VerdictEvent(
            **name, turn=turn, tokens=3, p_value=p, alpha=level, n=7, take_over=over, replaced=False, **more
        )

    unseen = Screening(score=0.01, p_value=0.9, outcome="accepted")
    losses = (("chunk", 0.25), (" 1", 3.5), (" ", 0.0), ("", 0.125))
    return [
        chunk(0), verdict(0, 1.0, 0.3, score=UNSEEN, call=None, screening=unseen),
        chunk(1), verdict(1, 0.248, 0.2479, audit=True, losses=losses),
        AuditEvent(**name, turn=1, by="rewrite", wrong=True),
        chunk(2), verdict(2, 0.251, 0.26), chunk(2, "target"),
        RatingEvent(**name, by="target", rating=0.5, call=call("draft", "verify", at)),
        end.model_copy(update={"rating": 0.5}),
    ]  # fmt: skip


def test_a_decision_says_what_it_was_made_of(tmp_path):
    gate = {"alpha": 0.25, "kind": "balanced", "alarm": None, "first": {"score": "own_loss", "eta": 0.1, "explore": 5}}
    folder = run(tmp_path / "run", [["1"], ["2"]], write=judged, score="worst_window", chains=1, gate=gate)
    shown = browsed({"run": folder})
    assert shown.keys == [f"{name}: {SCORES[name].about}" for name in ("worst_window", "own_loss")]
    unseen, kept, over, taken = shown.runs[0]["questions"][0]["chains"][0]["chunks"]
    assert (unseen["score"], unseen["stage"]["outcome"]) == (None, "accepted")
    assert (kept["p"], kept["level"], kept["n"], kept["over"], kept["audit"]) == (0.248, 0.2479, 7, False, "wrong")
    assert (over["p"], over["level"], over["over"]) == (0.251, 0.26, True)
    assert (taken["author"], taken["p"], taken["level"]) == ("target", None, None)
    page = write(tmp_path / "report.html", {"run": folder})[0]
    with opened(page, SHAPES[0]) as tabs:
        for tab in tabs:
            lines = tab.locator("article").first.locator(".line").all_inner_texts()
            assert "first stage: own_loss 0.010, p 0.900, accepted" in lines[0]
            assert "level" not in lines[0]
            # as many digits as tell p and level apart
            assert "worst_window 0.500, p 0.248 > level 0.2479 (n\u00a07), highest loss 3.500 at “1”" in lines[1]
            assert "audited: wrong" in lines[1]
            assert "p 0.251 ≤ level 0.26 (n\u00a07)" in lines[2]
            assert "handed\u00a0over" in lines[2]
            assert lines[3].splitlines() == ["target, turn 2:", "chunk 2"]
            assert "loss" not in lines[2]
            tokens = tab.locator("article").first.locator(".token")
            assert tokens.all_inner_texts() == ["chunk", " 1", " ", "∎"]
            shades = tokens.evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
            assert shades[1] != shades[2]
            # a draft that is alone rates itself, whoever ought to have
            assert "draft's rating 0.500" in tab.locator("article h3").first.inner_text()
    assert summarise(folder)["perplexity"] is None


def test_a_program_without_a_score_by_name_has_one_of_its_own(tmp_path):
    folder = run(tmp_path / "run", [["1"]], program="spec_reason", score="mean_loss", gate=None)
    shown = browsed({"run": folder})
    assert shown.runs[0]["score"] == "score"
    assert shown.keys == ["score: what the program itself judges a chunk by"]


def test_what_is_judged_by_a_rating_is_shown_by_it(tmp_path):
    def rated(*named):
        return [
            one.model_copy(update={"rating": 7.25, "score": 1.75}) if isinstance(one, VerdictEvent) else one
            for one in written(*named)
        ]

    shown = browsed({"run": run(tmp_path / "run", [["1"]], write=rated, program="spec_reason", gate=None)})
    assert shown.runs[0]["score"] == "rating"
    assert shown.keys[0].startswith("rating: the target's, from 0 (certainly wrong) to 9 (certainly right)")
    assert shown.runs[0]["questions"][0]["chains"][0]["chunks"][0]["score"] == 7.25


def test_every_failure_is_in_the_page_and_the_rest_as_far_as_there_is_room(tmp_path):
    answers = [["1"], ["1"], ["2"], ["1"], ["1"], ["1"]]
    one = run(tmp_path / "one", answers, chains=1)
    other = run(tmp_path / "other", [*answers[:4], ["3"], ["1"]], chains=1)
    with (
        RunFolder.open(one.path, one.run["configuration"], one.run["environment"]) as folder,
        Recorder(folder) as record,
    ):
        record(LostEvent(question="q5", sample=1, error="it broke"))
    runs = {"one": RunFolder.read(one.path), "other": other}
    whole = browsed(runs)
    assert whole.says == "6 of 6 questions are in this page, 3 with a wrong or lost chain."
    few = browsed(runs, most=0)
    assert few.says.startswith("3 of 6 questions are in this page: all 3 with a wrong or lost chain in any run, and")
    for shown in few.runs:
        assert [q["id"] for q in shown["questions"]] == ["q2", "q4", "q5"]
        assert shown["left_out"] == 3
    lost = few.runs[0]["questions"][2]["chains"][1]
    assert (lost["ending"], lost["note"], lost["correct"]) == ("lost", "it broke", False)
    size = sum(len(json.dumps(q)) for run in whole.runs for q in run["questions"])
    assert 3 < len(browsed(runs, most=size - 10).runs[0]["questions"]) < 6
    assert [q["apart"] for q in whole.runs[0]["questions"]] == [False, False, False, False, True, False]


def test_answers_that_count_as_one_are_no_disagreement(tmp_path):
    def grade(answer, question):
        return Grade(False, "1/2")

    runs = {name: run(tmp_path / name, [[name, "1/2"]], grade=grade) for name in ("0.5", ".50")}
    shown = browsed(runs)
    assert [run["questions"][0]["apart"] for run in shown.runs] == [False, False]
    with opened(write(tmp_path / "report.html", runs)[0], SHAPES[0]) as tabs:
        for tab in tabs:
            tab.select_option("#which", "split")
            assert tab.locator("#count").inner_text() == "0 of 1 questions."


def test_a_stopped_chain_is_no_failure(tmp_path):
    def stopped(*name):
        return [*(events := written(*name))[:-1], events[-1].model_copy(update={"answer": None, "ending": "stopped"})]

    folder = run(tmp_path / "run", [["1", "1"]], write=lambda q, s, *rest: (stopped if s else written)(q, s, *rest))
    assert "0 with a wrong or lost chain" in browsed({"run": folder}).says


def test_costs_are_those_of_a_chain_and_the_front_is_what_nothing_beats(tmp_path):
    folder = run(tmp_path / "run", [["1", "2"], ["1", "1"]])
    summary = summarise(folder)
    found = costs({"run": summary})
    assert [*found] == ["target tokens", "FLOPs", "wall-clock"]
    assert found["target tokens"]["run"][0] == 2 * (9 - 5 + 3)  # of two calls
    assert found["FLOPs"]["run"][0] == 2 * (9000 * 14 + 1000 * 7)
    assert found["wall-clock"]["run"][0] == summary["wall_s"] / 4
    unsized = costs({"run": summary | {"flops": {"all": None}}})
    assert [*unsized] == ["target tokens", "all tokens", "wall-clock"]
    assert unsized["all tokens"]["run"][0] > unsized["target tokens"]["run"][0]
    points = {"dear": (9.0, 0.9), "worse": (5.0, 0.4), "cheap": (1.0, 0.5), "same": (1.0, 0.3), "tie": (10.0, 0.9)}
    assert front({name: (cost, {"mean": mean}) for name, (cost, mean) in points.items()}) == ["cheap", "dear"]


def test_names_with_dollars_and_of_any_length_are_no_formulas(tmp_path):
    runs = {f"$x{i}$ {'very ' * 60}long": run(tmp_path / str(i), [["1"]]) for i in range(2)}
    assert all(path.exists() for path in write(tmp_path / "report.html", runs))


def test_a_figure_is_drawn_for_both_kinds_of_page(tmp_path):
    from a1_sgl.evals.page import swept

    measures = ("overall", "mean_turn_deviation", "mean_question_deviation", "selectivity")
    draw = swept({alpha: {"balanced": dict.fromkeys(measures, alpha)} for alpha in (0.1, 0.2)})
    wide, narrow = draw(False), draw(True)
    for figure in (wide, narrow):
        figure.draw_without_rendering()
    assert len({axes.get_position().x0 for axes in wide.axes}) == 2
    assert len({axes.get_subplotspec().colspan.start for axes in narrow.axes}) == 1
    assert narrow.get_figwidth() * 100 < 390  # points of its text are those of the page
    assert max(axes.get_tightbbox().x1 for axes in narrow.axes) <= narrow.bbox.width + 1
    page = save(tmp_path / "report.html", "Replay", "", [], {"sweep": draw})[0].read_text()
    assert page.count('<source media="(max-width: 40rem)"') == 1


@pytest.mark.parametrize("program", ["a1", "a1_sync"])
def test_losses_of_tokens_are_recorded_where_they_are_asked_for(tmp_path, program):
    for losses in (False, True):
        asked = {"gate_kind": "adaptive-turn", "epsilon": None, "audit_rate": None, "questions": 2, "program": program}
        made = plan(**asked, losses=losses)
        folder, _ = evaluate(made, storytellers.pair(), tmp_path / str(losses))
        written = {
            (e.question, e.sample, e.turn): e for e in folder.events if isinstance(e, ChunkEvent) if e.author == "draft"
        }
        verdicts = [event for event in RunFolder.read(folder.path).events if isinstance(event, VerdictEvent)]
        assert verdicts
        for verdict in verdicts:
            if not losses:
                assert verdict.losses is None
                continue
            chunk = written[verdict.question, verdict.sample, verdict.turn]
            assert "".join(piece for piece, _ in verdict.losses) == chunk.text
            assert len(verdict.losses) == verdict.tokens
            if program == "a1":  # its score is their mean
                mean = sum(loss for _, loss in verdict.losses) / verdict.tokens
                assert verdict.score == pytest.approx(mean, abs=1e-4)
    assert RunFolder.read(tmp_path / "True").run["fingerprint"] == RunFolder.read(tmp_path / "False").run["fingerprint"]
