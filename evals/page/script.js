"use strict";
// Text from models only ever becomes textContent.
const runs = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const make = (tag, kind, text) => {
  const one = document.createElement(tag);
  if (kind) one.className = kind;
  if (text !== undefined) one.textContent = text;
  return one;
};
const fill = (select, options) => {
  select.replaceChildren(...options.map(([value, text]) => {
    const one = make("option", "", text);
    one.value = value;
    return one;
  }));
};

// A question as each of the runs has it: those with the same id and text are one.
const BOTH = String(runs.length);
const asked = new Map();
runs.forEach((run, i) => run.questions.forEach((q) => {
  const key = q.id + "\n" + q.text;
  if (!asked.has(key)) asked.set(key, { id: q.id, title: q.title, text: q.text, gold: q.gold, of: [] });
  asked.get(key).of[i] = q;
}));
const chains = (one) => one.flatMap((q) => q.chains);
const passes = {
  all: () => true,
  wrong: (one) => chains(one).some((c) => !c.correct && c.ending !== "stopped"),
  split: (one) => one.some((q) => new Set(
    q.chains.filter((c) => !["stopped", "lost"].includes(c.ending)).map((c) => c.counts_as)).size > 1),
  apart: (one) => one.some((q) => q.apart),
  over: (one) => chains(one).some((c) => c.chunks.some((k) => k.over)),
};
const words = (q) => q.words ??= [q.text, ...chains([q]).flatMap((c) => c.chunks.map((k) => k.text))].join("\n").toLowerCase();
let shown = [];

function list() {
  const run = at("run").value;
  const of = (entry) => (run === BOTH ? entry.of : [entry.of[run]]).filter((q) => q);
  const sought = at("search").value.toLowerCase();
  const kept = shown[at("question").value || 0];
  const pool = [...asked.values()].filter((entry) => of(entry).length);
  shown = pool.filter((entry) => passes[at("which").value](of(entry)) &&
    (!sought || of(entry).some((q) => words(q).includes(sought))));
  fill(at("question"), shown.map((entry, i) => [i, entry.id + ": " + entry.title]));
  if (shown.includes(kept)) at("question").value = shown.indexOf(kept);
  at("count").textContent = shown.length + " of " + pool.length + " questions" +
    (runs[run]?.left_out ? " (" + runs[run].left_out + " more are in the run folder)" : "") + ".";
  view();
}

function view() {
  const entry = shown[at("question").value];
  if (!entry) {
    at("view").replaceChildren(make("p", "note", "No question passes."));
    return;
  }
  const run = at("run").value;
  const parts = [make("p", "ask", entry.text)];
  const about = make("p", "note", entry.gold === null ? "" : "reference answer: " + entry.gold + " ");
  about.append(link("link to this question", entry, run));
  parts.push(about);
  const box = make("div", "runs");
  runs.forEach((one, i) => {
    if (!entry.of[i] || (run !== BOTH && run !== String(i))) return;
    const part = make("section");
    if (run === BOTH) part.append(make("h3", "", one.name));
    part.append(...entry.of[i].chains.map((chain) => shownChain(chain, one, entry, run, i)));
    box.append(part);
  });
  at("view").replaceChildren(...parts, box);
}

function link(text, entry, run, sample, of) {
  const to = new URLSearchParams({ q: entry.id, run });
  if (sample !== undefined) to.set("sample", sample);
  if (of !== undefined && run === BOTH) to.set("of", of);
  const one = make("a", "about", text);
  one.href = "#" + to;
  return one;
}

function shownChain(chain, run, entry, among, i) {
  const box = make("article", "chain");
  box.id = "chain-" + i + "-" + chain.sample;
  box.tabIndex = -1;
  const head = make(among === BOTH ? "h4" : "h3", "", "chain " + chain.sample + ": ");
  const grade = chain.answer === null ? chain.ending : chain.answer + (chain.correct ? " (right)" : " (wrong)");
  head.append(make("span", chain.correct ? "right" : "wrong", grade));
  const facts = [];
  if (chain.seconds !== null) facts.push(chain.seconds.toFixed(1) + " s");
  if (chain.rating !== null) facts.push((chain.rater ? chain.rater + " " : "") + "rating " + chain.rating.toFixed(3));
  if (chain.note) facts.push(chain.note);
  head.append(make("span", "about", "  " + facts.join(", ") + " "), link("link", entry, among, chain.sample, i));
  box.append(head, ...chain.chunks.map((chunk) => shownChunk(chunk, run)));
  return box;
}

