// The status page: asks /status.json every second and draws it; charts.js, swarm.js and events.js have their parts.
import { $, bytes, cardTable, clock, command, node, number, seconds, short, table, tabs } from "./dom.js";
import { follow } from "./charts.js";
import { drawPeers, drawSwarm, onPeersChosen } from "./swarm.js";
import { listen } from "./events.js";

const STEPS = { working: "train", matchmaking: "find a group", exchanging: "exchange", applying: "apply" };
const IDLE = {
  starting: "The trainer is being started.",
  syncing: "This node takes over the swarm's model.",
  finished: "The run is over.",
  helping: "This node does not train: it helps others to find and reach each other.",
  paused: "This node does not train now, as its owner wants it; it helps others.",
  stopping: "This node is leaving the swarm.",
  working: "This node trains; nothing is exchanged now.",
  matchmaking: "This node waits until its peers are ready, and agrees on a group with them.",
  exchanging: "The group's mean is being made.",
  applying: "The method makes the next model of the mean.",
};
const ROUNDS_SHOWN = 12;
let before = null;
let roundKind = "all";

function tile(label, value, note = "", extra = null) {
  return node("div", { class: "tile" },
    node("div", { class: "label" }, label), node("div", { class: String(value).length > 8 ? "value long" : "value" }, value), extra, node("div", { class: "note" }, note));
}

function secondsLeft(status) {
  const ends = status.history.filter((done) => done.outcome === "averaged" || done.outcome === "alone").slice(-21).map((done) => done.finished_at);
  if (!status.run?.rounds || status.round >= status.run.rounds || ends.length < 3) return null;
  return ((ends.at(-1) - ends[0]) / (ends.length - 1)) * (status.run.rounds - status.round);
}

function drawTiles(status) {
  const linked = status.peers.filter((peer) => peer.link !== "none").length;
  const ours = status.peers.filter((peer) => peer.run && status.run?.run_id.startsWith(peer.run));
  const agree = ours.filter((peer) => peer.state_hash && peer.state_hash === status.state_hash).length;
  const rate = (key) => {
    if (!before || status.uptime_seconds <= before.uptime_seconds) return "";
    const per = (status[key] - before[key]) / (status.uptime_seconds - before.uptime_seconds);
    return `${bytes(Math.max(0, per))}/s`;
  };
  const of = status.run?.rounds ?? 0;
  const left = secondsLeft(status);
  const progress = of ? node("progress", { value: Math.min(status.round, of), max: of, "aria-label": "Rounds made" }) : null;
  const tiles = [];
  if (status.run) tiles.push(tile("Round", status.round, of ? `of ${of}${left === null ? "" : `, about ${seconds(left)} left`}` : "", progress));
  tiles.push(tile("Peers", linked, `linked, of ${status.peers.length} known`));
  for (const [name, value] of Object.entries(status.metrics).slice(0, 2)) tiles.push(tile(name, number(value)));
  if (status.run) {
    tiles.push(
      tile("Loss", number(status.loss, 3)),
      tile("Same model", ours.length ? `${agree} of ${ours.length}` : "–", "peers of this run hold it too"),
      tile("Computing", status.utilisation === null ? "–" : `${Math.round(100 * status.utilisation)} %`, "of the time, not waiting"));
  }
  const rates = [rate("bytes_sent"), rate("bytes_received")];
  tiles.push(tile("Sent", bytes(status.bytes_sent), `${bytes(status.bytes_received)} received${rates[0] ? `; now ${rates[0]} and ${rates[1]}` : ""}`));
  $("tiles").replaceChildren(...tiles);
}

