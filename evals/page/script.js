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
const passes = {
  all: () => true,
  wrong: (q) => q.chains.some((c) => !c.correct),
  split: (q) => new Set(q.chains.map((c) => c.answer)).size > 1,
  over: (q) => q.chains.some((c) => c.chunks.some((k) => k.over)),
};
let shown = [];

function list() {
  const run = runs[at("run").value];
  const words = at("search").value.toLowerCase();
  const holds = (q) => !words || q.text.toLowerCase().includes(words) ||
    q.chains.some((c) => c.chunks.some((k) => k.text.toLowerCase().includes(words)));
  const kept = shown.length ? shown[at("question").value || 0]?.id : undefined;
  shown = run.questions.filter((q) => passes[at("which").value](q) && holds(q));
  fill(at("question"), shown.map((q, i) => [i, q.id + ": " + q.title]));
  const same = shown.findIndex((q) => q.id === kept);
  if (same >= 0) at("question").value = same;
  at("count").textContent = shown.length + " of " + run.questions.length + " questions" +
    (run.left_out ? " (" + run.left_out + " more are in the run folder)" : "") + ".";
  view();
}

function view() {
  const question = shown[at("question").value];
  if (!question) {
    at("view").replaceChildren(make("p", "note", "No question passes."));
    return;
  }
  const parts = [make("p", "ask", question.text)];
  if (question.gold !== null) parts.push(make("p", "note", "reference answer: " + question.gold));
  for (const chain of question.chains) {
    const box = make("div", "chain");
    const head = make("h3", "", "chain " + chain.sample + ": ");
    const grade = chain.answer === null ? chain.ending : chain.answer + (chain.correct ? " (right)" : " (wrong)");
    head.append(make("span", chain.correct ? "right" : "wrong", grade));
    const facts = [chain.seconds.toFixed(1) + " s"];
    if (chain.rating !== null) facts.push("rating " + chain.rating.toFixed(3));
    if (chain.note) facts.push(chain.note);
    head.append(make("span", "about", "  " + facts.join(", ")));
    box.append(head);
    for (const chunk of chain.chunks) {
      const kind = ["draft", "target"].includes(chunk.author) ? chunk.author : "program";
      const one = make("span", "chunk " + kind + (chunk.dropped ? " dropped" : ""), chunk.text.trimEnd());
      const line = make("div", "line");
      one.title = chunk.author + ", turn " + chunk.turn + (chunk.dropped ? ", " + chunk.dropped : "");
      line.append(one);
      const facts = [];
      if (chunk.score !== null) facts.push("loss " + chunk.score.toFixed(3));
      if (chunk.p !== null) facts.push("p " + chunk.p.toFixed(3));
      if (facts.length) line.append(make("span", "about", " " + facts.join(", ") + " "));
      if (chunk.over) line.append(make("span", "about over", "\u2192 handed over "));
      box.append(line);
    }
    parts.push(box);
  }
  at("view").replaceChildren(...parts);
}

function step(by) {
  const next = Number(at("question").value) + by;
  if (next >= 0 && next < shown.length) {
    at("question").value = next;
    view();
  }
}

fill(at("run"), runs.map((run, i) => [i, run.name]));
at("run").addEventListener("change", list);
at("which").addEventListener("change", list);
at("search").addEventListener("input", list);
at("question").addEventListener("change", view);
at("previous").addEventListener("click", () => step(-1));
at("next").addEventListener("click", () => step(1));
at("filters").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select") || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
list();
