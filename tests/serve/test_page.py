"""The live page: what it is told, what it shows in a browser, and what it keeps to itself."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import SecretStr

from a1_sgl.conformal.rates import exact_interval
from a1_sgl.engine import Settings as Speaking
from a1_sgl.engine import submit, wait
from a1_sgl.engine.protocol import Load
from a1_sgl.engine.scope import Scope
from a1_sgl.engine.transport import Transport
from a1_sgl.errors import ChainAborted
from a1_sgl.serve import page
from a1_sgl.serve.gate import Kind
from a1_sgl.serve.keys import Entry, Keys
from a1_sgl.serve.metrics import FIRST
from a1_sgl.serve.recent import CHAINS, CHUNKS, OPEN, WINDOW, Recent
from a1_sgl.testing import FakeEngine
from a1_sgl.types import Call, ChainEvent, ChunkEvent, DropEvent, LostEvent, VerdictEvent

from .conftest import steps, until

ATTACK = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
SHAPES = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
KEY = "a-key-of-sixteen-and-more"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """What is told is what is, to the moment."""
    monkeypatch.setattr(page, "FRESH", 0.0)


# --- what it is told ----------------------------------------------------------------------------------------------


def test_what_is_told_is_what_the_gate_and_the_metrics_say(serving):
    server = serving(alpha=0.4, kind=Kind("adaptive-turn", 0.4, alarm="warn"))
    for i in range(4):
        assert server.post(seed=i).status_code == 200
    server.lines()
    server.post(messages=[{"role": "user", "content": "q"}], model="a1", a1={"alpha": 0.2})
    assert server.post(model="nobody").status_code == 404
    told = server.http.get("/live").json()
    (first, second), level = told["gates"], server.service.gates.levels[0]
    assert (first["alpha"], second["alpha"]) == (0.4, 0.2)
    assert (first["rate"], first["low"], first["high"]) == tuple(
        level.shown()[name] for name in ("rate", "low", "high")
    )
    assert first["questions"] == 5
    assert first["all_decisions"] == sum(one["decisions"] for one in first["turns"]) > 0
    for one in first["turns"]:
        assert (one["low"], one["high"]) == exact_interval(one["take_overs"], one["decisions"])
    assert first["alarm"] | {"log_wealth": 0} == {
        "action": "warn", "count": 0, "handing_over": False, "log_wealth": 0, "threshold": 100.0, "watched": 0,
    }  # fmt: skip
    assert told["certificate"] is None
    assert told["requests"] == {"200": 6, "404": 1}
    assert told["first_token"]["streams"] == 1
    assert told["first_token"]["p50"] == told["first_token"]["p95"] > 0
    assert [(one["name"], one["roles"], one["up"]) for one in told["runtimes"]] == [
        ("draft", ["draft"], True), ("target", ["target"], True),
    ]  # fmt: skip
    assert told["runtimes"][0]["tokens_a_second"] > 0
    assert len(told["chains"]) == 6


def test_many_pages_cost_as_much_as_one(serving, monkeypatch):
    monkeypatch.setattr(page, "FRESH", 1e9)
    server = serving()
    before = server.http.get("/live").content
    server.post()
    assert server.http.get("/live").content == before


def test_a_threshold_that_is_never_reached_is_told(serving):
    server = serving(kind=Kind("adaptive-turn", 0.4, alarm="warn", threshold=float("inf")))
    assert server.http.get("/live").json()["gates"][0]["alarm"]["threshold"] is None


def test_a_chain_is_told_while_it_is_written_and_how_it_ended(serving, aside):
    server = serving(FakeEngine(steps, name="draft", delay=lambda call: 60.0 * ("39 *" in call.prompt)))
    aside(server.post, a1={"deadline": 3})
    until(lambda: (told := server.http.get("/live").json()["chains"]) and told[0]["chunks"])
    (chain,) = server.http.get("/live").json()["chains"]
    assert (chain["model"], chain["ending"], chain["seconds"]) == ("a1", None, None)
    until(lambda: server.http.get("/live").json()["chains"][0]["ending"] == "aborted")


def test_no_word_of_prompts_and_answers_is_told(serving):
    server = serving(FakeEngine("The secret answer is \\boxed{60}.", name="draft"))
    server.post(messages=[{"role": "user", "content": f"a secret question {ATTACK}"}], user="a secret user")
    text = server.http.get("/live").text
    assert json.loads(text)["chains"]
    assert not re.search(r"secret|hacked|boxed|60\.", text)


def test_what_is_told_wants_a_key_where_there_are_keys(serving):
    server = serving(keys=Keys([Entry(name="somebody", key=SecretStr(KEY))]))
    assert [server.http.get(path).status_code for path in ("/", "/health", "/live")] == [200, 200, 401]
    assert server.http.get("/live", headers={"Authorization": "Bearer another-key-altogether"}).status_code == 401
    told = server.http.get("/live", headers={"Authorization": f"Bearer {KEY}"})
    assert told.status_code == 200
    assert "somebody" not in told.text
    assert server.http.get("/live", params={"key": KEY, "api_key": KEY}).status_code == 401


def test_a_certificate_is_told_without_what_a_path_could_be_in(serving, monkeypatch):
    server = serving()
    certificate = SimpleNamespace(epsilon=0.05, delta=0.1, alphas=(0.3, 0.2))
    standing = SimpleNamespace(
        covered=False, certificate=certificate,
        apart=("models.draft is /somewhere/draft, certified is /elsewhere", "alpha is 0.4, certified is 0.3, 0.2"),
    )  # fmt: skip
    monkeypatch.setattr(server.service, "standing", lambda: standing)
    told = server.http.get("/live")
    assert told.json()["certificate"] == {
        "covered": False, "apart": ["models.draft", "alpha"], "epsilon": 0.05, "delta": 0.1, "alphas": [0.3, 0.2],
    }  # fmt: skip
    assert "somewhere" not in told.text


def test_the_policy_of_the_page_lets_nothing_else_run(serving):
    answer = serving().http.get("/")
    policy = dict(one.split(" ", 1) for one in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert re.fullmatch(r"'sha256-[\w+/=]+'", policy["script-src"])
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "unsafe" not in str(policy)
    assert [one for one in re.findall(r'(?:src|href)="([^"]*)"', answer.text) if one != "data:,"] == []
    assert "http" not in answer.text.replace("http://www.w3.org/2000/svg", "")


# --- what is kept -------------------------------------------------------------------------------------------------


CALL = Call(runtime="draft", role="draft", kind="decode", prompt_tokens=1, cached_tokens=0, completion_tokens=10,
            started=0.0, ended=1.0)  # fmt: skip


def chunk(author, tokens=10, sample=0, question="q", calls=(CALL,)):
    return ChunkEvent(question=question, sample=sample, turn=0, author=author, text="...", tokens=tokens, ended=False,
                      calls=calls)  # fmt: skip


def verdict(take_over):
    return VerdictEvent(question="q", sample=0, turn=0, score=1.0, tokens=10, take_over=take_over, replaced=take_over)


def dropped(author, tokens, calls=()):
    return DropEvent(question="q", sample=0, turn=0, author=author, tokens=tokens, reason="replaced", calls=calls)


def over(question="q", sample=0):
    return ChainEvent(question=question, sample=sample, text="...", answer="1", ending="answered", turns=2,
                      take_overs=1, started=5.0, ended=7.0)  # fmt: skip


def test_a_chunk_that_was_replaced_is_out_and_the_one_in_its_place_is_marked():
    recent = Recent()
    hear = recent.listener("a1", 1)
    for event in (chunk("draft"), verdict(False), chunk("draft", 7), verdict(True), dropped("draft", 7),
                  dropped("draft", 3, (CALL,)), chunk("target", 12), over()):  # fmt: skip
        hear(event)
    (told,) = recent.chains()
    assert told["chunks"] == [["draft", 10, False], ["target", 12, True]]
    assert told["tokens"] == {"draft": 10, "target": 12}
    assert (told["take_overs"], told["dropped"]) == (1, 10)
    assert (told["ending"], told["started"], told["seconds"]) == ("answered", 5.0, 2.0)


def test_a_long_chain_is_kept_by_sums_and_none_of_its_tokens_are_lost():
    recent = Recent()
    hear = recent.listener("a1", 1)
    for i in range(10 * CHUNKS):
        hear(chunk("target" if i % 2 else "draft", 3))
    hear(dropped("draft", 3))
    (told,) = recent.chains()
    assert len(told["chunks"]) == CHUNKS
    assert told["tokens"] == {"draft": 3 * 5 * CHUNKS - 3, "target": 3 * 5 * CHUNKS}


def test_what_is_kept_is_bounded(serving):
    now = 0.0
    recent = Recent(lambda: now)
    for i in range(3 * OPEN):  # none of them is told to have ended
        now += 0.01
        recent.listener("a1", 1)(chunk("draft", question=f"q{i}"))
    assert (len(recent._open), len(recent._over)) == (OPEN, CHAINS)
    for i in range(3 * OPEN):
        now += 1
        for event in (chunk("draft", question=f"r{i}"), over(f"r{i}")):
            recent.listener("a1", 1)(event)
    assert (len(recent._over), len(recent.chains())) == (CHAINS, CHAINS)
    assert len(recent._seconds) <= WINDOW
    assert recent.tokens_a_second() == {"draft": pytest.approx(10.0)}
    now += 10 * WINDOW
    assert recent.tokens_a_second() == {}
    metrics = serving().service.metrics
    for _ in range(2 * FIRST):
        metrics.first(0.1)
    assert len(metrics.first_tokens) == FIRST


def test_chains_that_are_stopped_or_lost_are_over():
    recent = Recent()
    hear = recent.listener("a1", 3)
    for sample in range(3):
        hear(chunk("draft", sample=sample))
    hear(LostEvent(question="q", sample=0, error="..."))
    hear(over(sample=1))
    hear(dropped("draft", 10))  # comes after the end
    recent.over("q")
    assert {one["sample"]: one["ending"] for one in recent.chains()} == {0: "lost", 1: "answered", 2: "aborted"}
    assert not recent._open


def test_a_transport_tells_what_is_under_way_and_what_waits():
    transport = Transport("http://127.0.0.1:9", "nobody", Speaking(in_flight=5))  # the port for what is thrown away
    assert transport.load == Load(0, 0, 5)
    scope = Scope()
    flight = submit(transport.call({"input_ids": np.array([1], np.int32)}, scope, lambda body: body))
    until(lambda: transport.load == Load(0, 1, 5))  # until it is back
    wait(stopped(scope))
    with pytest.raises(ChainAborted):
        flight.result()
    assert transport.load == Load(0, 0, 5)
    wait(transport.close())


async def stopped(scope):
    scope.stop()


# --- what it shows ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs Chromium on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """`opened(url, ...)`: a tab; at the end nothing but what `tab.allowed` matches was said on its console."""
    tabs = []

    def start(url, width=1280, scheme="light", before=lambda tab: None, **more):
        context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, **more)
        tab = context.new_page()
        tab.said, tab.allowed, tab.asked = [], "^$", []
        tab.on("console", lambda message: tab.said.append(message.text))
        tab.on("pageerror", lambda error: tab.said.append(str(error)))
        tab.on("request", lambda request: tab.asked.append(request.url))
        tabs.append(tab)
        before(tab)
        tab.goto(url)
        return tab

    yield start
    for tab in tabs:
        said = [one for one in tab.said if not re.search(tab.allowed, one)]
        tab.context.close()
        assert said == []


@pytest.fixture
def server(serving):
    """One that has answered requests of several kinds, and is idle."""
    scores = lambda before, chunk: -0.1 if "78 =" in chunk or "= 78" in chunk else -2.0  # noqa: E731
    target = FakeEngine(steps, scores=scores, name="target", model="t")
    made = serving(target=target, kind=Kind("adaptive-turn", 0.4, alarm="warn"))
    for i in range(6):
        made.post(seed=i, model="a1" if i % 2 else "a1+majority", a1={"chains": 2} if not i % 2 else {})
    made.lines(model="target")
    made.post(a1={"alpha": 0.2})
    made.post(model="nobody")
    return made


def status(tab, text):
    """Waits until the page says so."""
    tab.locator("#status").filter(has_text=text).wait_for()


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const bright = (colour) => rgba(colour).slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (a, b) => { const [x, y] = [bright(a), bright(b)].sort(); return (y + 0.05) / (x + 0.05); };
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (rgba(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const found = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!one.checkVisibility() || !(own || one.matches(".bar span, .key, .point, .band, #dot"))) continue;
    const style = getComputedStyle(one), drawn = one.namespaceURI.endsWith("svg");
    const colour = one.matches(".band") ? style.stroke : drawn ? style.fill : own ? style.color : style.backgroundColor;
    found.push([ratio(colour, behind(own ? one : one.parentElement)) / (own ? 4.5 : 3), one.outerHTML]);
  }
  return found;
}"""