// What somebody who looks at the page now should know first, and what to type about it.
function bannerOf(status) {
  const home = status.home;
  const isLinked = status.peers.some((peer) => peer.link !== "none");
  if (status.phase === "finished") {
    const [name, value] = Object.entries(status.metrics)[0] ?? ["loss", status.loss];
    return { kind: "good", title: `The run is finished: ${status.round} rounds, ${name} ${number(value)}`,
      text: "This node serves the model to others until it is ended. What to do now:",
      commands: [["Save the model", `shoal model save model.safetensors${home}`], ["See every round", `shoal history${home}`], ["End this node", `shoal stop${home}`]] };
  }
  if (status.refused_lineages.length) {
    const first = status.refused_lineages[0];
    const peers = first.n_peers === 1 ? "1 peer holds" : `${first.n_peers} peers hold`;
    return { kind: "warn", title: "The swarm is split",
      text: `${peers} another model (state ${first.state_hash.slice(0, 6)}, round ${first.round}) than this node, which stays with those that it trained with. If this node was away for long and you trust the others, let it follow them:`,
      commands: [["", `shoal trust reset${home}`]] };
  }
  if (!isLinked && status.phase !== "stopping" && status.phase !== "starting") {
    const join = status.join_command;
    const text = status.alone
      ? `For ${seconds(status.alone.seconds)} none of those that trained with it is linked. ${status.alone.waits ? "It keeps the model they agreed on, and waits." : "It trains on alone."} Start them again, or another device with:`
      : `${status.run ? "It trains by itself until others join." : "It helps whoever comes."} Type this on another device:`;
    return join ? { kind: "warn", title: "This node is alone", text, commands: [["", join]] }
      : { kind: "warn", title: "This node is alone, and nobody can reach it", text: "Start it with the address of a node that others reach:", commands: [["", `shoal bootstrap add ADDRESS${home}`]] };
  }
  return null;
}

function drawBanner(status) {
  const banner = bannerOf(status);
  $("banner").hidden = banner === null;
  if (banner === null) return;
  $("banner").className = `notice ${banner.kind}`;
  $("banner-title").textContent = banner.title;
  $("banner-text").textContent = banner.text;
  const key = banner.commands.join("\n");
  if ($("banner").dataset.key === key) return;
  $("banner").dataset.key = key;
  $("banner-commands").replaceChildren(...banner.commands.map(([label, text]) => {
    const holder = node("div", {});
    command(holder, text);
    return node("div", { class: "todo" }, label ? node("span", { class: "muted" }, label) : null, holder);
  }));
}

function bar(label, share, note, kind = "") {
  return node("div", { class: `way ${kind}` }, node("span", { class: "mono" }, label),
    node("progress", { ...(share === null ? {} : { value: Math.max(0, Math.min(1, share)) }), max: 1, "aria-label": label }), node("span", { class: "muted" }, note));
}

function drawNow(status) {
  $("steps").replaceChildren(...Object.entries(STEPS).map(([phase, word]) =>
    node("li", phase === status.phase ? { class: "on", "aria-current": "step" } : {}, word)));
  $("steps").hidden = !(status.phase in STEPS);
  const rows = [];
  if (status.exchange) {
    const { members, share_done } = status.exchange;
    if (share_done !== null) rows.push(bar("all", share_done, `${Math.round(100 * share_done)} % of the mean is here`));
    const most = Math.max(1, ...members.map((each) => each.bytes_taken));
    for (const each of members.slice(0, 16)) {
      const what = each.is_lost ? "lost: the others go on without it" : each.is_done ? "has all" : `took ${bytes(each.bytes_taken)}`;
      const from = each.peer === status.peer_id ? "" : `, gave this node ${bytes(each.bytes_received)}`;
      rows.push(bar(each.peer === status.peer_id ? "this node" : short(each.peer), each.is_done ? 1 : each.bytes_taken / most, what + from, each.is_lost ? "lost" : ""));
    }
    if (members.length > 16) rows.push(node("p", { class: "none" }, `and ${members.length - 16} more members`));
  }
  if (status.fetch) {
    const { round, share_done, bytes_total, donors } = status.fetch;
    rows.push(bar(`model of round ${round}`, share_done, `${Math.round(100 * share_done)} %${bytes_total ? ` of ${bytes(bytes_total)}` : ""}`));
    const most = Math.max(1, ...donors.map((each) => each.chunks));
    for (const each of donors) rows.push(bar(`from ${short(each.peer)}`, each.chunks / most, `${each.chunks} pieces${each.seconds_per_chunk ? `, ${seconds(each.seconds_per_chunk)} each` : ""}`));
  }
  $("under-way").replaceChildren(node("p", { class: "none" }, IDLE[status.phase] ?? status.phase), ...rows);
}

