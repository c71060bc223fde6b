// Small things that the page is made of. Whatever a peer chose (addresses, reasons, names) enters the document
// as text nodes only, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

export function node(name, attributes, ...children) {
  const made = name.startsWith("svg:")
    ? document.createElementNS(SVG, name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null).map((c) => (c instanceof Node ? c : String(c))));
  return made;
}

export const short = (peer) => peer.slice(-8);
export const number = (value, digits = 4) =>
  value === null || value === undefined ? "–" : Number(value.toPrecision(digits)).toString();

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) { count /= 1000; unit += 1; }
  return `${unit ? count.toPrecision(3) : Math.round(count)} ${units[unit]}`;
}

export function seconds(value) {
  if (value < 120) return `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}

export const clock = (unix) => new Date(1000 * unix).toLocaleTimeString([], { hour12: false });

// The same state has the same hue on all nodes' pages: the hue is made of its hash.
export const hue = (hash) => `hsl(${(parseInt(hash.slice(0, 4), 16) * 137.508) % 360 | 0} 62% var(--state-light))`;

export function tabs(holder, names, chosen, choose) {
  const key = names.join("\n") + chosen;
  if (holder.dataset.key === key) return;
  holder.dataset.key = key;
  holder.replaceChildren(...names.map((name) => {
    const button = node("button", { type: "button", "aria-pressed": name === chosen }, name);
    button.addEventListener("click", () => choose(name));
    return button;
  }));
}

// A command with a button that copies it. Kept as it is while the command stays, so that a click is not lost.
export function command(holder, text) {
  if (holder.dataset.command === text) return;
  holder.dataset.command = text;
  const code = node("code", { class: "command", tabindex: 0 }, text);
  const button = node("button", { type: "button", class: "copy" }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copied(text, code)) ? "Copied" : "Press Ctrl-C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  holder.replaceChildren(node("div", { class: "typed" }, code, button));
}

// A page that is not served from this machine has no clipboard: it marks the text instead.
async function copied(text, code) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    window.getSelection().selectAllChildren(code);
    return document.execCommand("copy");
  }
}

export function table(holder, empty, heads, rows) {
  if (rows.length === 0) {
    holder.replaceChildren(node("p", { class: "none" }, empty));
    return;
  }
  const cell = (tag, [text, kind, title]) =>
    node(tag, { ...(kind ? { class: kind } : {}), ...(title ? { title } : {}) }, text);
  holder.replaceChildren(node("table", {},
    node("thead", {}, node("tr", {}, ...heads.map((head) => cell("th", head)))),
    node("tbody", {}, ...rows.map(({ row, kind }) => node("tr", kind ? { class: kind } : {}, ...row.map((each) => cell("td", each)))))));
}

// A card that says nothing takes no room.
export function cardTable(holder, heads, rows) {
  holder.closest(".card").hidden = rows.length === 0;
  if (rows.length) table(holder, "", heads, rows.map((row) => ({ row })));
}