@pytest.mark.parametrize(("width", "scheme"), SHAPES)
def test_the_page_shows_what_is_told_in_every_shape(server, opened, width, scheme):
    tab = opened(server.url, width, scheme)
    tab.wait_for_selector("#main:not([hidden])")
    told = server.http.get("/live").json()
    tab.click("#turns-details summary")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    wanting = [one for one in tab.evaluate(CONTRAST) if one[0] < 1]
    assert not wanting
    gate, text = told["gates"][0], lambda at: tab.locator(at).inner_text().replace("\u00a0", " ")
    assert text("#rate") == f"{100 * gate['rate']:.1f} %"
    assert text("#against") == "at alpha 40 %"
    assert f"{100 * gate['low']:.1f}\u2013{100 * gate['high']:.1f} %" in text("#interval")
    assert f"of {gate['decisions']} decisions on the last {gate['questions']} questions" in text("#interval")
    rows = [row.inner_text().split("\t") for row in tab.locator("#turn-table tbody tr").all()]
    assert [[cell.replace("\u00a0", " ") for cell in row] for row in rows] == [
        [str(one["turn"]), f"{100 * one['rate']:.1f} %", f"{100 * one['low']:.1f}\u2013{100 * one['high']:.1f} %",
         str(one["take_overs"]), str(one["decisions"])] for one in gate["turns"]
    ]  # fmt: skip
    assert tab.locator("#turns .point").count() == len(gate["turns"])
    assert all(f"turn {one['turn']}: " in tab.locator("#turns desc").text_content() for one in gate["turns"])
    assert "silent" in text("#gate")
    assert [row.inner_text().split("\t")[:4] for row in tab.locator("#runtimes tbody tr").all()] == [
        ["draft", "up", "0", "0"], ["target", "up", "0", "0"],
    ]  # fmt: skip
    assert [row.inner_text().split("\t")[::2] for row in tab.locator("#requests tbody tr").all()] == [
        [status, str(count)] for status, count in told["requests"].items()
    ]
    assert "of the last 1 stream" in text("#now")
    assert tab.locator("#chains li").count() == len(told["chains"])
    for item, chain in zip(tab.locator("#chains li").all(), told["chains"], strict=True):
        said = item.inner_text().replace("\u00a0", " ")
        assert chain["model"] in said
        assert all(f"{author} {count} token" in said for author, count in chain["tokens"].items())
        assert item.locator(".bar span").count() == len(chain["chunks"])
        assert item.locator(".bar .over").count() == sum(one[2] for one in chain["chunks"])
        widths = [one.bounding_box()["width"] for one in item.locator(".bar span").all()]
        shares = [one[1] / sum(chain["tokens"].values()) for one in chain["chunks"]]
        assert widths == pytest.approx([share * sum(widths) for share in shares], abs=1.5)
    assert sum(chain["take_overs"] for chain in told["chains"]) > 0
    tab.select_option("#level", index=1)
    assert text("#against") == "at alpha 20 %"
    assert tab.evaluate("document.getAnimations().length") == 0
    assert {re.sub(r"^https?://[^/]+", "", one) for one in tab.asked} == {"/", "/live"}