function drawRounds(status) {
  const kinds = ["all", "failed"];
  tabs($("round-kinds"), kinds, roundKind, (kind) => { roundKind = kind; drawRounds(status); });
  const rows = status.history.filter((done) => roundKind === "all" || done.outcome === "failed").slice(-ROUNDS_SHOWN).reverse();
  const outcome = { averaged: "good", alone: "warn", synced: "", failed: "bad" };
  const words = { synced: "model taken over", averaged: "averaged", alone: "alone", failed: "failed, made again" };
  table($("rounds"), roundKind === "all" ? "No round has ended yet." : "No round that is remembered failed.",
    [["Round", "number"], ["Ended"], ["Outcome"], ["Loss", "number"], ["Took", "number"], ["Sent", "number"], ["Who was in it"]],
    rows.map((done) => {
      const mine = short(status.peer_id);
      const others = done.members.filter((each) => each !== mine);
      const more = done.contributors - done.members.length;
      const who = done.outcome === "failed" ? done.reason : [...(done.members.includes(mine) ? ["this node"] : []), ...others, ...(more > 0 ? [`${more} more`] : [])].join("  ");
      const took = done.work_seconds + done.matchmaking_seconds + done.exchange_seconds;
      const hasLoss = done.outcome === "averaged" || done.outcome === "alone";
      return { row: [[done.round + 1, "number"], [clock(done.finished_at)], [words[done.outcome] ?? done.outcome, outcome[done.outcome]],
        [hasLoss ? number(done.loss, 3) : "–", "number"], [took ? seconds(took) : "–", "number"], [bytes(done.bytes_sent), "number"],
        [who || (done.contributors > 1 ? `${done.contributors} nodes` : "–"), done.outcome === "failed" ? "wrap" : "mono wrap"]] };
    }));
}

function drawTrouble(status) {
  const stateKind = { connected: "good", dialling: "warn", failed: "bad", own: "muted" };
  cardTable($("bootstrap"), [["Address"], ["State"], ["Reason"], ["Attempts", "number"], ["Next try", "number"]],
    status.bootstrap.map((each) => [
      [each.address, "mono"], [each.state, stateKind[each.state] ?? ""], [each.reason || "–"], [each.attempts, "number"],
      [each.state === "failed" ? seconds(Math.max(0, each.next_try_seconds)) : "–", "number"]]));
  $("refusals").closest(".card").hidden = status.refusals.length === 0;
  $("refusals").replaceChildren(node("ul", {}, ...[...status.refusals].reverse().map((line) => node("li", {}, line))));
  cardTable($("drops"), [["Reason"], ["Messages", "number"]],
    Object.entries(status.drops).map(([reason, count]) => [[reason], [count, "number"]]));
  cardTable($("faults"), [["Peer"], ["What it did"], ["Times", "number"], ["Last", "number"]],
    status.named_faults.map((each) => [
      [short(each.peer), "mono", each.peer], [each.reason], [each.count, "number"], [seconds(each.age_seconds), "number"]]));
  cardTable($("lineages"), [["Round", "number"], ["State"], ["Peers", "number"], ["Who"], ["Reason"]],
    status.refused_lineages.map((each) => [
      [each.round, "number"], [each.state_hash.slice(0, 6), "mono"], [each.n_peers, "number"],
      [each.peers.map(short).join(" "), "mono", each.peers.join(" ")], [each.reason]]));
}

