// The SQL view: statement to rows. Belongs here: running, paging, saving, pinning, watching. Does not belong here: drawing rows (grid.js,
// chart.js), the editor itself (editor.js).
import { $, copier, el, grouped, notify, problemBox, readingLine, seen, span } from "./dom.js";
import { ask, events, exactly, json, stopped } from "./service.js";
import { Editor } from "./editor.js";
import { Grid, MOST_ROWS } from "./grid.js";
import { Chart } from "./chart.js";

const DRAFT = "blyan-sql";
const HISTORY = "blyan-history";
const REMEMBERED = 50;
const TAIL_BYTES = 1 << 21; // of a saved file: where it says whether the result goes on
const FIRST = "select slot, block_timestamp, transaction_count, leader_reward, leader\nfrom solana.blocks\norder by slot desc\nlimit 100";

let editor, grid, chart;
let running = null; // what can be cancelled
let shown = null; // {sql, rows, cursor, pin}

export function start() {
  editor = new Editor($("editor"), {
    doc: localStorage.getItem(DRAFT) ?? FIRST,
    run,
    explain,
    changed: (text) => localStorage.setItem(DRAFT, text),
    describedBy: $("editor-hint").textContent,
  });
  grid = new Grid($("grid"), "Rows of the result");
  chart = new Chart($("chart"));
  $("run").addEventListener("click", run);
  $("explain").addEventListener("click", explain);
  $("cancel").addEventListener("click", () => running?.abort());
  $("more").addEventListener("click", more);
  $("export").addEventListener("click", save);
  $("pin").addEventListener("click", pin);
  $("watch").addEventListener("change", () => ($("watch").checked ? run() : running?.abort()));
  $("as-table").addEventListener("click", () => showAs(false));
  $("as-chart").addEventListener("click", () => showAs(true));
  $("view-sql").addEventListener("keydown", (event) => event.key === "Escape" && event.target !== $("editor") && running?.abort());
  $("schema-filter").addEventListener("input", (event) => filterSchema(event.target.value.trim().toLowerCase()));
  if (matchMedia("(max-width: 800px)").matches) $("schema-box").open = false;
  document.addEventListener("click", (event) => event.target.closest("#history-box") || ($("history-box").open = false));
  drawHistory();
}

/** Tables to complete and to list. */
export function know(tables) {
  editor.know(tables);
  $("schema").replaceChildren(...tables.map(tableEntry));
}

export function put(sql) {
  editor.text = sql;
  location.hash = "#sql";
  editor.focus();
}

function tableEntry(table) {
  const columns = el("ul");
  const entry = el(
    "details",
    { class: "table", "data-names": [table.name, ...table.columns.map((column) => column.name)].join(" ").toLowerCase() },
    el("summary", { title: table.meaning }, el("span", { class: "mono" }, table.name)),
    columns,
  );
  entry.addEventListener("toggle", () => {
    if (columns.firstChild) return;
    columns.append(
      el("li", { class: "fine" }, table.meaning),
      el("li", {}, el("button", { type: "button", class: "quiet", onclick: () => put(`select *\nfrom ${table.name}\nlimit 100`) }, "Look at 100 rows")),
      ...table.columns.map((column) => {
        const type = column.type.length > 20 ? column.type.split("(")[0].toLowerCase() + (column.type.endsWith("[]") ? "[]" : "") : column.type.toLowerCase();
        return el("li", {}, el("button", { type: "button", class: "column", title: `${column.meaning}\n${column.type}`, onclick: () => editor.insert(/^[a-z_]\w*$/.test(column.name) && column.name !== "index" ? column.name : `"${column.name}"`) },
          el("span", { class: "mono" }, column.name), " ", el("span", { class: "fine" }, type)));
      }),
    );
  });
  return entry;
}

function filterSchema(text) {
  for (const entry of $("schema").children) entry.hidden = !entry.dataset.names.includes(text);
}

const wanted = () => Number($("page-rows").value);

async function run() {
  const sql = editor.text.trim();
  if (!sql) return;
  remember(sql);
  if ($("watch").checked) await watch(sql);
  else await work("Running", (signal, received) => json("/v1/sql", { body: { sql, rows: wanted() }, signal, received }), (answer, ms) => show(sql, answer, ms));
}

