// The status page: asks /status.json every second and draws it. Whatever a peer chose (addresses, reasons,
// names) enters the document as text nodes only, never as markup.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const PARTS = ["work", "matchmaking", "exchange"];
let chosen = null;
let before = null;

const $ = (id) => document.getElementById(id);

function node(name, attributes, ...children) {
  const made = name.startsWith("svg:")
    ? document.createElementNS(SVG, name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null).map((c) => (c instanceof Node ? c : String(c))));
  return made;
}

const short = (peer) => peer.slice(-8);
const number = (value, digits = 4) =>
  value === null || value === undefined ? "–" : Number(value.toPrecision(digits)).toString();

function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) { count /= 1000; unit += 1; }
  return `${unit ? count.toPrecision(3) : count} ${units[unit]}`;
}

function seconds(value) {
  if (value < 120) return `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}

function tile(label, value, note = "") {
  return node("div", { class: "tile" },
    node("div", { class: "label" }, label), node("div", { class: "value" }, value), node("div", { class: "note" }, note));
}

function drawTiles(status) {
  const linked = status.peers.filter((peer) => peer.link !== "none").length;
  const agree = status.peers.filter((peer) => peer.state_hash && peer.state_hash === status.state_hash).length;
  const rate = (key) => {
    if (!before || status.uptime_seconds <= before.uptime_seconds) return "";
    const per = (status[key] - before[key]) / (status.uptime_seconds - before.uptime_seconds);
    return `${bytes(Math.max(0, Math.round(per)))}/s`;
  };
  const tiles = [
    tile("Round", status.round, status.run && status.run.rounds ? `of ${status.run.rounds}` : ""),
    tile("Peers", linked, `${status.peers.length} known`),
  ];
  for (const [name, value] of Object.entries(status.metrics).slice(0, 2)) tiles.push(tile(name, number(value)));
  tiles.push(
    tile("Loss", number(status.loss, 3)),
    tile("Utilisation", status.utilisation === null ? "–" : `${Math.round(100 * status.utilisation)} %`, "computing, not waiting"),
    tile("State", status.state_hash.slice(0, 6) || "–", status.peers.length && status.state_hash ? `${agree} of ${status.peers.length} peers agree` : ""),
    tile("Sent", bytes(status.bytes_sent), rate("bytes_sent")),
    tile("Received", bytes(status.bytes_received), rate("bytes_received")));
  $("tiles").replaceChildren(...tiles);
}

function ticks(low, high) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= rough);
  const found = [];
  for (let at = Math.floor(low / step) * step; at < high + step * 0.999; at += step) found.push(Number(at.toPrecision(10)));
  return found.length > 1 ? found : [low, low + step];
}

function frame(holder, marks) {
  const box = { width: holder.clientWidth, height: holder.clientHeight, left: 44, right: 10, top: 8, bottom: 22 };
  const low = marks[0], high = marks[marks.length - 1];
  box.y = (value) => box.top + (1 - (value - low) / (high - low)) * (box.height - box.top - box.bottom);
  const svg = node("svg:svg", { role: "img", viewBox: `0 0 ${box.width} ${box.height}` });
  for (const mark of marks) {
    svg.append(
      node("svg:line", { class: "grid", x1: box.left, x2: box.width - box.right, y1: box.y(mark), y2: box.y(mark) }),
      node("svg:text", { class: "axis", x: box.left - 6, y: box.y(mark) + 4, "text-anchor": "end" }, number(mark)));
  }
  return [svg, box];
}

function labelRounds(svg, box, history, x) {
  const every = Math.max(1, Math.ceil(history.length / 8));
  history.forEach((done, index) => {
    if (index % every === 0) {
      svg.append(node("svg:text", { class: "axis", x: x(index), y: box.height - 4, "text-anchor": "middle" }, done.round));
    }
  });
}

function hover(holder, svg, box, count, x, text, mark) {
  const tip = node("div", { class: "tip", hidden: "" });
  const show = (event) => {
    const at = event.clientX - svg.getBoundingClientRect().left;
    let index = 0;
    for (let i = 1; i < count; i += 1) if (Math.abs(x(i) - at) < Math.abs(x(index) - at)) index = i;
    tip.textContent = text(index);
    tip.hidden = false;
    const space = box.width - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(space, x(index) + 10))}px`;
    mark(index);
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerleave", () => { tip.hidden = true; mark(-1); });
  holder.replaceChildren(svg, tip);
}

function values(history, name) {
  return history.map((done) => (name === "loss" ? done.loss : done.metrics[name]) ?? null);
}

