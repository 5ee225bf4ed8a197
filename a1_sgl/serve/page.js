// Whatever the server tells only ever becomes textContent, an attribute that cannot run, or a number.
const EVERY = 2000, SLOWEST = 15000, PATIENCE = 10000;
const at = (id) => document.getElementById(id);
const make = (tag, kind, text) => {
  const one = document.createElement(tag);
  if (kind) one.className = kind;
  if (text !== undefined) one.textContent = text;
  return one;
};
const draw = (tag, attributes, text) => {
  const one = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
  if (text !== undefined) one.textContent = text;
  return one;
};
// What has not changed is left alone, so that nothing is read out again and no selection is lost.
const write = (one, text) => { if (one.textContent !== text) one.textContent = text; };

const whole = (n) => Number(n).toLocaleString("en");
const percent = (share) => (100 * share).toFixed(1) + "\u00a0%";
const level = (alpha) => String(Number((100 * alpha).toPrecision(6))) + "\u00a0%";
const between = (low, high) => (100 * low).toFixed(1) + "\u2013" + (100 * high).toFixed(1) + "\u00a0%";
const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString([], { hourCycle: "h23" });
const lasted = (s) => s < 10 ? s.toFixed(2) + "\u00a0s" : s < 120 ? s.toFixed(0) + "\u00a0s"
  : s < 7200 ? (s / 60).toFixed(0) + "\u00a0min" : (s / 3600).toFixed(1) + "\u00a0h";
const some = (n, one, more) => whole(n) + "\u00a0" + (n === 1 ? one : more ?? one + "s");

let told = null, key = null, chosen = null, timer = null, failures = 0, paused = false, asking = null, round = 0;

// --- asking ---------------------------------------------------------------------------------------------------

function say(text, kind) {
  write(at("status"), text);
  at("status").className = kind === "bad" ? "bad" : "";
  at("dot").className = kind;
}

function later(wait) {
  clearTimeout(timer);
  timer = paused || document.hidden ? null : setTimeout(ask, wait);
}

async function ask() {
  clearTimeout(timer);
  if (asking) return;
  const mine = ++round, limit = setTimeout(() => asking?.abort(), PATIENCE);
  asking = new AbortController();
  let answer = null, found = null;
  try {
    answer = await fetch("live", {
      headers: key === null ? {} : { Authorization: "Bearer " + key }, signal: asking.signal, cache: "no-store",
      credentials: "omit", referrerPolicy: "no-referrer",
    });
    if (answer.ok) found = await answer.json();
  } catch {
    found = null;
  } finally {
    clearTimeout(limit);
    if (mine === round) asking = null;
  }
  if (mine !== round) return;  // the key was forgotten meanwhile
  if (answer?.status === 401) return locked();
  if (found === null) return failed(answer);
  failures = 0;
  told = found;
  at("unlock").hidden = true;
  at("main").hidden = false;
  at("pause").hidden = false;
  at("forget").hidden = key === null;
  standing();
  show();
  later(EVERY);
}

// How the server is; said only when that changes.
function standing() {
  if (paused) return say("Paused; the numbers stand still.", "");
  if (told.server.not_ready) return say("The server takes no requests: " + told.server.not_ready + ".", "bad");
  say("Live.", "good");
}

function failed(answer) {
  failures += 1;
  const wait = Math.min(SLOWEST, EVERY * 2 ** Math.min(failures - 1, 4));
  const how = answer && !answer.ok ? "The server answers with status " + answer.status + "." : "The server cannot be reached.";
  say(how + (told ? " What is shown is old." : "") + " Trying again.", "bad");
  later(wait);
}

function locked() {
  at("main").hidden = true;
  at("pause").hidden = at("forget").hidden = true;
  const wrong = key !== null;
  told = key = null;
  write(at("as-of"), "");
  say(wrong ? "The server does not know that key." : "The server wants a key.", wrong ? "bad" : "");
  const before = at("unlock").hidden;
  at("unlock").hidden = false;
  if (before || wrong) at("key").focus();
}