async function explain() {
  const sql = editor.text.trim().replace(/;\s*$/, "");
  if (!sql) return;
  await work("Explaining", (signal) => json("/v1/sql", { body: { sql: /^explain\b/i.test(sql) ? sql : `explain ${sql}` }, signal }), (answer, ms) => show(sql, answer, ms));
}

async function more() {
  const { sql, cursor } = shown;
  await work("Getting more", (signal, received) => json("/v1/sql", { body: { sql, rows: wanted(), cursor }, signal, received }), (answer, ms) => {
    grid.append(answer.rows);
    chart.show(grid.columns, grid.rows);
    shown.cursor = answer.cursor;
    concluded(answer, `${grouped(grid.rows.length)} rows so far, ${grouped(answer.rows.length)} more in ${span(ms)}`);
  });
}

/** Open a result that somebody pinned. */
export async function openPin(pin) {
  await work("Getting the pinned rows", (signal, received) => json(`/v1/pins/${pin}?format=json`, { signal, received }), (answer, ms) => {
    show(null, { ...answer, cursor: null }, ms);
    shown.pin = pin;
    $("sql-status").textContent += " They are those that were pinned.";
  });
}

/** Do something that takes a while, can be cancelled, and may go wrong. */
async function work(what, question, done) {
  running?.abort();
  const mine = (running = new AbortController());
  const began = performance.now();
  let bytes = 0;
  $("cancel").disabled = false;
  $("sql-problem").replaceChildren();
  $("result").classList.add("old");
  const clock = el("span", { "aria-hidden": "true" });
  $("sql-status").replaceChildren(`${what}…`, clock);
  const tick = setInterval(() => {
    clock.textContent = ` ${span(performance.now() - began)}${bytes ? `, ${grouped(Math.round(bytes / 1024))} KiB` : ""}`;
  }, 250);
  try {
    const answer = await question(mine.signal, (count) => (bytes = count));
    if (mine.signal.aborted) return;
    editor.blame(null);
    done(answer, performance.now() - began);
  } catch (error) {
    if (stopped(error)) {
      if (running === mine) $("sql-status").textContent = `Cancelled after ${span(performance.now() - began)}.`;
    } else refused(error);
  } finally {
    clearInterval(tick);
    if (running === mine) {
      running = null;
      $("cancel").disabled = true;
      $("result").classList.remove("old");
    }
  }
}

function refused(error) {
  if (!error.title) throw error;
  $("sql-status").textContent = "";
  // Rows of another statement below a problem would be taken for this one's.
  $("result").hidden = true;
  $("sql-reading").replaceChildren();
  $("sql-problem").replaceChildren(problemBox(error));
  editor.blame(error);
}

function show(sql, answer, ms) {
  $("result").hidden = false;
  $("pinned").replaceChildren();
  shown = { sql, rows: wanted(), cursor: answer.cursor };
  const plan = answer.columns[0]?.name === "explain_key";
  $("result").classList.toggle("plan", plan);
  if (plan) {
    showAs(false);
    $("grid").replaceChildren(el("pre", { class: "plan", tabIndex: 0, "aria-label": "The plan" }, answer.rows.map((row) => seen(row[1])).join("\n")));
  } else {
    grid.show(answer.columns, answer.rows);
    chart.show(answer.columns, answer.rows);
  }
  const count = answer.rows.length;
  const rate = count > 1 && ms > 0 ? `, ${grouped(Math.round((count / ms) * 1000))} rows/s` : "";
  concluded(answer, plan ? `Planned in ${span(ms)}` : `${grouped(count)} ${count === 1 ? "row" : "rows"} in ${span(ms)}${rate}`);
}

/** Say how it ended: how many rows, whether there are more, and what was read. */
function concluded(answer, text) {
  const full = grid.rows?.length >= MOST_ROWS;
  $("more").hidden = !answer.truncated || !answer.cursor || full;
  const cut = !answer.truncated ? "" : full ? " The result goes on; a page of a browser holds no more, save it instead." : " The result goes on: there are more rows than these.";
  $("sql-status").textContent = `${text}.${cut}`;
  $("sql-reading").replaceChildren(readingLine(answer.reading));
}

function showAs(drawn) {
  $("as-table").setAttribute("aria-pressed", String(!drawn));
  $("as-chart").setAttribute("aria-pressed", String(drawn));
  $("grid").hidden = drawn;
  $("chart").hidden = !drawn;
  if (drawn) chart.draw();
}