function drawChart(status) {
  const holder = $("chart");
  const names = new Set(["loss"]);
  status.history.forEach((done) => Object.keys(done.metrics).forEach((name) => names.add(name)));
  const list = [...names].sort((a, b) => (b === "accuracy") - (a === "accuracy") || (a === "loss") - (b === "loss"));
  if (!names.has(chosen)) chosen = null;
  const name = chosen ?? list[0];
  $("chart-title").textContent = `${name} per round`;
  $("series").replaceChildren(...list.map((each) => {
    const button = node("button", { type: "button", "aria-pressed": each === name }, each);
    button.addEventListener("click", () => { chosen = each; drawChart(status); });
    return button;
  }));
  const points = values(status.history, name);
  const known = points.filter((value) => value !== null);
  if (known.length === 0) {
    holder.replaceChildren(node("div", { class: "empty" }, "No round has ended yet."));
    return;
  }
  const [svg, box] = frame(holder, ticks(Math.min(...known), Math.max(...known)));
  svg.setAttribute("aria-label", `${name}, last value ${number(known[known.length - 1])}`);
  const inner = box.width - box.left - box.right;
  const x = (index) => box.left + (points.length > 1 ? (index / (points.length - 1)) * inner : inner / 2);
  let path = "", pen = false;
  points.forEach((value, index) => {
    if (value !== null) path += `${pen ? "L" : "M"}${x(index).toFixed(1)} ${box.y(value).toFixed(1)}`;
    pen = value !== null;
  });
  labelRounds(svg, box, status.history, x);
  const cross = node("svg:line", { class: "cross", y1: box.top, y2: box.height - box.bottom, visibility: "hidden" });
  const dot = node("svg:circle", { class: "dot", r: 4, visibility: "hidden" });
  svg.append(cross, node("svg:path", { class: "series", d: path }), dot);
  const last = points.findLastIndex((value) => value !== null);
  const mark = (index) => {
    const at = index >= 0 ? index : last;
    const there = points[at] !== null;
    cross.setAttribute("visibility", index >= 0 ? "visible" : "hidden");
    cross.setAttribute("x1", x(at)); cross.setAttribute("x2", x(at));
    dot.setAttribute("visibility", there ? "visible" : "hidden");
    if (there) { dot.setAttribute("cx", x(at)); dot.setAttribute("cy", box.y(points[at])); }
  };
  mark(-1);
  hover(holder, svg, box, points.length, x, (index) => {
    const done = status.history[index];
    const why = done.reason ? `: ${done.reason}` : "";
    return `round ${done.round}: ${number(points[index])} · ${done.outcome}, ${done.contributors} contributors${why}`;
  }, mark);
}

function drawTimes(status) {
  const holder = $("times");
  const history = status.history.slice(-40);
  $("legend").replaceChildren(...PARTS.map((part) => node("span", { class: part }, node("i", {}, part))));
  if (history.length === 0) {
    holder.replaceChildren(node("div", { class: "empty" }, "No round has ended yet."));
    return;
  }
  const total = (done) => PARTS.reduce((sum, part) => sum + done[`${part}_seconds`], 0);
  const [svg, box] = frame(holder, ticks(0, Math.max(0.001, ...history.map(total))));
  svg.setAttribute("aria-label", "Seconds of work, matchmaking and exchange in the last rounds");
  const slot = (box.width - box.left - box.right) / Math.max(history.length, 10);
  const width = Math.max(2, Math.min(22, slot - 2));
  const x = (index) => box.left + (index + 0.5) * slot;
  history.forEach((done, index) => {
    let base = 0;
    for (const part of PARTS) {
      const top = base + done[`${part}_seconds`];
      const height = Math.max(0, box.y(base) - box.y(top) - 1);
      svg.append(node("svg:rect", { class: part, x: x(index) - width / 2, y: box.y(top), width, height }));
      base = top;
    }
  });
  labelRounds(svg, box, history, x);
  hover(holder, svg, box, history.length, x, (index) => {
    const done = history[index];
    return `round ${done.round}: ` + PARTS.map((part) => `${part} ${done[`${part}_seconds`].toFixed(2)} s`).join(", ");
  }, () => {});
}

function table(holder, empty, heads, rows) {
  if (rows.length === 0) {
    holder.replaceChildren(node("p", { class: "none" }, empty));
    return;
  }
  const cell = (tag, [text, kind, title]) =>
    node(tag, { class: kind ?? "", ...(title ? { title } : {}) }, text);
  holder.replaceChildren(node("table", {},
    node("thead", {}, node("tr", {}, ...heads.map((head) => cell("th", head)))),
    node("tbody", {}, ...rows.map((row) => node("tr", {}, ...row.map((each) => cell("td", each)))))));
}