function shownChunk(chunk, run) {
  const kind = ["draft", "target"].includes(chunk.author) ? chunk.author : "program";
  const one = make("span", "chunk " + kind + (chunk.dropped ? " dropped" : ""));
  if (chunk.losses) one.append(...tokens(chunk.losses));
  else one.textContent = chunk.text.trimEnd();
  const line = make("div", "line");
  const who = chunk.author + ", turn " + chunk.turn + (chunk.dropped ? ", " + chunk.dropped : "");
  one.title = who;
  line.append(make("span", "spoken", who + ": "), one);  // what colours say, for those who do not see them
  const facts = [];
  const stage = chunk.stage;
  if (stage) facts.push("first stage: " + run.first + " " + short(stage.score) +
    ", p " + short(stage.p) + ", " + stage.outcome);
  if (chunk.score !== null) facts.push(run.score + " " + short(chunk.score));
  if (chunk.p !== null && !(stage && stage.outcome === "accepted")) facts.push(compared(chunk));
  if (chunk.losses) {
    const [piece, loss] = chunk.losses.reduce((a, b) => (b[1] > a[1] ? b : a));
    facts.push("highest loss " + short(loss) + " at " + (piece.trim() ? "\u201c" + piece.trim() + "\u201d" : "its end"));
  }
  if (chunk.audit) facts.push("audited: " + chunk.audit);
  if (facts.length) line.append(make("span", "about", " " + facts.join(", ") + " "));
  if (chunk.over) line.append(make("span", "about over", "\u2192\u00a0handed\u00a0over "));
  return line;
}

const short = (value) => value && Math.abs(value) < 0.1 ? value.toPrecision(2) : value.toFixed(3);

// With as many digits as it takes to tell them apart.
function compared(chunk) {
  const p = chunk.p, level = chunk.level;
  if (level === null) return "p " + short(p);
  let digits = 3;
  while (digits < 7 && p !== level && p.toFixed(digits) === level.toFixed(digits)) digits += 1;
  const cut = (value) => String(Number(value.toFixed(digits)));
  return "p " + cut(p) + (chunk.over ? " \u2264 " : " > ") + "level " + cut(level) + " (n\u00a0" + chunk.n + ")";
}

// Shaded by their losses; what is blank at the end takes up no lines, and an end token has no text of its own.
function tokens(losses) {
  const last = losses.findLastIndex(([piece]) => piece.trim());
  return losses.map(([piece, loss], i) => {
    const one = make("span", "token", i <= last ? piece : piece.replaceAll("\n", "\u21b5") || "\u220e");
    one.style.setProperty("--loss", Math.min(1, loss / 5).toFixed(2));
    one.title = "loss " + loss.toFixed(3);
    return one;
  });
}

function step(by) {
  const next = Number(at("question").value) + by;
  if (next >= 0 && next < shown.length) {
    at("question").value = next;
    view();
  }
}

// #q=ID&run=NUMBER&sample=NUMBER opens a question, in a run or in all of them, and a chain of it.
function open() {
  const to = new URLSearchParams(location.hash.slice(1));
  if (!to.has("q")) return;
  const run = to.get("run"), sample = to.get("sample");
  const entry = [...asked.values()].find((one) => one.id === to.get("q") && (!runs[run] || one.of[run]));
  if (!entry) {
    at("view").replaceChildren(make("p", "note", "Question " + to.get("q") + " is not in this page."));
    return;
  }
  const of = to.get("of") ?? (runs[run] ? run : String(runs.findIndex((_, i) =>
    entry.of[i] && (sample === null || entry.of[i].chains.some((c) => String(c.sample) === sample)))));
  at("run").value = run === BOTH && runs.length > 1 ? BOTH : runs[of] ? of : "0";
  at("which").value = "all";
  at("search").value = "";
  list();
  at("question").value = shown.indexOf(entry);
  view();
  const chain = sample === null ? at("view") : at("chain-" + of + "-" + sample);
  (chain ?? at("view")).scrollIntoView();
  chain?.focus();
}

fill(at("run"), [...runs.map((run, i) => [i, run.name]), ...(runs.length > 1 ? [[BOTH, "all, side by side"]] : [])]);
at("run").addEventListener("change", list);
at("which").addEventListener("change", list);
at("search").addEventListener("input", list);
at("question").addEventListener("change", view);
at("previous").addEventListener("click", () => step(-1));
at("next").addEventListener("click", () => step(1));
at("filters").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select, .scroll") || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
window.addEventListener("hashchange", open);
list();
open();