@pytest.mark.parametrize("width", [1280, 390])
def test_the_keyboard_reaches_everything_and_leaves_again(server, opened, width):
    tab = opened(server.url, width)
    tab.wait_for_selector("#main:not([hidden])")
    seen = []
    for _ in range(30):
        tab.keyboard.press("Tab")
        found = tab.evaluate("""() => {
          const one = document.activeElement, style = getComputedStyle(one);
          return [one.id || one.getAttribute("aria-label") || one.tagName, style.outlineStyle];
        }""")
        if found[0] == "BODY" or (seen and found[0] == seen[0][0]):
            break
        seen.append(found)
    else:
        pytest.fail("the focus never left the page")
    assert [one[0] for one in seen] == ["pause", "level", "SUMMARY", "Runtimes", "Requests by status"]
    assert {one[1] for one in seen} == {"solid"}
    tab.focus("#turns-details summary")
    tab.keyboard.press("Enter")
    assert tab.locator("#turn-table").is_visible()
    tab.focus("#level")
    tab.keyboard.press("ArrowDown")
    assert tab.locator("#level").input_value().endswith("20\u00a0%")
    asked = len(tab.asked)
    until(lambda: tab.wait_for_timeout(50) or len(tab.asked) > asked + 1)
    assert tab.evaluate("document.activeElement.id") == "level"  # what is shown anew takes no focus away
    tab.focus("#pause")
    tab.keyboard.press("Enter")
    assert "Paused" in tab.locator("#status").inner_text()
    assert tab.locator("#pause").inner_text() == "Go on"


