// One transaction, account or slot. Belongs here: what of a record is shown, and in which order. Does not belong here: the rows of statements.
import { $, el, foreign, grouped, isHash, linked, moment, problemBox, readingLine, seen, whole } from "./dom.js";
import { json, stopped } from "./service.js";
import { plainTable } from "./grid.js";

const ROWS = 50;

const KINDS = {
  tx: ["Transaction", transaction],
  account: ["Account", account],
  slot: ["Slot", slot],
};

let running = null;

export const kinds = Object.keys(KINDS);

/** Show a record by its kind and name. */
export async function open(kind, name) {
  running?.abort();
  const mine = (running = new AbortController());
  const [title, draw] = KINDS[kind];
  $("title-record").replaceChildren(`${title} `, el("span", { class: "mono wrap" }, seen(name)));
  for (const part of ["record", "record-problem", "record-reading"]) $(part).replaceChildren();
  $("record-status").textContent = "Looking it up…";
  try {
    await draw(encodeURIComponent(name), mine.signal);
    $("record-status").textContent = "";
  } catch (error) {
    if (stopped(error)) return;
    if (!error.title) throw error;
    $("record-status").textContent = "";
    $("record-problem").replaceChildren(problemBox(error));
  }
}

const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
const amount = (value) => (value === null || value === undefined ? el("span", { class: "none" }, "null") : grouped(value));
/** What was added, exactly. */
function changed({ before, after }) {
  const more = BigInt(after ?? 0) - BigInt(before ?? 0);
  return `${more > 0n ? "+" : ""}${grouped(more)}`;
}

const or = (value, otherwise = "–") => (value === null || value === undefined ? otherwise : value);
const number = (name) => ({ name, number: true });
const word = (name) => ({ name });

function shown(reading, ...parts) {
  $("record").replaceChildren(...parts.filter(Boolean));
  $("record-reading").replaceChildren(readingLine(reading));
}

/** Says that a list is only the beginning of one. */
const cut = (page) => (page.truncated ? el("p", { class: "fine" }, `These are the first ${page.data.length}; there are more, which SQL has.`) : null);

async function transaction(name, signal) {
  const [one, called] = await Promise.all([json(`/v1/transactions/${name}`, { signal }), json(`/v1/transactions/${name}/instructions?limit=${ROWS}`, { signal })]);
  const row = one.data;
  shown(
    one.reading,
    el(
      "dl",
      { class: "facts" },
      fact("Status", el("span", { class: `chip ${row.status === "Success" ? "good" : "bad"}` }, row.status)),
      fact("Slot", linked(row.block_slot, "block_slot")),
      fact("Time", moment(row.block_timestamp)),
      fact("Fee", [amount(row.fee), " lamports"]),
      fact("Compute units", amount(row.compute_units_consumed)),
      fact("Position in the block", or(row.index)),
      row.err ? fact("Error", foreign(whole(row.err))) : null,
    ),
    plainTable(
      "Instructions",
      [number("#"), word("Program"), word("Type"), word("What it was given")],
      called.data.map((each) => [or(each.parent_index) === "–" ? String(each.index) : `${each.parent_index}.${each.index}`, linked(each.program_id), foreign(or(each.instruction_type, each.program ?? "–")), given(each)]),
    ),
    cut(called),
    plainTable(
      "Accounts",
      [word("Account"), word("Signer"), word("Writable")],
      (row.accounts ?? []).map((each) => [linked(each.pubkey), each.signer ? "yes" : "", each.writable ? "yes" : ""]),
    ),
    row.balance_changes?.some((each) => each.before !== each.after)
      ? plainTable(
          "Lamports that changed",
          [word("Account"), number("Change"), number("After")],
          row.balance_changes.filter((each) => each.before !== each.after).map((each) => [linked(each.account), changed(each), amount(each.after)]),
        )
      : null,
    row.log_messages?.length ? el("details", { open: true }, el("summary", {}, `Log, ${row.log_messages.length} lines`), el("pre", { tabIndex: 0, "aria-label": "Log", dir: "ltr" }, row.log_messages.map(seen).join("\n"))) : null,
  );
}

/** What an instruction was given: values by name where it is decoded, its bytes otherwise. */
function given({ params, parsed, data }) {
  if (!params?.length) return el("code", { class: "given" }, seen(short(whole(parsed ?? data ?? ""))));
  return el("div", { class: "given" }, params.map(({ key: name, value }, place) => [place ? ", " : "", el("span", { class: "label" }, seen(name), " "), isHash(plain(value)) ? linked(plain(value), name) : foreign(short(plain(value)))]));
}

/** A value that is JSON of a text, as that text. */
const plain = (value) => (/^".*"$/s.test(value) ? String(JSON.parse(value)) : value);

const short = (text) => (text.length > 400 ? `${text.slice(0, 400)}…` : text);

async function account(name, signal) {
  const asked = `order=desc&limit=${ROWS}`;
  const [made, balances] = await Promise.all([json(`/v1/accounts/${name}/transactions?${asked}`, { signal }), json(`/v1/accounts/${name}/balances?${asked}`, { signal })]);
  shown(
    made.reading,
    plainTable(
      "Transactions, the newest first",
      [number("Slot"), word("Transaction"), word("Status"), word("Time"), number("Fee")],
      made.data.map((row) => [linked(row.block_slot, "block_slot"), linked(row.signature), el("span", { class: `chip ${row.status === "Success" ? "good" : "bad"}` }, row.status), moment(row.block_timestamp), amount(row.fee)]),
    ),
    made.data.length ? cut(made) : el("p", {}, "No transaction that the lake has names this account."),
    plainTable(
      "Balances, the newest first",
      [number("Slot"), word("Asset"), number("Change"), number("After"), word("Transaction")],
      balances.data.map((row) => [linked(row.block_slot, "block_slot"), row.mint ? linked(row.mint) : "SOL, in lamports", changed(row), amount(row.after), linked(row.tx_signature)]),
    ),
    cut(balances),
  );
}

async function slot(name, signal) {
  const [one, made] = await Promise.all([json(`/v1/blocks/${name}`, { signal }), json(`/v1/transactions?first_slot=${name}&last_slot=${name}&votes=false&limit=${ROWS}`, { signal })]);
  const row = one.data;
  shown(
    one.reading,
    el(
      "dl",
      { class: "facts" },
      fact("Time", moment(row.block_timestamp)),
      fact("Transactions", amount(row.transaction_count)),
      fact("Leader", linked(row.leader)),
      fact("Leader's reward", [amount(row.leader_reward), " lamports"]),
      fact("Parent", linked(row.parent_slot, "parent_slot")),
      fact("Hash", linked(row.block_hash, "block_hash")),
    ),
    plainTable(
      "Transactions that are not votes",
      [number("#"), word("Transaction"), word("Status"), number("Fee"), number("Compute units")],
      made.data.map((each) => [String(each.index), linked(each.signature), el("span", { class: `chip ${each.status === "Success" ? "good" : "bad"}` }, each.status), amount(each.fee), amount(each.compute_units_consumed)]),
    ),
    cut(made),
  );
}
