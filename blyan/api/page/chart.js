// A chart of a result. Belongs here: which columns, which kind, drawing by uPlot, and saying in words what is drawn. Does not belong here:
// the rows themselves, whose table is the chart's other form.
import { uPlot } from "./vendor.js";
import { el, isMoment, isNumber, moment, seen, shortened } from "./dom.js";

const BARS = 60; // of names, at most: more cannot be read
const HEIGHT_PX = 340;

export class Chart {
  constructor(host) {
    this._host = host;
    this._kind = choice("Kind", ["line", "bar", "scatter"]);
    this._x = choice("Across", []);
    this._y = choice("Up", []);
    this._said = el("figcaption", { id: "chart-said" });
    this._canvas = el("div", { class: "canvas", role: "img", "aria-labelledby": "chart-said" });
    host.replaceChildren(
      el("div", { class: "bar" }, [this._kind, this._x, this._y].map((made) => made.label)),
      el("figure", {}, this._canvas, this._said),
    );
    for (const made of [this._kind, this._x, this._y]) made.select.addEventListener("change", () => this.draw());
    new ResizeObserver(() => this._plot && this._canvas.clientWidth !== this._plot.width && this._plot.setSize({ width: this._canvas.clientWidth, height: HEIGHT_PX })).observe(this._canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Take another result. What was chosen stays where the columns are the same. */
  show(columns, rows) {
    this._columns = columns;
    this._rows = rows;
    const names = columns.map((column) => column.name);
    const numbers = columns.filter((column) => isNumber(column.type)).map((column) => column.name);
    if (names.join("\n") !== this._names) {
      this._names = names.join("\n");
      const across = names.find((name, place) => isMoment(columns[place].type)) ?? names.find((name) => /(^|_)slot$/.test(name)) ?? names.find((name) => !numbers.includes(name)) ?? names[0];
      const up = numbers.find((name) => name !== across && !/(^|_)(slot|index)$/.test(name)) ?? numbers.find((name) => name !== across) ?? numbers[0];
      fill(this._x.select, names, across);
      fill(this._y.select, numbers, up);
      const kind = columns[names.indexOf(across)]?.type ?? "";
      this._kind.select.value = isNumber(kind) || isMoment(kind) ? "line" : "bar";
    }
    if (!this._host.hidden) this.draw();
  }

  draw() {
    this._plot?.destroy();
    this._plot = null;
    this._canvas.replaceChildren();
    const x = this._columns.find((column) => column.name === this._x.select.value);
    const y = this._columns.find((column) => column.name === this._y.select.value);
    if (!x || !y || !this._rows.length) {
      this._said.textContent = this._rows.length ? "There is no column of numbers to draw." : "There are no rows to draw.";
      return;
    }
    const points = this._points(x, y);
    this._said.textContent = said(this._kind.select.value, x, y, points, this._rows.length);
    if (!points.xs.length) return;
    this._plot = new uPlot(options(this._kind.select.value, x, y, points, this._canvas.clientWidth || 600), [points.xs, points.ys], this._canvas);
  }

  /** Values as the floats that are drawn, in order of x. */
  _points(x, y) {
    const [atX, atY] = [this._columns.indexOf(x), this._columns.indexOf(y)];
    const named = !isMoment(x.type) && !isNumber(x.type);
    let pairs = this._rows.filter((row) => (named || row[atX] !== null) && row[atY] !== null && Number.isFinite(Number(row[atY])));
    const beyond = named ? Math.max(0, pairs.length - BARS) : 0;
    let names = null;
    if (isMoment(x.type)) pairs = pairs.map((row) => [Date.parse(zoned(row[atX])) / 1000, Number(row[atY])]);
    else if (isNumber(x.type)) pairs = pairs.map((row) => [Number(row[atX]), Number(row[atY])]);
    else {
      pairs = pairs.slice(0, BARS);
      names = pairs.map((row) => seen(row[atX] === null ? "null" : typeof row[atX] === "object" ? JSON.stringify(row[atX]) : String(row[atX])));
      pairs = pairs.map((row, place) => [place, Number(row[atY])]);
    }
    pairs = pairs.filter(([at]) => Number.isFinite(at)).sort((one, other) => one[0] - other[0]);
    return { xs: pairs.map((pair) => pair[0]), ys: pairs.map((pair) => pair[1]), names, beyond };
  }
}

const zoned = (text) => (/Z|[+-]\d\d(:?\d\d)?$/.test(text) || text.length <= 10 ? text : `${text}Z`);

function choice(name, options) {
  const select = el("select");
  fill(select, options, options[0]);
  return { select, label: el("label", {}, `${name} `, select) };
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map((name) => el("option", { value: name }, seen(name))));
  if (chosen !== undefined) select.value = chosen;
}

function said(kind, x, y, { xs, ys, names, beyond }, rows) {
  if (!xs.length) return "No row has numbers in both columns.";
  let least = 0, most = 0;
  ys.forEach((value, place) => {
    if (value < ys[least]) least = place;
    if (value > ys[most]) most = place;
  });
  const at = (place) => (names ? names[place] : isMoment(x.type) ? moment(new Date(xs[place] * 1000).toISOString()) : xs[place]);
  const left = (count, why) => (count ? ` ${count} ${count === 1 ? "row is" : "rows are"} not drawn: ${why}.` : "");
  const drawn = { line: "Line", bar: "Bars", scatter: "Points" }[kind];
  return (
    `${drawn}: ${seen(y.name)} by ${seen(x.name)}, ${xs.length} ${xs.length === 1 ? "point" : "points"} from ${at(0)} to ${at(xs.length - 1)}; ` +
    `least ${ys[least]} at ${at(least)}, greatest ${ys[most]} at ${at(most)}.` +
    left(rows - beyond - xs.length, "null, or no number") +
    left(beyond, `names are drawn up to ${BARS}`) +
    " Drawn in floating point; the table has the exact values."
  );
}

function options(kind, x, y, { xs, names }, width) {
  const style = getComputedStyle(document.documentElement);
  const [ink, line, accent] = ["--ink", "--line", "--accent"].map((name) => style.getPropertyValue(name).trim());
  const font = "12px system-ui, sans-serif";
  const axis = { stroke: ink, font, labelFont: font, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
  const series = { label: y.name, value: (_, at) => (at === null || at === undefined ? "–" : String(at)), stroke: accent, width: 1.5, points: { show: xs.length < 120, size: 5, fill: accent } };
  if (kind === "bar") Object.assign(series, { fill: accent, width: 0, paths: uPlot.paths.bars({ size: [0.7, 48] }), points: { show: false } });
  if (kind === "scatter") Object.assign(series, { paths: () => null, points: { show: true, size: 5, fill: accent } });
  const named = (_, places) => places.map((place) => (Number.isInteger(place) && names[place] !== undefined ? shortened(names[place], names.length > 12 ? 4 : 9) : ""));
  const slanted = names?.length > width / 130; // pixels that a name takes
  const across = names
    ? { ...axis, label: x.name, values: named, rotate: slanted ? -45 : 0, size: slanted ? 90 : 50, splits: () => xs, grid: { show: false } }
    : isMoment(x.type)
      ? { ...axis, label: `${x.name}, UTC`, values: clock, space: 90 }
      : { ...axis, label: x.name, values: (_, places) => places.map(String) };
  const zero = kind === "bar";
  return {
    width,
    height: HEIGHT_PX,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    scales: {
      x: { time: isMoment(x.type), range: kind === "bar" ? (_, least, most) => widened(least, most, xs) : undefined },
      y: { range: (_, least, most) => (least === most ? [Math.min(0, least), Math.max(1, most * 1.1)] : uPlot.rangeNum(zero ? Math.min(0, least) : least, zero ? Math.max(0, most) : most, 0.1, true)) },
    },
    axes: [across, { ...axis, label: y.name, size: 80 }],
    series: [{ label: x.name, value: (_, at) => (at === null || at === undefined ? "–" : names ? names[at] : isMoment(x.type) ? iso(at) : String(at)) }, series],
    cursor: { drag: { x: true, y: false } },
    legend: { live: true },
  };
}

const iso = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ");

/** Moments as long as tells them apart: days, minutes or seconds. */
const clock = (_, places, axis, space, step) => places.map((seconds) => (step >= 86_400 ? iso(seconds).slice(0, 10) : iso(seconds).slice(11, step >= 60 ? 16 : 19)));

/** Half a bar of room on both sides. */
function widened(least, most, xs) {
  const half = xs.length > 1 ? (most - least) / (xs.length - 1) / 2 : 0.5;
  return [least - half, most + half];
}