def test_a_hidden_tab_asks_nothing_and_one_that_is_seen_again_asks_at_once(server, opened):
    def before(tab):
        tab.clock.install()
        tab.add_init_script("Object.defineProperty(document, 'hidden', { get: () => window.away === true });")

    tab = opened(server.url, before=before)
    tab.wait_for_selector("#main:not([hidden])")

    def turn(away):
        tab.evaluate(f"window.away = {str(away).lower()}; document.dispatchEvent(new Event('visibilitychange'))")

    asked = len(tab.asked)
    tab.clock.run_for(2500)
    until(lambda: tab.wait_for_timeout(20) or len(tab.asked) > asked)
    tab.wait_for_timeout(300)
    turn(True)
    asked = len(tab.asked)
    tab.clock.run_for(60_000)
    tab.wait_for_timeout(200)
    assert len(tab.asked) == asked
    turn(False)
    until(lambda: tab.wait_for_timeout(20) or len(tab.asked) > asked)


def test_it_says_when_the_server_cannot_be_reached_and_goes_on_when_it_can(server, opened):
    tab = opened(server.url)
    tab.allowed = "net::ERR_FAILED|status of 502"
    tab.wait_for_selector("#main:not([hidden])")
    tab.route("**/live", lambda route: route.abort())
    status(tab, "cannot be reached")
    assert "old" in tab.locator("#status").inner_text()
    assert tab.locator("#rate").is_visible()
    tab.unroute("**/live")
    tab.route("**/live", lambda route: route.fulfill(status=502, body="<b>no JSON</b>"))
    status(tab, "status 502")
    tab.unroute("**/live")
    status(tab, "Live.")


