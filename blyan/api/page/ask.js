// The chat. Belongs here: the conversation, its stream, and what an answer rests on. Does not belong here: answering.
//
// The service answers in the shape of OpenAI's chat completions. What that has no place for (the SQL, its rows' citations, whether it
// abstained) comes in `blyan` of a chunk, with the names of POST /v1/ask.
import { $, el, foreign, isHash, leads, linked, problemBox, readingLine, seen } from "./dom.js";
import { events, json, Problem, stopped } from "./service.js";
import { hitCard } from "./search.js";
import { put } from "./sql.js";

const MODEL = "blyan-planner";

const told = []; // {role, content}
let running = null;
let models = null;

export function start() {
  $("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("question").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  $("ask-stop").addEventListener("click", () => running?.abort());
  $("view-ask").addEventListener("keydown", (event) => event.key === "Escape" && running?.abort());
  $("ask-clear").addEventListener("click", () => {
    running?.abort();
    told.length = 0;
    for (const part of ["talk", "ask-problem"]) $(part).replaceChildren();
    $("ask-status").textContent = "";
    $("question").focus();
  });
}

/** The model that answers: the one that is configured, or else the planner. */
async function model(signal) {
  if (!models) {
    try {
      models = (await json("/v1/models", { signal })).data.map((each) => each.id);
    } catch (error) {
      if (!error.missing) throw error;
      models = [MODEL];
    }
  }
  return models.find((name) => name !== MODEL) ?? models[0] ?? MODEL;
}

async function send() {
  const content = $("question").value.trim();
  if (!content || running) return;
  const mine = (running = new AbortController());
  const text = el("div", { class: "text" });
  const rests = el("div", { class: "rests" });
  const answer = el("article", { class: "answer", "aria-label": "Answer", "aria-busy": "true" }, text, rests);
  $("talk").append(el("article", { class: "question", "aria-label": "Question" }, foreign(content)), answer);
  answer.scrollIntoView({ block: "nearest" });
  $("question").value = "";
  $("ask-stop").disabled = false;
  $("ask-send").disabled = true;
  $("ask-problem").replaceChildren();
  $("ask-status").textContent = "Answering…";
  const asked = $("talk").lastChild.previousSibling;
  let said = "";
  let known = null;
  let usage = null;
  let whole = false;
  try {
    const body = { model: await model(mine.signal), stream: true, stream_options: { include_usage: true }, messages: [...told, { role: "user", content }] };
    for await (const { data } of events("/v1/chat/completions", { body, signal: mine.signal })) {
      if (data === "[DONE]") {
        whole = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Problem({ title: "The answer failed", status: 0, remedy: "ask again", detail: chunk.error.message, ...chunk.error });
      said += chunk.choices?.[0]?.delta?.content ?? "";
      known = chunk.blyan ?? known;
      usage = chunk.usage ?? usage;
      text.textContent = seen(said);
    }
    if (!whole) throw new Problem({ title: "The answer broke off", status: 0, detail: "the stream ended before the answer did", remedy: "ask again" });
    told.push({ role: "user", content }, { role: "assistant", content: said });
    $("ask-status").textContent = `${known?.abstained ? "Not answered" : "Answered"}${known?.by ? ` by ${known.by}` : ""}${usage ? `, ${usage.total_tokens} tokens` : ""}.`;
    // What an abstention says is drawn below, with questions to choose from.
    if (known?.abstained) text.remove();
    else text.replaceChildren(...withLinks(said));
  } catch (error) {
    answer.classList.add("stopped");
    if (stopped(error)) {
      $("ask-status").textContent = "Stopped.";
      rests.append(el("p", { class: "fine" }, "Stopped here: this is not the whole answer."));
    } else if (error.title) {
      $("ask-status").textContent = "";
      if (!said) answer.remove();
      $("ask-problem").replaceChildren(problemBox(error));
    } else throw error;
  } finally {
    if (known) rests.append(...restsOn(known));
    if (answer.getBoundingClientRect().bottom > innerHeight) asked.scrollIntoView({ block: "start" });
    answer.removeAttribute("aria-busy");
    running = null;
    $("ask-stop").disabled = true;
    $("ask-send").disabled = false;
  }
}

/** What an answer rests on: whether it is one, its SQL, its citations, and what was read. */
function restsOn({ abstained, why, instead, unsupported, sql, params, citations, hits, reading }) {
  const parts = [];
  if (abstained) parts.push(el("p", {}, el("span", { class: "chip flag" }, "Not answered"), " ", foreign(why ?? "the tables cannot tell")));
  if (instead?.length) parts.push(el("p", { class: "label" }, "It could be asked:"), el("ul", { class: "instead" }, instead.map((question) => el("li", {}, el("button", { type: "button", class: "quiet", onclick: () => propose(question) }, seen(question))))));
  if (unsupported?.length) parts.push(el("p", { class: "said" }, el("span", { class: "chip flag" }, "In no result"), " ", unsupported.map((words, place) => [place ? ", " : "", foreign(words)])));
  if (sql) {
    const statement = withValues(sql, params ?? []);
    parts.push(
      el("details", { open: true }, el("summary", {}, "The SQL"), el("pre", { tabIndex: 0, "aria-label": "The SQL" }, seen(statement)),
        el("button", { type: "button", onclick: () => put(statement) }, "Run this SQL in the editor")),
    );
  }
  if (citations?.length) {
    const shown = citations.slice(0, 50).map(({ slot, signature, table }) => el("li", {}, table ? `${table.replace("/", ".")} ` : "", slot !== null && slot !== undefined ? el("a", { href: `#slot/${slot}` }, `slot ${slot}`) : "", " ", signature ? linked(signature) : ""));
    parts.push(el("details", { open: citations.length < 8 }, el("summary", {}, `${citations.length} ${citations.length === 1 ? "row" : "rows"} that it rests on`), el("ul", {}, shown), citations.length > 50 ? el("p", { class: "fine" }, `${citations.length - 50} more are not listed.`) : null));
  }
  if (hits?.length) parts.push(el("details", {}, el("summary", {}, `${hits.length} ${hits.length === 1 ? "document" : "documents"} that may help`), hits.map(hitCard)));
  if (reading) parts.push(readingLine(reading));
  return parts;
}

/** Put a question where it is sent from. */
function propose(question) {
  $("question").value = question;
  $("question").focus();
}

/** An answer's words, in which accounts and signatures are links. */
const withLinks = (text) => text.split(/([1-9A-HJ-NP-Za-km-z]{32,88})/).map((part, place) => (place % 2 && isHash(part) ? el("a", { href: leads(part), class: "mono" }, part) : seen(part)));

/** The statement with its values written in, as the editor has no others, and its clauses on lines of their own. */
function withValues(sql, params) {
  const written = (value) => (value === null ? "null" : typeof value === "string" ? `'${value.replaceAll("'", "''")}'` : Array.isArray(value) ? `[${value.map(written).join(", ")}]` : String(value));
  let place = 0;
  return sql.replace(/'(?:[^']|'')*'|"(?:[^"]|"")*"| (?=(?:from|(?:(?:left|semi|anti) )?join|where|group by|having|qualify|order by|limit) )|\$(\d+)|\?/g, (found, number) => {
    if (found[0] === "'" || found[0] === '"') return found;
    if (found === " ") return "\n";
    const at = number === undefined ? place++ : Number(number) - 1;
    return at < params.length ? written(params[at]) : found;
  });
}
