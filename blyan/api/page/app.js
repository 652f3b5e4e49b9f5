// Starts the page. Belongs here: which view is shown, and the key. Does not belong here: views.
import { $, notify, problemBox } from "./dom.js";
import { json, key } from "./service.js";
import * as sql from "./sql.js";
import * as search from "./search.js";
import * as chat from "./ask.js";
import * as live from "./live.js";
import * as record from "./record.js";

const VIEWS = ["sql", "search", "ask", "live"];
const ANONYMOUS = document.querySelector("meta[name=blyan-anonymous]").content === "true";

let first = true;

/** Show what the address names: a view, a record, or pinned rows. */
function show() {
  const [kind, name = ""] = location.hash.slice(1).split("/");
  const isRecord = record.kinds.includes(kind) && name;
  const view = isRecord ? "record" : VIEWS.includes(kind) ? kind : "sql";
  for (const each of [...VIEWS, "record"]) $(`view-${each}`).hidden = each !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const title = $(`title-${view}`);
  if (isRecord) record.open(kind, decodeURIComponent(name));
  if (kind === "pin" && /^[0-9a-f]{64}$/.test(name)) sql.openPin(name);
  document.title = `${title.textContent.slice(0, 40)} · Blyan`;
  // Who follows a link hears where it led; who has just come begins at the top.
  if (!first && !["pin", "sql"].includes(kind)) title.focus({ preventScroll: true });
  if (!first) scrollTo(0, 0);
  first = false;
  window.dispatchEvent(new CustomEvent("shown", { detail: view }));
}

/** Ask for what needs a key: the tables, and the live slots. */
async function connect() {
  $("show-key").textContent = key.get() ? "Key ✓" : "Key";
  if (!key.get() && !ANONYMOUS) return openKey();
  try {
    sql.know((await json("/v1/tables")).data);
  } catch (error) {
    if (!error.title) throw error;
    return openKey(error);
  }
  live.listen();
}

function openKey(problem) {
  $("key-problem").replaceChildren(...(problem ? [problemBox(problem)] : []));
  $("key-field").value = key.get();
  if (!$("key-dialog").open) $("key-dialog").showModal();
  $("key-field").focus();
}

function start() {
  for (const part of [sql, search, chat, live]) part.start();
  $("show-key").addEventListener("click", () => openKey());
  $("key-close").addEventListener("click", () => $("key-dialog").close());
  $("key-forget").addEventListener("click", () => {
    key.set("");
    $("key-dialog").close();
    location.reload();
  });
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    key.set($("key-field").value.trim());
    $("key-field").value = "";
    $("key-dialog").close();
    connect();
  });
  $("show-keys").addEventListener("click", () => $("shortcuts").showModal());
  window.addEventListener("keyless", (event) => openKey(event.detail));
  window.addEventListener("hashchange", show);
  window.addEventListener("unhandledrejection", (event) => notify(`The page failed: ${event.reason?.message ?? event.reason}`));
  window.addEventListener("error", (event) => notify(`The page failed: ${event.message}`));
  show();
  connect();
}

start();
