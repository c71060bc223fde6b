// The events: what the node tells as it happens. What was told before the page was opened comes first.
import { $, clock, node, tabs } from "./dom.js";

const KINDS = ["round", "peer", "problem", "phase", "sync", "log"];
const KEPT = 300;
const SHOWN = 60;
const list = [];
let chosen = "all";
let isDrawn = true;

function add(kind, event) {
  list.unshift({ kind, ...event });
  list.length = Math.min(list.length, KEPT);
  if (!isDrawn) return;
  // Many come at once when the page is opened: they are drawn once.
  isDrawn = false;
  requestAnimationFrame(drawEvents);
}

function drawEvents() {
  isDrawn = true;
  tabs($("event-kinds"), ["all", ...KINDS.filter((kind) => list.some((each) => each.kind === kind))], chosen, (kind) => { chosen = kind; drawEvents(); });
  const shown = list.filter((each) => chosen === "all" || each.kind === chosen).slice(0, SHOWN);
  $("events").replaceChildren(...shown.map((each) => node("li", { class: each.level },
    node("time", {}, clock(each.time)), node("span", { class: "kind" }, each.kind), node("span", {}, each.text.split("\n")[0]))));
  $("no-events").hidden = shown.length > 0;
}

export function listen() {
  const source = new EventSource("/events?last=200");
  for (const kind of KINDS) source.addEventListener(kind, (message) => add(kind, JSON.parse(message.data)));
  source.addEventListener("dropped", (message) => {
    const { count } = JSON.parse(message.data);
    add("log", { time: Date.now() / 1000, level: "warning", text: `${count} events were left out: this page did not read them in time` });
  });
  source.addEventListener("error", () => {
    // The browser comes back by itself, but not where the node had no place for one more listener.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 10000);
  });
}
