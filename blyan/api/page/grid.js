// Rows of a result. Belongs here: drawing those in view, moving among them by keys, showing one value whole. Does not belong here: requests.
//
// Only the rows in view are elements, so that a hundred thousand cost what forty do. The focus stays on the grid, and
// aria-activedescendant names the cell, which may come and go.
import { copy, el, foreign, grouped, isHash, isMoment, isNumber, leads, linked, moment, seen, whole } from "./dom.js";

const ROW_PX = 30;
const AROUND = 12; // rows above and below what is in view
const LOOKED_AT = 200; // rows that decide how wide columns are
const SHOWN = 300; // characters of a value in a cell

export const MOST_ROWS = 300_000; // of a grid: a browser draws no table that is higher than some 17 million pixels

export class Grid {
  constructor(host, label) {
    this._host = host;
    this._label = label;
  }

  show(columns, rows) {
    this.columns = columns;
    this.rows = rows;
    this._at = { row: 0, column: 0 };
    this._first = -1;
    const widths = columns.map((column, place) => widthOf(column, place, rows));
    const heads = columns.map((column, place) =>
      el("th", { role: "columnheader", "aria-colindex": place + 2, title: `${column.name} ${column.type}`, class: isNumber(column.type) ? "number" : null }, foreign(column.name)),
    );
    this._body = el("tbody", { role: "presentation" });
    const table = el(
      "table",
      { role: "presentation" },
      el("colgroup", {}, el("col"), columns.map(() => el("col"))),
      el("thead", { role: "presentation" }, el("tr", { role: "row", "aria-rowindex": 1 }, el("th", { role: "columnheader", "aria-colindex": 1, class: "number" }, "#"), heads)),
      this._body,
    );
    const numbers = String(rows.length).length + 3;
    [numbers, ...widths].forEach((width, place) => (table.querySelectorAll("col")[place].style.width = `${width}ch`));
    table.style.width = `${widths.reduce((sum, width) => sum + width, numbers)}ch`;
    this._scroller = el(
      "div",
      { class: "grid", role: "grid", tabIndex: 0, "aria-label": this._label, "aria-colcount": columns.length + 1, onkeydown: (event) => this._keyed(event), onclick: (event) => this._clicked(event) },
      table,
    );
    this._scroller.addEventListener("scroll", () => this._later());
    this._value = el("div", { class: "value", hidden: true });
    this._host.replaceChildren(this._scroller, this._value);
    this._sized();
  }

  append(rows) {
    this.rows.push(...rows.slice(0, MOST_ROWS - this.rows.length));
    this._first = -1;
    this._sized();
  }

  _sized() {
    this._scroller.setAttribute("aria-rowcount", this.rows.length + 1);
    this._draw();
  }

  _later() {
    this._frame ??= requestAnimationFrame(() => {
      this._frame = null;
      this._draw();
    });
  }

  _draw() {
    const height = this._scroller.clientHeight || 600;
    const first = Math.max(0, Math.floor(this._scroller.scrollTop / ROW_PX) - AROUND);
    const last = Math.min(this.rows.length, first + Math.ceil(height / ROW_PX) + 2 * AROUND);
    if (first === this._first && last === this._last) return;
    [this._first, this._last] = [first, last];
    const drawn = [];
    for (let row = first; row < last; row++) drawn.push(this._row(row));
    this._body.replaceChildren(gap(first), ...drawn, gap(this.rows.length - last));
    this._mark();
  }

  _row(place) {
    const cells = this.columns.map((column, at) =>
      el("td", { role: "gridcell", id: `cell-${place}-${at}`, "aria-colindex": at + 2, "data-row": String(place), "data-column": String(at), class: isNumber(column.type) ? "number" : null }, cell(this.rows[place][at], column)),
    );
    return el("tr", { role: "row", "aria-rowindex": place + 2, class: place % 2 ? "odd" : null }, el("th", { role: "rowheader", "aria-colindex": 1, class: "number" }, String(place + 1)), cells);
  }

  _mark() {
    this._scroller.querySelector("td.at")?.classList.remove("at");
    const at = this._scroller.querySelector(`#cell-${this._at.row}-${this._at.column}`);
    at?.classList.add("at");
    if (at) this._scroller.setAttribute("aria-activedescendant", at.id);
    else this._scroller.removeAttribute("aria-activedescendant");
    return at;
  }

