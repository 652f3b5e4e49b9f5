// The search view: words and filters to hits. Belongs here: the question as the service takes it, hits as cards. Does not belong here: ranking.
import { $, el, foreign, grouped, linked, moment, problemBox, readingLine, seen, span } from "./dom.js";
import { json, stopped } from "./service.js";

const LONG = 420; // characters of a hit that are shown at first

let running = null;

export function start() {
  $("search-form").addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
}

async function search() {
  const form = new FormData($("search-form"));
  const query = form.get("query").trim();
  if (!query) return $("search-query").focus();
  running?.abort();
  const mine = (running = new AbortController());
  const began = performance.now();
  $("search-problem").replaceChildren();
  $("search-status").textContent = "Searching…";
  try {
    const answer = await json("/v1/search", { body: { query, mode: form.get("mode"), filters: filters(form), limit: Number(form.get("limit")), understand: form.has("understand") }, signal: mine.signal });
    show(answer, performance.now() - began);
  } catch (error) {
    if (stopped(error)) return;
    if (!error.title) throw error;
    $("search-status").textContent = "";
    for (const part of ["hits", "search-said", "search-reading"]) $(part).replaceChildren();
    $("search-problem").replaceChildren(problemBox(error));
  }
}

/** What is filled in, as the service names it. */
function filters(form) {
  const found = {};
  const list = (text) => text.split(",").map((part) => part.trim()).filter(Boolean); // names of programs have spaces
  for (const name of ["first_slot", "last_slot"]) if (form.get(name)) found[name] = Number(form.get(name));
  if (list(form.get("kinds")).length) found.kinds = list(form.get("kinds"));
  if (form.get("status")) found.statuses = [form.get("status")];
  if (list(form.get("program")).length) found.programs = list(form.get("program"));
  if (list(form.get("account")).length) found.accounts = list(form.get("account"));
  return found;
}

function show(answer, ms) {
  const { hits, searched } = answer;
  $("search-status").textContent = `${hits.length} ${hits.length === 1 ? "hit" : "hits"} in ${span(ms)}${searched?.documents !== undefined ? `, among ${counted(searched)} documents` : ""}.`;
  $("search-said").replaceChildren(...[conditions("Understood", answer.understood), conditions("Not met by any hit", answer.unmet)].filter(Boolean));
  $("hits").replaceChildren(...hits.map((hit) => el("li", {}, hitCard(hit))));
  $("search-reading").replaceChildren(readingLine(answer.reading));
}

const counted = ({ passing, documents }) => (passing === undefined || passing === documents ? grouped(documents) : `${grouped(passing)} of ${grouped(documents)}`);

const conditions = (name, texts) => (texts?.length ? el("p", { class: "said" }, el("span", { class: "label" }, `${name}: `), texts.map((text) => [foreign(text, { class: "chip" }), " "])) : null);

/** A hit as a card. Its text is anybody's: it is shown as text and as nothing else. */
export function hitCard(hit) {
  const about = hit.signature ? linked(hit.signature) : hit.subject ? linked(hit.subject) : null;
  const slots = hit.last_slot !== undefined && hit.last_slot !== hit.slot && hit.last_slot !== null ? [`slots ${hit.slot} to ${hit.last_slot}`] : ["slot ", el("a", { href: `#slot/${hit.slot}` }, String(hit.slot))];
  const scores = [["score", hit.score], ["cosine", hit.cosine], ["BM25", hit.bm25]].filter(([, value]) => typeof value === "number").map(([name, value]) => `${name} ${value.toFixed(3)}`);
  const text = String(hit.text ?? "");
  const body = foreign(text.length > LONG ? `${text.slice(0, LONG)}…` : text, { class: "text" });
  const whole = text.length > LONG ? el("button", { type: "button", class: "quiet", onclick: (event) => (event.target.remove(), (body.textContent = seen(text))) }, "All of it") : null;
  return el(
    "article",
    { class: "card" },
    el("p", { class: "head" }, [hit.scope !== "transaction" ? hit.scope : null, hit.kind].filter(Boolean).map((word) => foreign(word, { class: "chip" })), hit.status ? el("span", { class: `chip ${hit.status === "Fail" ? "bad" : "good"}` }, hit.status) : null,
      (hit.flags ?? []).map((flag) => foreign(flag, { class: "chip flag" })), el("span", {}, slots), hit.time ? el("span", { class: "fine" }, moment(hit.time)) : null),
    about ? el("p", {}, about) : null,
    body,
    whole,
    el("p", { class: "fine" }, scores.join(" · "), hit.words?.length ? [" · words: ", hit.words.map((word, place) => [place ? ", " : "", foreign(word)])] : null, hit.alike > 1 ? ` · ${grouped(hit.alike)} alike` : null, hit.met?.length ? [" · meets: ", hit.met.map((text, place) => [place ? ", " : "", foreign(text)])] : null),
  );
}
