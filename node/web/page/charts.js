// The charts: what the node remembers of its rounds, drawn by uPlot. Drag to zoom, double click to see all.
import { $, bytes, number, seconds, tabs } from "./dom.js";

const PARTS = ["exchange", "matchmaking", "work"];
const HEIGHT = 200;
const FIELDS = ["round", "finished_at", "outcome", "contributors", "loss", "work_seconds", "matchmaking_seconds",
  "exchange_seconds", "bytes_sent", "bytes_received"];
const rounds = new Map();
const charts = new Map();
let chosen = null;
let runId = "";
let lastEnd = 0;
let isChanged = true;

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function keep(done) {
  // A round that was made again takes the place of the one that was lost.
  const known = rounds.get(done.round);
  if (known === undefined || done.finished_at >= known.finished_at) rounds.set(done.round, done);
  lastEnd = Math.max(lastEnd, done.finished_at);
  isChanged = true;
}

async function fetchHistory() {
  const answer = await fetch("/history.json", { signal: AbortSignal.timeout(10000) });
  if (!answer.ok) return;
  const columns = await answer.json();
  columns.round.forEach((_, index) => {
    const done = Object.fromEntries(FIELDS.map((field) => [field, columns[field][index]]));
    done.metrics = Object.fromEntries(Object.entries(columns.metrics).map(([name, list]) => [name, list[index]]));
    keep(done);
  });
}

// Takes what is new of a status; the first time, and after another run began, all that the node remembers.
export async function follow(status) {
  if (status.run !== null && status.run.run_id !== runId) {
    runId = status.run.run_id;
    rounds.clear();
    lastEnd = 0;
    await fetchHistory();
  }
  for (const done of status.history) if (done.finished_at > lastEnd || rounds.size === 0) keep(done);
  if (isChanged) drawCharts();
}

const said = (value, format) => (value === null || value === undefined ? "–" : format(value));

// The legend shows the values under the pointer, and else the last ones.
function options(holder, series, format, extra) {
  const grid = { stroke: color("line"), width: 1 };
  const axis = { stroke: color("muted"), grid, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  return {
    width: holder.clientWidth, height: HEIGHT, legend: { live: true },
    cursor: { points: { size: 7 }, drag: { x: true, y: false } },
    scales: { x: { time: false }, y: extra?.scale ?? {} },
    axes: [{ ...axis, size: 28, space: 60, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 50000, 100000] },
      { ...axis, size: 54, values: (_, marks) => marks.map(format) }],
    series: [{ label: "round", value: (chart, value) => value ?? chart.data[0].at(-1) },
      ...series.map((each) => ({ width: 1.5, points: { show: false }, spanGaps: true, value: (chart, value, at, index) => said(index === null ? chart.data[at].at(-1) : value, format), ...each }))],
  };
}

function put(id, key, data, make) {
  const holder = $(id);
  const known = charts.get(id);
  if (data[0].length === 0) {
    known?.chart.destroy();
    charts.delete(id);
    holder.replaceChildren(Object.assign(document.createElement("div"), { className: "empty", textContent: "No round has ended yet." }));
    return;
  }
  if (known?.key === key) {
    // What somebody looks at more closely stays where it is.
    const { min, max } = known.chart.scales.x;
    const isWhole = min === known.chart.data[0][0] && max === known.chart.data[0].at(-1);
    known.chart.setData(data, isWhole);
    if (!isWhole) known.chart.redraw();
    return;
  }
  known?.chart.destroy();
  holder.replaceChildren();
  charts.set(id, { key, chart: new window.uPlot(make(holder), data, holder) });
}

function drawLearning(list, numbers) {
  const names = new Set(["loss"]);
  list.forEach((done) => Object.keys(done.metrics).forEach((name) => names.add(name)));
  const all = [...names].sort((a, b) => (b === "accuracy") - (a === "accuracy") || (a === "loss") - (b === "loss"));
  all.push("contributors");
  if (!all.includes(chosen)) chosen = null;
  const name = chosen ?? all[0];
  $("chart-title").textContent = `${name} per round`;
  tabs($("series"), all, name, (each) => { chosen = each; drawCharts(); });
  const values = list.map((done) => (name === "loss" || name === "contributors" ? done[name] : done.metrics[name]) ?? null);
  const points = { show: list.length < 40, size: 5, fill: color("accent") };
  put("chart", name + (list.length < 40), [numbers, values], (holder) =>
    options(holder, [{ label: name, stroke: color("accent"), width: 2, points }], (value) => number(value)));
}

// What nine of ten rounds do not pass. A first round that waited for company would make the others a flat line.
const usual = (values) => [...values].sort((a, b) => a - b)[Math.floor(0.9 * (values.length - 1))];

function drawTimes(list, numbers) {
  // Each area reaches from the ground to the sum of those below it: the largest is drawn first.
  const spent = (done, parts) => parts.reduce((sum, part) => sum + done[`${part}_seconds`], 0);
  const data = [numbers, ...PARTS.map((_, index) => list.map((done) => spent(done, PARTS.slice(index))))];
  put("times", "times", data, (holder) => options(holder,
    PARTS.map((part) => ({
      label: part, stroke: color(part), fill: color(part), width: 1,
      value: (chart, _, at, index) => seconds((index === null ? chart.data[at].at(-1) : chart.data[at][index]) - ((index === null ? chart.data[at + 1]?.at(-1) : chart.data[at + 1]?.[index]) ?? 0)),
    })), (value) => `${number(value)} s`, { scale: { range: (chart, low, high) => [0, Math.min(high, 4 * usual(chart.data[1])) || 1] } }));
}

function drawBytes(list, numbers) {
  const data = [numbers, list.map((done) => done.bytes_sent), list.map((done) => done.bytes_received)];
  put("bytes", "bytes", data, (holder) => options(holder,
    [{ label: "sent", stroke: color("accent") }, { label: "received", stroke: color("matchmaking") }],
    (value) => bytes(value), { scale: { range: (_, low, high) => [0, high || 1] } }));
  const middle = (field) => bytes(list.map((done) => done[field]).sort((a, b) => a - b)[list.length >> 1]);
  $("bytes-sum").textContent = list.length ? `median: ${middle("bytes_sent")} sent, ${middle("bytes_received")} received` : "";
}

export function drawCharts() {
  isChanged = false;
  const list = [...rounds.values()].filter((done) => done.outcome === "averaged" || done.outcome === "alone")
    .sort((a, b) => a.round - b.round);
  const numbers = list.map((done) => done.round + 1);
  drawLearning(list, numbers);
  drawTimes(list, numbers);
  drawBytes(list, numbers);
}

function redrawAll() {
  for (const { chart } of charts.values()) chart.destroy();
  charts.clear();
  drawCharts();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
new ResizeObserver(() => {
  for (const [id, { chart }] of charts) if (chart.width !== $(id).clientWidth) chart.setSize({ width: $(id).clientWidth, height: HEIGHT });
}).observe(document.body);