def test_it_says_when_a_runtime_is_down(server, opened):
    server.target.available = False
    tab = opened(server.url)
    status(tab, "not reachable: target")
    assert "down" in tab.locator("#runtimes").inner_text()


def test_an_empty_server_says_so(serving, opened):
    tab = opened(serving(kind=Kind("adaptive-turn", 0.25)).url, 390)
    tab.wait_for_selector("#main:not([hidden])")
    assert "no decision yet" in tab.locator("#rate").inner_text()
    assert "none is set" in tab.locator("#gate").inner_text()
    assert "no stream yet" in tab.locator("#now").inner_text()
    assert tab.locator("#none").is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_it_asks_for_a_key_and_keeps_it_nowhere(serving, opened, width):
    server = serving(keys=Keys([Entry(name="somebody", key=SecretStr(KEY))]))
    tab = opened(server.url, width)
    tab.allowed = "status of 401"
    tab.wait_for_selector("#unlock:not([hidden])")
    assert tab.evaluate("document.activeElement.id") == "key"
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert not [one for one in tab.evaluate(CONTRAST) if one[0] < 1]
    assert not tab.locator("#main").is_visible()
    for wrong, says in (("another-key-altogether", "does not know"), ("schl\u00fcssel", "ASCII")):
        tab.fill("#key", wrong)
        tab.keyboard.press("Enter")
        status(tab, says)
    tab.fill("#key", KEY)
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#main:not([hidden])")
    assert not any(KEY in url for url in [*tab.asked, tab.url])
    kept = tab.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, history.state])")
    assert kept == '[{},{},"",null]'
    assert KEY not in tab.content()
    assert tab.input_value("#key") == ""
    tab.click("#forget")
    assert not tab.locator("#main").is_visible()
    tab.reload()
    tab.wait_for_selector("#unlock:not([hidden])")


def test_nothing_that_is_told_can_run(server, opened):
    """Were any text of it another's, in whatever place."""
    told = server.http.get("/live").json()

    def attacked(one):
        if isinstance(one, dict):
            return {key: attacked(value) for key, value in one.items()}
        if isinstance(one, list):
            return [attacked(value) for value in one]
        return ATTACK if isinstance(one, str) else one

    evil = attacked(told)
    evil["requests"][ATTACK] = 1
    evil["chains"][0]["tokens"] = {ATTACK: 3}
    evil["chains"][0]["later"] = {ATTACK: 3}
    evil["server"]["not_ready"] = ATTACK
    evil["certificate"] = {"covered": False, "apart": [ATTACK], "epsilon": 0.1, "delta": 0.1, "alphas": []}

    def before(tab):
        tab.route("**/live", lambda route: route.fulfill(json=evil))

    tab = opened(server.url, 390, before=before)
    tab.wait_for_selector("#main:not([hidden])")
    assert ATTACK in tab.locator("#chains").inner_text()
    assert ATTACK in tab.locator("#status").inner_text()
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("main img, main script").count() == 0
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_script_from_elsewhere_does_not_run(server, opened):
    tab = opened(server.url)
    tab.allowed = "Content Security Policy|Trusted"
    tab.evaluate("""() => {
      const one = document.createElement("script");
      try { one.textContent = "window.hacked = 1"; } catch {}
      document.body.append(one);
    }""")
    tab.evaluate("() => { try { document.body.innerHTML += '<img src=x onerror=\"window.hacked = 1\">' } catch {} }")
    tab.wait_for_timeout(200)
    assert tab.evaluate("window.hacked") is None
    assert any("Content Security Policy" in one or "Trusted" in one for one in tab.said)