at("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = at("key").value.trim();
  at("key").value = "";
  if (!/^[\x21-\x7e]+$/.test(given)) {
    say("A key has letters, digits and signs of ASCII, and no spaces.", "bad");
    return;
  }
  key = given;
  say("Asking the server\u2026", "");
  ask();
});
at("forget").addEventListener("click", () => {
  clearTimeout(timer);
  round += 1;
  asking?.abort();
  asking = key = null;
  locked();
});
at("pause").addEventListener("click", () => {
  paused = !paused;
  at("pause").textContent = paused ? "Go on" : "Pause";
  if (paused) {
    clearTimeout(timer);
    standing();
  } else {
    ask();
  }
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else if (!paused && at("unlock").hidden) ask();
});
at("level").addEventListener("change", () => {
  chosen = at("level").value;
  show();
});
new ResizeObserver(() => told && charts()).observe(at("plot"));

// --- showing --------------------------------------------------------------------------------------------------

const named = (gate) => gate.score + ", alpha " + level(gate.alpha);
const now = () => told.gates.find((gate) => named(gate) === chosen) ?? told.gates[0];

function show() {
  const server = told.server;
  write(at("about"), "Version " + server.version + ", since " + new Date(1000 * server.since).toLocaleString([], { hourCycle: "h23" }) + ".");
  write(at("as-of"), "As of " + clock(server.now) + ".");
  choose();
  gate(now());
  charts();
  turns(now());
  runtimes();
  requests();
  chains();
}

function choose() {
  const names = told.gates.map(named);
  at("choose").hidden = names.length < 2;
  if (names.join("\n") !== [...at("level").options].map((one) => one.value).join("\n")) {
    at("level").replaceChildren(...names.map((name, i) => {
      const one = make("option", "", name + (i ? "" : " (default)"));
      one.value = name;
      return one;
    }));
  }
  at("level").value = named(now());
}

function facts(list, rows) {
  const text = JSON.stringify(rows);
  if (list.dataset.rows === text) return;
  list.dataset.rows = text;
  list.replaceChildren(...rows.flatMap(([name, value, kind]) => [make("dt", "", name), make("dd", kind ?? "", value)]));
}

function gate(one) {
  write(at("rate"), one.decisions ? percent(one.rate) : "no decision yet");
  write(at("against"), "at alpha " + level(one.alpha));
  write(at("interval"), one.decisions
    ? "95% interval " + between(one.low, one.high) + ", of " + some(one.decisions, "decision") + " on the last " +
      some(one.questions, "question") + "." : "");
  facts(at("gate"), [
    ["gate", one.gate + " by " + one.score + ", " + some(one.scores, "score") + " in its bank"],
    ["since it began", some(one.all_take_overs, "take-over") + " of " + some(one.all_decisions, "decision")],
    ["drift alarm", ...alarm(one.alarm)],
    ["certificate", ...certificate(told.certificate)],
  ]);
}

function alarm(one) {
  if (one === null) return ["none is set (a1 serve --alarm)"];
  if (one.count) {
    return [some(one.count, "alarm") + ", on which it " + { warn: "warned", recalibrate: "recalibrated",
      "hand-over": "handed over" }[one.action] + (one.handing_over ? "; every chunk is handed over now" : ""), "bad-text"];
  }
  const wealth = one.log_wealth === null ? "" : "; its wealth is " + Math.exp(one.log_wealth).toPrecision(2) +
    (one.threshold === null ? "" : " of " + whole(one.threshold));
  return ["silent over " + some(one.watched, "question") + wealth, "good-text"];
}

function certificate(one) {
  if (one === null) return [told.card ? "the card has none" : "none, and no card"];
  if (!one.covered) return ["does not speak of the default: " + one.apart.join(", ") + " differ", "bad-text"];
  return ["at most " + level(one.epsilon) + " of such questions lost, with probability " + level(1 - one.delta) +
    "; of the default and questions like the certificate's", "good-text"];
}

// --- charts ---------------------------------------------------------------------------------------------------

function charts() {
  range(now());
  plot(now());
}

function fit(chart, height) {
  const width = Math.max(200, Math.floor(chart.parentElement.clientWidth));
  chart.setAttribute("viewBox", "0 0 " + width + " " + height);
  chart.setAttribute("height", height);
  return width;
}

function fill(chart, parts) {
  chart.replaceChildren(...chart.querySelectorAll("title, desc"), ...parts);
}

// The least of some round shares that is above what is to be shown.
const top = (share) => [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1].find((one) => one >= share) ?? 1;