function drawRun(status) {
  if (status.join_command) command($("join"), status.join_command);
  else $("join").textContent = "Nobody can reach this node yet; once a relay carries it, its address stands here.";
  const facts = { "Peer id": status.peer_id, Addresses: status.addresses.join("  ") || "none", Trainer: status.trainer };
  if (status.run) {
    const options = Object.entries(status.run.options).map(([key, value]) => `${key}=${value}`).join(" ");
    facts.Run = `${status.run.name} · ${status.run.task} · ${status.run.method} ${options}`;
    facts["Run id"] = status.run.run_id;
    facts.Parameters = status.run.parameters.toLocaleString("en");
    facts["Who may join"] = { open: "anyone", invite: "whoever has an invite", closed: "whom the founders admit" }[status.mode] ?? status.mode;
  }
  if (status.engine) {
    const { name, addresses, prefix, strangers, restarts } = status.engine;
    facts.Engine = `${name} · ${addresses.join("  ") || "not up"}`;
    const notes = [strangers && `${strangers} members that are no nodes`, restarts && `started again ${restarts} times`];
    facts["Its groups"] = [prefix, ...notes.filter(Boolean)].join(" · ");
  }
  if (status.privacy) {
    const { kind, epsilon, budget, delta, releases, is_spent } = status.privacy;
    facts.Privacy = `${kind}: epsilon ${number(epsilon, 3)}${budget ? ` of ${number(budget, 3)}` : ""} at delta ${number(delta, 2)}, after ${releases} releases${is_spent ? "; spent: this node gives nothing more" : ""}`;
  }
  if (status.quorum) facts.Quorum = status.quorum;
  facts.Memory = `${bytes(status.rss_bytes)}, of the daemon`;
  $("run").replaceChildren(...Object.entries(facts).flatMap(([key, value]) => [node("dt", {}, key), node("dd", {}, value)]));
}

function drawHead(status) {
  const name = status.name || short(status.peer_id);
  document.title = `shoal ${name} · ${status.phase} · round ${status.round}`;
  $("phase").textContent = status.phase;
  $("who").textContent = `${status.name ? `${status.name} · ` : ""}${short(status.peer_id)} · ${status.role} in swarm ${status.swarm} · up ${seconds(status.uptime_seconds)} · version ${status.version}`;
  const unanchored = "unanchored: this node goes by the most of the peers that it was shown, who may be made up";
  const problems = [...status.problems, ...(status.unanchored ? [unanchored] : [])];
  $("problem-list").replaceChildren(...problems.map((line) => node("li", {}, line)));
  $("problems").hidden = problems.length === 0;
}

async function draw(status) {
  drawHead(status);
  drawBanner(status);
  drawTiles(status);
  drawNow(status);
  for (const card of document.querySelectorAll(".training")) card.hidden = status.run === null;
  // A redraw would take away what is marked, to be copied.
  if (!window.getSelection().toString()) { drawSwarm(status); drawRounds(status); drawTrouble(status); drawRun(status); }
  before = status;
  if (status.run !== null) await follow(status);
}

async function look() {
  if (!document.hidden || before === null) {
    try {
      const answer = await fetch("/status.json", { signal: AbortSignal.timeout(5000) });
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      const status = await answer.json();
      const began = performance.now();
      await draw(status);
      performance.clearMeasures("draw");
      performance.measure("draw", { start: began });
      if (document.body.dataset.drawn === undefined) performance.mark("first-drawn");
      $("lost").hidden = true;
      document.body.dataset.drawn = String(Number(document.body.dataset.drawn ?? 0) + 1);
    } catch (error) {
      $("lost").textContent = `The node does not answer (${error.message}). What stands below is old.`;
      $("lost").hidden = false;
    }
  }
  setTimeout(look, 1000);
}

onPeersChosen(() => { if (before) drawPeers(before); });
look();
listen();