  _move(row, column) {
    this._at = { row: Math.max(0, Math.min(this.rows.length - 1, row)), column: Math.max(0, Math.min(this.columns.length - 1, column)) };
    const top = this._at.row * ROW_PX;
    const room = this._scroller.clientHeight - 2 * ROW_PX;
    if (top < this._scroller.scrollTop) this._scroller.scrollTop = top;
    else if (top > this._scroller.scrollTop + room) this._scroller.scrollTop = top - room;
    this._draw();
    this._mark()?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  _keyed(event) {
    const { row, column } = this._at;
    const page = Math.max(1, Math.floor(this._scroller.clientHeight / ROW_PX) - 2);
    const far = event.ctrlKey || event.metaKey;
    const moves = {
      ArrowUp: () => this._move(row - 1, column),
      ArrowDown: () => this._move(row + 1, column),
      ArrowLeft: () => this._move(row, column - 1),
      ArrowRight: () => this._move(row, column + 1),
      PageUp: () => this._move(row - page, column),
      PageDown: () => this._move(row + page, column),
      Home: () => this._move(far ? 0 : row, 0),
      End: () => this._move(far ? this.rows.length - 1 : row, this.columns.length - 1),
      Enter: () => this._open(),
    };
    if (event.target !== this._scroller || !this.rows.length) return;
    if (far && event.key === "Enter") return;
    if (moves[event.key]) {
      moves[event.key]();
      event.preventDefault();
    } else if (far && event.key === "c" && !String(getSelection())) {
      copy(whole(this.rows[row][column]));
      event.preventDefault();
    }
  }

  _clicked(event) {
    const found = event.target.closest("td[data-row]");
    if (!found || event.target.closest("a, button") || String(getSelection())) return;
    this._at = { row: +found.dataset.row, column: +found.dataset.column };
    this._mark();
    this._showValue();
  }

  _open() {
    const target = leads(this.rows[this._at.row][this._at.column], this.columns[this._at.column].name);
    if (target) location.hash = target;
    else this._showValue();
  }

  _showValue() {
    const column = this.columns[this._at.column];
    const value = this.rows[this._at.row][this._at.column];
    const text = typeof value === "object" && value !== null ? JSON.stringify(value, null, 1) : whole(value);
    this._value.hidden = false;
    this._value.replaceChildren(
      el("div", { class: "bar" }, el("span", { class: "label", role: "status" }, `Row ${this._at.row + 1}, `, foreign(column.name), ` ${column.type.length > 40 ? "" : column.type}`), el("span", { class: "spring" }),
        el("button", { type: "button", class: "quiet", onclick: () => copy(whole(value)) }, "Copy"),
        el("button", { type: "button", class: "quiet", onclick: () => ((this._value.hidden = true), this._scroller.focus()) }, "Close")),
      value === null ? el("p", { class: "none" }, "null") : el("pre", { tabIndex: 0, "aria-label": "The whole value" }, seen(text)),
    );
    this._value.scrollIntoView({ block: "nearest" });
  }
}

function gap(rows) {
  const made = el("tr", { role: "presentation", class: "gap" }, el("td", { role: "presentation" }));
  made.firstChild.style.height = `${rows * ROW_PX}px`;
  made.hidden = !rows;
  return made;
}

function cell(value, column) {
  if (value === null) return el("span", { class: "none" }, "null");
  if (isNumber(column.type)) {
    const target = leads(value, column.name);
    return target ? el("a", { href: target, tabIndex: -1 }, String(value)) : /(^|_)(slot|index|height)$/.test(column.name) ? String(value) : grouped(value);
  }
  if (isMoment(column.type)) return moment(value);
  if (isHash(value)) {
    const made = linked(value, column.name);
    for (const part of made.querySelectorAll("a, button")) part.tabIndex = -1;
    return made;
  }
  const text = whole(value);
  return foreign(text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text.replaceAll("\n", " ⏎ "));
}

function widthOf(column, place, rows) {
  let most = column.name.length + 1;
  for (const row of rows.slice(0, LOOKED_AT)) {
    const value = row[place];
    most = Math.max(most, isHash(value) ? 12 : isMoment(column.type) ? 27 : isNumber(column.type) ? grouped(value ?? "").length : whole(value).length);
  }
  return Math.max(6, Math.min(44, most)) + 3;
}

/** A small table, all of whose rows are drawn; values may be elements. */
export function plainTable(caption, heads, rows) {
  return el(
    "div",
    { class: "sideways", tabIndex: 0, role: "region", "aria-label": caption },
    el(
      "table",
      { class: "plain" },
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", class: head.number ? "number" : null }, head.name)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, row.map((value, place) => el("td", { class: heads[place].number ? "number" : null }, value))))),
    ),
  );
}

