// Elements, and how values are shown. Belongs here: what every view draws with. Does not belong here: requests, views.
//
// Text from the chain is anybody's text. It becomes a text node and nothing else, is isolated from the writing direction of what is
// around it, and characters that nobody sees are written out.

const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]|[\u{e0000}-\u{e007f}]/gu;
const SIGNATURE = /^[1-9A-HJ-NP-Za-km-z]{64,88}$/;
const ADDRESS = /^[1-9A-HJ-NP-Za-km-z]{32,44}$/;
const NUMBER = /^(U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|DECIMAL|DOUBLE|FLOAT|REAL)/;
const MOMENT = /^(TIMESTAMP|DATE)/;

export const $ = (id) => document.getElementById(id);

/** An element with properties (`class`, `aria-…` and `data-…` as attributes, `on…` as listeners) and children, of which texts stay texts. */
export function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "class" || key === "for" || key === "role" || key.includes("-")) made.setAttribute(key, value === true ? "" : value);
    else made[key] = value;
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Text with what cannot be seen written out. */
export const seen = (text) => text.replace(UNSEEN, (sign) => `\\u${sign.codePointAt(0).toString(16).padStart(4, "0")}`);

/** Text of the chain, isolated. */
export const foreign = (text, properties = {}) => el("bdi", properties, seen(String(text)));

export const isNumber = (type) => NUMBER.test(type) && !type.endsWith("]");
export const isMoment = (type) => MOMENT.test(type) && !type.endsWith("]");

/** A value as text, whole: numbers of 64 bits and decimals are texts already. */
export function whole(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Digits in threes, which changes none of them. */
export function grouped(value) {
  const text = String(value);
  const found = /^(-?)(\d+)(\.\d+)?$/.exec(text);
  return found ? found[1] + found[2].replace(/\B(?=(\d{3})+$)/g, "\u202f") + (found[3] ?? "") : text;
}

export const shortened = (text, ends = 4) => (text.length > 2 * ends + 3 ? `${text.slice(0, ends)}…${text.slice(-ends)}` : text);

/** Where a value leads to, by the name of its column and by what it looks like; null: nowhere. */
export function leads(value, column = "") {
  if (value === null || value === undefined) return null;
  const text = String(value);
  if (/(^|_)slot$/.test(column) && /^\d{1,16}$/.test(text)) return `#slot/${text}`;
  if (typeof value !== "string" || /hash|digest|sha256|state$/.test(column)) return null;
  if (SIGNATURE.test(text)) return `#tx/${text}`;
  return ADDRESS.test(text) ? `#account/${text}` : null;
}

export const isHash = (value) => typeof value === "string" && (SIGNATURE.test(value) || ADDRESS.test(value));

/** A value that leads somewhere as a link with a button to copy it, anything else as text. */
export function linked(value, column = "", { whole: long = false } = {}) {
  if (value === null || value === undefined) return el("span", { class: "none" }, "null");
  const text = whole(value);
  const target = leads(value, column);
  const shown = isHash(value) && !long ? shortened(text) : text;
  const named = target ? el("a", { href: target, title: text, class: isHash(value) ? "mono" : null }, shown) : foreign(shown, { title: shown === text ? null : text });
  return isHash(value) ? el("span", { class: "hash" }, named, copier(text)) : named;
}

export const copier = (text) =>
  el("button", { type: "button", class: "copy", "aria-label": `Copy ${shortened(text)}`, title: "Copy", onclick: () => copy(text) });

/** Put a text where the reader can paste it from, and say so. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    notify(`Copied ${shortened(text, 8)}`);
  } catch {
    notify("The browser does not let this page copy.");
  }
}

let quiet;

/** Say something in passing. */
export function notify(text) {
  $("notice").textContent = text;
  clearTimeout(quiet);
  quiet = setTimeout(() => ($("notice").textContent = ""), 4000);
}

/** A problem document, as a reader needs it: what happened, where, and what to do. */
export function problemBox(problem) {
  const others = (problem.errors ?? []).filter((fault) => fault.what !== problem.detail);
  return el(
    "div",
    { class: "problem", role: "alert" },
    el("strong", {}, problem.title),
    el("pre", { class: "detail" }, seen(problem.detail ?? "")),
    others.length ? el("ul", {}, others.map((fault) => el("li", {}, el("code", {}, fault.where), " ", seen(fault.what)))) : null,
    problem.remedy ? el("p", { class: "remedy" }, el("span", { class: "label" }, "What to do: "), seen(problem.remedy)) : null,
    problem.request_id ? el("p", { class: "fine" }, `${problem.status} · request ${problem.request_id}`) : null,
  );
}

const DAGSTER = document.querySelector("meta[name=blyan-dagster]").content;

/** What an answer was read from: tables with their versions, up to which slot, how sure, how far behind. */
export function readingLine(reading, also = []) {
  if (!reading) return el("p", { class: "reading" });
  const parts = [];
  const tables = Object.entries(reading.versions ?? {});
  tables.forEach(([name, version], place) => {
    const shown = `${name.replace("/", ".")}@${version ?? "tail"}`;
    parts.push(place ? ", " : "", DAGSTER ? el("a", { href: `${DAGSTER}/assets/${name}`, target: "_blank", rel: "noopener noreferrer", title: `${name} in Dagster` }, `${shown} ↗`) : shown);
  });
  if (!tables.length) parts.push("no table");
  if (reading.up_to_slot !== null && reading.up_to_slot !== undefined) {
    parts.push(" up to slot ", el("a", { href: `#slot/${reading.up_to_slot}` }, String(reading.up_to_slot)), ` (${reading.finality ?? "not known how sure"}`);
    if (reading.finality !== "finalized" && reading.finalized_to >= 0 && reading.finalized_to !== null) parts.push(`; final to ${reading.finalized_to}`);
    parts.push(")");
  }
  if (reading.behind_slots !== null && reading.behind_slots !== undefined) {
    parts.push(`, behind the tip by ${reading.behind_slots} ${reading.behind_slots === 1 ? "slot" : "slots"} and ${span(reading.behind_ms)}`);
  } else if (tables.length) parts.push(", nobody follows the tip");
  if (reading.ranges_behind) parts.push(`, without ${reading.ranges_behind} ${reading.ranges_behind === 1 ? "range" : "ranges"} that the index has not yet`);
  if (reading.as_of_slot !== null && reading.as_of_slot !== undefined) parts.push(`, as of slot ${reading.as_of_slot}`);
  return el("p", { class: "reading" }, el("span", { class: "label" }, "Read: "), parts, also);
}

/** Milliseconds in words. */
export function span(ms) {
  if (ms === null || ms === undefined) return "an unknown time";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 120_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${Math.round(ms / 3_600_000)} h`;
  return `${Math.round(ms / 86_400_000)} days`;
}

export const moment = (text) => (text ? text.replace("T", " ").replace(/\.0+Z$/, "Z").replace("Z", " UTC") : "");