function drawTables(status) {
  const linkKind = { direct: "good", punched: "good", relayed: "warn", none: "muted" };
  const nobody = status.peers_met ? `No peer is there now; ${status.peers_met} were linked since the start.` : "No peer is known yet.";
  table($("peers"), nobody,
    [["Peer"], ["Link"], ["Role"], ["Round", "number"], ["State"], ["Seen", "number"], ["Sent", "number"], ["Received", "number"], ["Address"]],
    status.peers.map((peer) => [
      [short(peer.peer), "mono", peer.peer], [peer.link, linkKind[peer.link] ?? "muted"], [peer.role],
      [peer.round, "number"],
      [peer.state_hash.slice(0, 6) || "–", `mono ${peer.state_hash && peer.state_hash === status.state_hash ? "good" : ""}`],
      [seconds(peer.age_seconds), "number"], [bytes(peer.bytes_sent), "number"], [bytes(peer.bytes_received), "number"],
      [peer.address || "–", "mono"]]));
  const stateKind = { connected: "good", dialling: "warn", failed: "bad", own: "muted" };
  table($("bootstrap"), "None is set; nodes of the local network are found without.",
    [["Address"], ["State"], ["Reason"], ["Attempts", "number"], ["Next try", "number"]],
    status.bootstrap.map((each) => [
      [each.address, "mono"], [each.state, stateKind[each.state] ?? ""], [each.reason || "–"], [each.attempts, "number"],
      [each.state === "failed" ? seconds(Math.max(0, each.next_try_seconds)) : "–", "number"]]));
  table($("failed"), "None that is remembered.", [["Round", "number"], ["When"], ["Why"]],
    status.history.filter((done) => done.outcome === "failed").slice(-8).reverse().map((done) => [
      [done.round, "number"], [new Date(1000 * done.finished_at).toLocaleTimeString()], [done.reason || "–"]]));
  const refusals = [...status.refusals].reverse().map((line) => node("li", {}, line));
  $("refusals").replaceChildren(refusals.length ? node("ul", {}, ...refusals) : node("p", { class: "none" }, "None."));
  table($("drops"), "Nothing was refused.", [["Reason"], ["Messages", "number"]],
    Object.entries(status.drops).map(([reason, count]) => [[reason], [count, "number"]]));
  table($("faults"), "No peer did what a correct node never does.",
    [["Peer"], ["What it did"], ["Times", "number"], ["Last", "number"]],
    status.named_faults.map((each) => [
      [short(each.peer), "mono", each.peer], [each.reason], [each.count, "number"], [seconds(each.age_seconds), "number"]]));
}

function drawLineages(status) {
  table($("lineages"), "Nobody claims a later state than this node's own swarm.",
    [["Round", "number"], ["State"], ["Peers", "number"], ["Who"], ["Reason"]],
    status.refused_lineages.map((each) => [
      [each.round, "number"], [each.state_hash.slice(0, 6), "mono"], [each.n_peers, "number"],
      [each.peers.map(short).join(" "), "mono", each.peers.join(" ")], [each.reason]]));
}

function drawRun(status) {
  $("join").textContent = status.join_command || "Nobody can reach this node yet; once a relay carries it, its address stands here.";
  const facts = { "Peer id": status.peer_id, Addresses: status.addresses.join("  "), Trainer: status.trainer };
  if (status.run) {
    const options = Object.entries(status.run.options).map(([key, value]) => `${key}=${value}`).join(" ");
    facts.Run = `${status.run.name} · ${status.run.task} · ${status.run.method} ${options}`;
    facts["Run id"] = status.run.run_id;
    facts.Parameters = status.run.parameters.toLocaleString("en");
  }
  if (status.engine) {
    const { name, addresses, prefix, strangers, restarts } = status.engine;
    facts.Engine = `${name} · ${addresses.join("  ") || "not up"}`;
    const notes = [strangers && `${strangers} members that are no nodes`, restarts && `started again ${restarts} times`];
    facts["Its groups"] = [prefix, ...notes.filter(Boolean)].join(" · ");
  }
  if (status.quorum) facts.Quorum = status.quorum;
  facts.Memory = bytes(status.rss_bytes);
  $("run").replaceChildren(...Object.entries(facts).flatMap(([key, value]) => [node("dt", {}, key), node("dd", {}, value)]));
}

function draw(status) {
  const name = status.name || short(status.peer_id);
  document.title = `shoal ${name} · ${status.phase} · round ${status.round}`;
  $("phase").textContent = status.phase;
  $("who").textContent = `${status.name ? `${status.name} · ` : ""}${short(status.peer_id)} · ${status.role} in swarm ${status.swarm} · up ${seconds(status.uptime_seconds)} · version ${status.version}`;
  const unanchored = "unanchored: this node goes by the most of the peers that it was shown, who may be made up";
  const problems = [...status.problems, ...(status.unanchored ? [unanchored] : [])];
  $("problems").replaceChildren(...problems.map((line) => node("li", {}, line)));
  $("problems").hidden = problems.length === 0;
  drawTiles(status);
  // A redraw under the pointer would take the tooltip away.
  for (const card of document.querySelectorAll(".training")) card.hidden = status.run === null;
  if (status.run !== null && !$("chart").matches(":hover")) drawChart(status);
  if (status.run !== null && !$("times").matches(":hover")) drawTimes(status);
  if (!window.getSelection().toString()) { drawTables(status); drawLineages(status); drawRun(status); }
  before = status;
}

async function follow() {
  if (!document.hidden) {
    try {
      const answer = await fetch("/status.json", { signal: AbortSignal.timeout(5000) });
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      draw(await answer.json());
      $("lost").hidden = true;
    } catch (error) {
      $("lost").textContent = `The node does not answer (${error.message}). What stands below is old.`;
      $("lost").hidden = false;
    }
  }
  setTimeout(follow, 1000);
}

follow();
