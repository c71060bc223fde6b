// The swarm as this node sees it: a picture, the states that peers hold, the runs, and a table of all peers.
import { $, bytes, cardTable, hue, node, number, seconds, short, table } from "./dom.js";

const SHOWN = 25;
const RINGS = { direct: 0, punched: 0, relayed: 1, none: 2 };
const LINK_KIND = { direct: "good", punched: "good", relayed: "warn", none: "muted" };
let showsAll = false;

const inRun = (status, peer) => status.run !== null && peer.run !== "" && status.run.run_id.startsWith(peer.run);

function dot(status, peer, x, y, r) {
  const colored = peer.state_hash ? hue(peer.state_hash) : "var(--muted)";
  const isLinked = peer.link !== "none";
  const circle = node("svg:circle", { cx: x.toFixed(1), cy: y.toFixed(1), r, "stroke-width": 1.5 });
  circle.style.stroke = colored;
  circle.style.fill = isLinked ? colored : "none";
  circle.append(node("svg:title", {}, `${short(peer.peer)} · ${peer.link} · ${peer.role} · round ${peer.round} · state ${peer.state_hash.slice(0, 6) || "none"}`));
  return circle;
}

function drawPicture(status) {
  const width = 520, height = 210, cx = width / 2, cy = height / 2;
  const svg = node("svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${status.peers.length} peers around this node` });
  const rings = [[], [], []];
  for (const peer of status.peers) rings[RINGS[peer.link] ?? 2].push(peer);
  const used = rings.filter((ring) => ring.length).length;
  const r = status.peers.length > 120 ? 3 : status.peers.length > 40 ? 4 : 7;
  let at = 0;
  const dots = [];
  for (const ring of rings) {
    if (ring.length === 0) continue;
    at += 1;
    const share = 0.3 + (0.65 * at) / used;
    // More than fit on one ellipse stand on two, the second a little further in.
    const room = Math.floor((Math.PI * (share * (width / 2 + height / 2))) / (2.6 * r));
    const lanes = Math.ceil(ring.length / room);
    ring.forEach((peer, index) => {
      const lane = index % lanes, place = Math.floor(index / lanes), of = Math.ceil(ring.length / lanes);
      const shrink = share - (lane * 2.6 * r) / (height / 2);
      const angle = (2 * Math.PI * (place + lane / lanes)) / of - Math.PI / 2 + 0.6 * at;
      const x = cx + Math.cos(angle) * (width / 2 - 14) * shrink, y = cy + Math.sin(angle) * (height / 2 - 12) * shrink;
      if (status.peers.length <= 40 && peer.link !== "none") svg.append(node("svg:line", { class: `edge ${peer.link}`, x1: cx, y1: cy, x2: x.toFixed(1), y2: y.toFixed(1) }));
      dots.push(dot(status, peer, x, y, r));
    });
  }
  const me = node("svg:circle", { class: "me", cx, cy, r: 10 });
  if (status.state_hash) me.style.fill = hue(status.state_hash);
  svg.append(...dots, me, node("svg:text", { class: "axis", x: cx, y: cy + 25, "text-anchor": "middle" }, "this node"));
  $("swarm").replaceChildren(svg);
}

function drawStates(status) {
  const counts = new Map();
  if (status.state_hash) counts.set(status.state_hash, 1);
  for (const peer of status.peers) if (peer.state_hash && inRun(status, peer)) counts.set(peer.state_hash, (counts.get(peer.state_hash) ?? 0) + 1);
  const list = [...counts].sort((a, b) => b[1] - a[1]);
  $("states").replaceChildren(...list.slice(0, 6).map(([hash, count]) => {
    const swatch = node("i", { class: "swatch" });
    swatch.style.background = hue(hash);
    const mine = hash === status.state_hash ? (count > 1 ? ", this one among them" : ", this one") : "";
    return node("span", {}, swatch, node("span", { class: "mono" }, hash.slice(0, 6)), ` ${count} node${count > 1 ? "s" : ""}${mine}`);
  }), ...(list.length > 6 ? [node("span", {}, `and ${list.length - 6} more states`)] : []));
  const kinds = {};
  for (const peer of status.peers) kinds[peer.link] = (kinds[peer.link] ?? 0) + 1;
  const words = { direct: "direct", punched: "punched", relayed: "relayed", none: "known only by what others say" };
  $("swarm-sum").textContent = Object.entries(words).filter(([kind]) => kinds[kind]).map(([kind, word]) => `${kinds[kind]} ${word}`).join(", ");
}

function state(status, hash) {
  if (!hash) return ["–", "muted"];
  const swatch = node("i", { class: "swatch" });
  swatch.style.background = hue(hash);
  return [node("span", { class: "mono" }, swatch, hash.slice(0, 6)), hash === status.state_hash ? "good" : "", hash];
}

function peerRow(status, peer) {
  const gap = peer.round - status.round;
  const behind = inRun(status, peer) && gap ? ` (${gap > 0 ? "+" : "−"}${Math.abs(gap)})` : "";
  const does = peer.role === "helper" ? "helps" : inRun(status, peer) || !peer.run ? peer.phase : `other run: ${peer.run_name || peer.run}`;
  return { row: [
    [short(peer.peer), "mono", peer.peer], [peer.link === "none" ? "not linked" : peer.link, LINK_KIND[peer.link] ?? "muted"], [does || peer.role],
    [`${peer.round}${behind}`, "number"], state(status, peer.state_hash), [seconds(peer.age_seconds), "number"],
    [bytes(peer.bytes_sent), "number"], [bytes(peer.bytes_received), "number"], [peer.address || "–", "mono address", peer.address]] };
}

export function drawPeers(status) {
  const words = $("peer-filter").value.toLowerCase();
  $("peer-filter").hidden = status.peers.length < 8;
  const order = (peer) => (RINGS[peer.link] ?? 2) * 2 + (peer.role === "helper");
  const found = status.peers
    .filter((peer) => !words || [peer.peer, peer.address, peer.state_hash, peer.link, peer.phase].some((text) => text.toLowerCase().includes(words)))
    .sort((a, b) => order(a) - order(b) || b.round - a.round || (a.peer < b.peer ? -1 : 1));
  const me = { kind: "mine", row: [
    ["this node", "", status.peer_id], ["–", "muted"], [status.phase], [status.round, "number"], state(status, status.state_hash),
    ["–", "number muted"], [bytes(status.bytes_sent), "number"], [bytes(status.bytes_received), "number"], [status.addresses[0] ?? "–", "mono address", status.addresses.join("\n")]] };
  const shown = showsAll ? found : found.slice(0, SHOWN);
  table($("peers"), "", [["Peer"], ["Link"], ["Does"], ["Round", "number"], ["State"], ["Seen", "number"], ["Sent", "number"], ["Received", "number"], ["Address"]],
    [me, ...shown.map((peer) => peerRow(status, peer))]);
  $("all-peers").hidden = found.length <= SHOWN;
  $("all-peers").textContent = showsAll ? `Show the first ${SHOWN}` : `Show all ${found.length}`;
}

// What linked peers have shown of their runs. That of this node alone is no news.
function drawRuns(status) {
  const list = status.runs.some((each) => !each.ours) ? status.runs : [];
  cardTable($("runs"), [["Run"], ["Task"], ["Method"], ["Who may join"], ["Peers", "number"], ["Round", "number"], ["Accuracy", "number"], ["Id"], [""]],
    list.map((each) => [
      [each.name || "–"], [each.task || "–"], [each.method || "–"], [each.mode || "–"], [each.peers, "number"],
      [each.rounds ? `${each.round} of ${each.rounds}` : each.round, "number"], [number(each.accuracy), "number"], [each.run_id, "mono"], [each.ours ? "this node's" : "", "good"]]));
}

// Who holds each role of a split model, and how long the parts of a step take.
function drawCalls(status) {
  const calls = status.calls;
  $("hosts").closest(".card").hidden = !calls;
  if (!calls) return;
  const name = (peer) => (peer === status.peer_id ? "this node" : short(peer));
  $("calls-sum").textContent = `${calls.per_second.toFixed(1)} calls a second, ${calls.unanswered} not answered, ${calls.waiting} calls of peers wait`;
  table($("hosts"), "", [["Role"], ["Held by"]], Object.entries(calls.hosts).map(([role, peers]) => ({ row: [
    [role], peers.length ? [peers.map(name).join(", "), "wrap", peers.join("\n")] : ["nobody", "warn"]] })));
  const verbs = new Map();
  for (const { verb, part, seconds: took } of calls.parts) verbs.set(verb, { ...verbs.get(verb), [part]: took });
  const cell = (took) => [took === undefined ? "–" : took < 0.0995 ? `${(1000 * took).toPrecision(2)} ms` : seconds(took), "number"];
  table($("calls"), "No call has been answered yet.", [["Seconds per step"], ["Answer", "number"], ["In queue", "number"], ["Work", "number"]],
    [...verbs].map(([verb, { answer, queue, work }]) => ({ row: [[verb], cell(answer), cell(queue), cell(work)] })));
  $("handovers").replaceChildren(...calls.handovers.slice(-3).reverse().map((each) => node("li", {},
    `${seconds(each.age_seconds)} ago ${name(each.left)} did not answer ${each.verb} (${each.why}): this node went on with ${name(each.to)} after ${seconds(each.seconds)}`)));
}

export function drawSwarm(status) {
  drawCalls(status);
  if (!$("swarm").matches(":hover")) drawPicture(status);
  drawStates(status);
  drawPeers(status);
  drawRuns(status);
}

export function onPeersChosen(redraw) {
  $("peer-filter").addEventListener("input", redraw);
  $("all-peers").addEventListener("click", () => { showsAll = !showsAll; redraw(); });
}
