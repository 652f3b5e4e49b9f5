// Slots as they land. Belongs here: the stream and coming back to it, the line at the top, the view. Does not belong here: live queries (sql.js).
//
// The line changes several times a second, so it is not announced: the view's status is, when the connection changes.
import { $, el, grouped, linked, problemBox } from "./dom.js";
import { events, json, stopped } from "./service.js";

const KEPT = 120; // slots
const LISTED = 25;
const PAUSE_MS = 500;
const MOST_PAUSE_MS = 15_000;
const BLOCKS_MS = 1_000; // between two questions for the blocks of slots that landed

const slots = new Map(); // slot: {slot, state, transactions, leader}
let tip = null;
let final = null;
let newest = null;
let after = null;
let control = null;
let asking = null;
let drawing = null;

export function start() {
  window.addEventListener("shown", draw);
  document.addEventListener("visibilitychange", () => document.hidden || askForBlocks());
}

/** Listen until told to stop, and come back where the connection breaks. */
export async function listen() {
  control?.abort();
  const mine = (control = new AbortController());
  let pause = PAUSE_MS;
  while (!mine.signal.aborted) {
    try {
      state("off", "Connecting…");
      const path = after === null ? "/v1/live" : `/v1/live?after=${after}`;
      for await (const { event, id, data } of events(path, { signal: mine.signal, opened: () => state("on", "Connected: slots are shown as they land.") })) {
        pause = PAUSE_MS;
        after = id ?? after;
        heard(event, JSON.parse(data));
      }
    } catch (error) {
      if (stopped(error)) return;
      if (!error.title) throw error;
      if ([401, 403, 404].includes(error.status)) {
        state("off", "");
        $("ticker-text").textContent = error.status === 401 ? "needs a key" : "not allowed";
        $("live-problem").replaceChildren(problemBox(error));
        return;
      }
    }
    state("off", "The connection is lost. Coming back to it…");
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(2 * pause, MOST_PAUSE_MS);
  }
}

function heard(event, data) {
  if (event === "head") {
    final = data.finalized_to;
    tip = data.tip;
    data.slots.forEach(landed);
    askForBlocks();
  } else if (event === "slot") {
    landed(data);
    tip = Math.max(tip ?? 0, data.tip);
    askForBlocks();
  } else if (event === "gone") slots.delete(data.slot);
  else if (event === "final") final = data.finalized_to;
  else if (event === "slow") after = null;
  settle();
}

/** Keep the newest slots, and draw them. */
function settle() {
  newest = Math.max(-1, ...slots.keys());
  for (const slot of [...slots.keys()].sort((one, other) => one - other).slice(0, -KEPT)) slots.delete(slot);
  draw();
}

function landed({ slot, state: how }) {
  slots.set(slot, { ...slots.get(slot), slot, state: how });
}

/** The transactions and leaders of slots that landed, asked for together. */
function askForBlocks() {
  asking ??= setTimeout(async () => {
    asking = null;
    const lacking = [...slots.values()].filter((each) => each.state === "landed" && each.transactions === undefined).map((each) => each.slot);
    const from = slots.size < LISTED ? Math.max(0, newest - KEPT) : Math.min(...lacking);
    if (document.hidden || (slots.size >= LISTED && !lacking.length)) return;
    // Where nothing has landed, the newest are those of the lake.
    const among = newest < 0 ? "" : `&first_slot=${from}&last_slot=${Math.max(newest, from)}`;
    try {
      const page = await json(`/v1/blocks?order=desc&limit=${KEPT}${among}`, { signal: control.signal });
      for (const { slot, transaction_count: transactions, leader } of page.data) slots.set(slot, { state: "landed", ...slots.get(slot), slot, transactions, leader });
      final = Math.max(final ?? -1, page.reading.finalized_to ?? -1);
      settle();
    } catch (error) {
      if (!stopped(error) && !error.title) throw error;
    }
  }, BLOCKS_MS);
}

function state(light, words) {
  $("ticker").querySelector(".dot").dataset.state = light;
  if (light === "on") {
    $("live-problem").replaceChildren();
    draw();
  }
  if ($("live-status").textContent !== words) $("live-status").textContent = words;
  if (light === "off" && words) $("ticker-text").textContent = "connecting…";
}

const sure = (slot) => (final !== null && slot <= final ? "finalized" : "confirmed");

function draw() {
  drawing ??= requestAnimationFrame(() => {
    drawing = null;
    const known = [...slots.values()].sort((one, other) => other.slot - one.slot);
    const [last] = known;
    if (!last) {
      if (tip !== null) $("ticker-text").textContent = "no slots";
      $("live-facts").replaceChildren(...(tip === null ? [] : [fact("Newest slot", "there is none: the lake is empty")]));
      return;
    }
    const counted = known.find((each) => typeof each.transactions === "number");
    $("ticker-text").replaceChildren(el("span", { class: "far" }, "slot "), el("b", {}, String(last.slot)), el("span", { class: "far" }, ` ${sure(last.slot)}`), counted ? el("span", { class: "far" }, ` · ${grouped(counted.transactions)} tx`) : "", el("span", { class: "far" }, spark(known, 60, 16)));
    if ($("view-live").hidden) return;
    $("live-facts").replaceChildren(
      fact("Newest slot", el("a", { href: `#slot/${last.slot}`, class: "big" }, String(last.slot))),
      fact("How sure", sure(last.slot)),
      fact("Final up to", final === null || final < 0 ? "nothing yet" : el("a", { href: `#slot/${final}` }, String(final))),
      fact("Tip of the chain", tip < 0 ? "nobody follows it" : String(tip)),
      fact("Transactions", counted ? grouped(counted.transactions) : "…"),
      fact("Leader", counted?.leader ? linked(counted.leader) : "…"),
    );
    $("live-line").replaceChildren(spark(known, 600, 72, "Transactions of each slot"));
    $("live-slots").tBodies[0].replaceChildren(
      ...known.slice(0, LISTED).map((each) =>
        el("tr", {}, el("td", { class: "number" }, el("a", { href: `#slot/${each.slot}` }, String(each.slot))), el("td", {}, each.state === "landed" ? sure(each.slot) : each.state), el("td", { class: "number" }, each.transactions === undefined || each.transactions === null ? "" : grouped(each.transactions)), el("td", {}, each.leader ? linked(each.leader) : "")),
      ),
    );
  });
}

const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));

/** Transactions of each slot as bars, the newest at the right. */
function spark(known, width, height, label) {
  const counts = known.filter((each) => typeof each.transactions === "number").slice(0, label ? KEPT : 24).reverse();
  const most = Math.max(1, ...counts.map((each) => each.transactions));
  const made = svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" });
  if (label && counts.length) {
    made.setAttribute("role", "img");
    made.setAttribute("aria-label", `${label}: ${counts.length} slots up to ${counts.at(-1).slot}, the most ${most}, the newest ${counts.at(-1).transactions}`);
  } else made.setAttribute("aria-hidden", "true");
  const step = width / Math.max(label ? 40 : 24, counts.length);
  counts.forEach(({ transactions }, place) => {
    const high = Math.max(1, (height * transactions) / most);
    made.append(svg("rect", { x: width - (counts.length - place) * step, y: height - high, width: step * 0.75, height: high }));
  });
  return made;
}

function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