function range(one) {
  const chart = at("range"), width = fit(chart, 46), most = top(Math.max(1.2 * one.alpha, one.decisions ? one.high : 0));
  const x = (share) => 1 + (width - 2) * Math.min(1, share / most);
  const parts = [draw("line", { class: "axis", x1: x(0), x2: x(most), y1: 24, y2: 24 })];
  if (one.decisions) {
    parts.push(draw("rect", { class: "band", x: x(one.low), y: 16, width: Math.max(1, x(one.high) - x(one.low)), height: 16 }),
      draw("circle", { class: "mark", cx: x(one.rate), cy: 24, r: 5 }));
  }
  const right = x(one.alpha) > width / 2;
  parts.push(draw("line", { class: "alpha", x1: x(one.alpha), x2: x(one.alpha), y1: 8, y2: 36 }),
    draw("text", { class: "alpha-text", x: x(one.alpha) + (right ? -5 : 5), y: 10, "text-anchor": right ? "end" : "start" },
      "alpha " + level(one.alpha)),
    draw("text", { x: 0, y: 46 }, "0"), draw("text", { x: width, y: 46, "text-anchor": "end" }, level(most)));
  fill(chart, parts);
  write(at("range-title"), "Take-over rate " + (one.decisions ? percent(one.rate) + ", 95% interval " + between(one.low, one.high)
    : "without a decision") + ", alpha " + level(one.alpha));
}