/** Show the rows, and again whenever they become others. */
async function watch(sql) {
  running?.abort();
  const mine = (running = new AbortController());
  $("cancel").disabled = false;
  $("sql-problem").replaceChildren();
  $("sql-status").textContent = "Watching…";
  let times = 0;
  try {
    const began = performance.now();
    for await (const { event, data } of events(`/v1/live/query?${new URLSearchParams({ sql })}`, { signal: mine.signal })) {
      if (event === "problem") return refused(JSON.parse(data));
      show(sql, { ...exactly(data), cursor: null }, performance.now() - began);
      const at = new Date().toLocaleTimeString();
      $("sql-status").textContent = times ? `The result changed at ${at}, for the ${ordinal(times)} time: ${grouped(grid.rows.length)} rows. Watching.` : `${grouped(grid.rows.length)} rows at ${at}. Watching for others.`;
      times += 1;
    }
    $("sql-status").textContent += " The service ended the watch.";
  } catch (error) {
    if (!stopped(error)) refused(error);
    else if (running === mine) $("sql-status").textContent = "No longer watching.";
  } finally {
    if (running === mine) {
      running = null;
      $("cancel").disabled = true;
      $("watch").checked = false;
    }
  }
}

const ordinal = (number) => `${number}${[, "st", "nd", "rd"][number % 100 > 10 && number % 100 < 14 ? 0 : number % 10] ?? "th"}`;

/** All rows that the reader may have, as a file. */
async function save() {
  if (!shown) return;
  const form = $("export-form").value;
  const path = shown.pin ? `/v1/pins/${shown.pin}?format=${form}` : "/v1/sql";
  const body = shown.pin ? undefined : { sql: shown.sql, format: form };
  await work("Saving", async (signal) => (await ask(path, { body, signal, accept: "*/*" })).blob(), async (blob, ms) => {
    const name = `blyan-${new Date().toISOString().slice(0, 19).replace(/[:T]/g, "-")}.${form}`;
    const address = URL.createObjectURL(blob);
    el("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
    const end = new TextDecoder("latin1").decode(await blob.slice(-TAIL_BYTES).arrayBuffer());
    const cut = form === "csv" ? /(^|\n)# truncated/.test(end) : /"rows_count":\d+,"truncated":true/.test(end);
    $("sql-status").textContent = `Saved ${name}, ${grouped(blob.size)} bytes in ${span(ms)}. ${cut ? "It is cut: the result has more rows than you may have at once." : "It is whole."}`;
  });
}

/** Keep these rows for everybody with the link. */
async function pin() {
  if (!shown) return;
  const made = shown.pin ? async () => ({ pin: shown.pin }) : (signal) => json("/v1/pins", { body: { sql: shown.sql, rows: shown.rows }, signal });
  const before = $("sql-status").textContent;
  await work("Pinning", made, ({ pin: name }) => {
    const link = `${location.origin}/#pin/${name}`;
    $("sql-status").textContent = before;
    $("pinned").replaceChildren(el("p", { class: "said" }, "The same rows, whatever lands meanwhile: ", el("a", { href: `#pin/${name}`, class: "mono" }, `#pin/${name.slice(0, 12)}…`), " ", copier(link)));
    notify("Pinned");
  });
}

function remembered() {
  try {
    return JSON.parse(localStorage.getItem(HISTORY) ?? "[]");
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return [];
  }
}

function remember(sql) {
  const kept = [{ sql, at: Date.now() }, ...remembered().filter((entry) => entry.sql !== sql)].slice(0, REMEMBERED);
  localStorage.setItem(HISTORY, JSON.stringify(kept));
  drawHistory();
}

function drawHistory() {
  const kept = remembered();
  const clear = () => (localStorage.removeItem(HISTORY), drawHistory());
  $("history").replaceChildren(
    kept.length
      ? el("ul", {}, kept.map(({ sql, at }) => el("li", {}, el("button", { type: "button", class: "entry", onclick: () => (($("history-box").open = false), put(sql)) }, el("code", {}, sql), el("span", { class: "fine" }, new Date(at).toLocaleString())))))
      : el("p", { class: "fine" }, "Statements that ran in this browser are listed here. They stay in it."),
    kept.length ? el("button", { type: "button", class: "quiet", onclick: clear }, "Forget them") : "",
  );
}