function plot(one) {
  const chart = at("turns"), height = 210, width = fit(chart, height), rows = one.turns;
  const left = 40, bottom = height - 34, ceiling = 14;
  const most = top(Math.max(2 * one.alpha, ...rows.filter((row) => row.decisions >= 5).map((row) => row.high), ...rows.map((row) => row.rate)));
  const last = Math.max(4, ...rows.map((row) => row.turn));
  const step = (width - left - 20) / (last + 1);
  const x = (turn) => left + step * (turn + 0.5);
  const y = (share) => bottom - (bottom - ceiling) * Math.min(1, share / most);
  const parts = [];
  for (const share of [0, most / 2, most]) {
    parts.push(draw("line", { class: "axis", x1: left, x2: width, y1: y(share), y2: y(share) }),
      draw("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, level(share)));
  }
  const every = [1, 2, 5, 10, 20].find((one) => one * step >= 24) ?? 20;
  for (let turn = 0; turn <= last; turn += every) {
    parts.push(draw("text", { x: x(turn), y: bottom + 16, "text-anchor": "middle" }, turn >= one.last_turn ? turn + "+" : String(turn)));
  }
  parts.push(draw("text", { x: (left + width) / 2, y: height - 2, "text-anchor": "middle" }, "turn"));
  for (const row of rows) {
    parts.push(draw("line", { class: "whisker", x1: x(row.turn), x2: x(row.turn), y1: y(row.low), y2: y(row.high) }));
  }
  parts.push(draw("line", { class: "alpha", x1: left, x2: width, y1: y(one.alpha), y2: y(one.alpha) }),
    draw("text", { class: "alpha-text", x: width, y: y(one.alpha) - 5, "text-anchor": "end" }, "alpha " + level(one.alpha)));
  for (const row of rows) parts.push(draw("circle", { class: "point", cx: x(row.turn), cy: y(row.rate), r: Math.min(4.5, Math.max(2.5, step / 3)) }));
  fill(chart, parts);
  write(at("turns-title"), "Take-over rate by turn, alpha " + level(one.alpha));
  write(at("turns-about"), rows.length ? rows.map((row) => "turn " + row.turn + ": " + percent(row.rate)).join("; ") + "."
    : "No turn was decided yet.");
}

// --- tables ---------------------------------------------------------------------------------------------------

function rows(table, lines) {
  const text = JSON.stringify(lines);
  if (table.dataset.rows === text) return;
  table.dataset.rows = text;
  table.tBodies[0].replaceChildren(...lines.map((line) => {
    const row = make("tr");
    row.append(...line.map((cell, i) => {
      const [said, kind] = Array.isArray(cell) ? cell : [cell, ""];
      const one = make(i ? "td" : "th", kind, String(said));
      if (!i) one.scope = "row";
      return one;
    }));
    return row;
  }));
}

function turns(one) {
  rows(at("turn-table"), one.turns.map((row) => [row.turn >= one.last_turn ? row.turn + "+" : row.turn, percent(row.rate),
    between(row.low, row.high), whole(row.take_overs), whole(row.decisions)]));
}

function runtimes() {
  const known = (value) => value === null ? "not told" : whole(value);
  rows(at("runtimes"), told.runtimes.map((one) => [
    one.name + (one.roles.length > 1 || one.roles[0] !== one.name ? " (" + one.roles.join(", ") + ")" : ""),
    one.up ? ["up", "good-text"] : ["down", "bad-text"],
    known(one.under_way) + (one.most === null ? "" : " of " + whole(one.most)), known(one.waiting),
    one.tokens_a_second.toFixed(one.tokens_a_second < 10 ? 1 : 0),
  ]));
  write(at("load-note"), "Calls of this server alone; those that wait do so here. Tokens are of calls that ended in the last " +
    told.window + " s.");
}

const MEANS = {
  200: "answered", 400: "not taken: something in it is wrong", 401: "without a key that is known", 404: "no such model or route",
  405: "no such route", 408: "its body did not come in time", 409: "a key for retries used twice", 413: "too large",
  422: "not taken: something in it is wrong", 429: "refused: the server is full, or a key's limit is reached",
  499: "its client went away first", 500: "the server failed", 503: "a runtime failed, or the server was going down", 504: "not finished in time",
};

function requests() {
  const first = told.first_token, server = told.server;
  facts(at("now"), [
    ["now", some(server.running, "completion") + " of at most " + whole(server.most) + ", " + some(server.chains, "chain") + " in flight"],
    ["first token", first.streams ? "p50 " + lasted(first.p50) + ", p95 " + lasted(first.p95) + ", of the last " + some(first.streams, "stream")
      : "no stream yet"],
  ]);
  const lines = Object.entries(told.requests).map(([status, count]) => [status, MEANS[status] ?? "", whole(count)]);
  rows(at("requests"), lines.length ? lines : [["none", "", "0"]]);
}

// --- chains ---------------------------------------------------------------------------------------------------

const ENDED = {
  answered: "answered", ended: "ended", turns: "out of turns", context: "out of context", stopped: "stopped, the vote was decided",
  length: "out of tokens", stop: "at a stop sequence", lost: "broke off", aborted: "aborted",
};
const kind = (author) => ["draft", "target"].includes(author) ? author : "program";

function chains() {
  const text = JSON.stringify(told.chains);
  if (at("chains").dataset.text === text) return;
  at("chains").dataset.text = text;
  at("none").hidden = told.chains.length > 0;
  at("chains").hidden = !told.chains.length;
  write(at("most"), whole(told.most_chains));
  at("chains").replaceChildren(...told.chains.map(chain));
}

function chain(one) {
  const box = make("li"), said = make("div", "said"), bar = make("div", "bar");
  const how = one.ending === null ? "being written" : ENDED[one.ending] ?? one.ending;
  said.append(make("b", "", one.model + (one.of > 1 ? ", chain " + (one.sample + 1) + " of " + one.of : "")),
    make("span", "note", clock(one.started) + (one.seconds === null ? "" : ", " + lasted(one.seconds))),
    make("span", ["lost", "aborted"].includes(one.ending) ? "bad-text" : "note", how));
  bar.setAttribute("aria-hidden", "true");
  for (const [author, tokens, over] of one.chunks) {
    const part = make("span", kind(author) + (over ? " over" : ""));
    part.style.flex = Math.max(tokens, 0.1) + " 0 0";
    part.title = author + ": " + some(tokens, "token") + (over ? ", took over" : "");
    bar.append(part);
  }
  for (const [author, tokens] of Object.entries(one.later)) {
    const part = make("span", kind(author) + " later");
    part.style.flex = tokens + " 0 0";
    part.title = author + ": " + some(tokens, "token") + " in later chunks";
    bar.append(part);
  }
  const counts = Object.entries(one.tokens).map(([author, tokens]) => author + " " + some(tokens, "token"));
  if (one.take_overs) counts.push(some(one.take_overs, "take-over"));
  if (one.dropped) counts.push(some(one.dropped, "token") + " dropped");
  box.append(said, bar, make("div", "counts", counts.join(", ") || "nothing yet"));
  return box;
}

ask();
