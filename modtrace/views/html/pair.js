// The page of a pair: the tree with the times of both sides, and a flame of one of them coloured by what changed.

const byId = (id) => document.getElementById(id);
const pair = JSON.parse(byId("pair").textContent);
const { nodes, colors } = pair;
const PARENT = 3, BASELINE = 4, CANDIDATE = 5, VERDICT = 6, RATIO = 7, INTERVAL = 8, REASON = 9, DEPTH = 10;
const LEVEL = 20;
const below = nodes.map(() => []);
nodes.forEach((node, number) => node[PARENT] >= 0 && below[node[PARENT]].push(number));
const state = { sort: "change", side: "candidate", root: 0, chosen: 0, open: new Set(pair.open), placed: [], find: "" };

const changeOf = (number) => nodes[number][CANDIDATE] - nodes[number][BASELINE];
const signed = (ns) => (ns < 0 ? duration(ns) : `+${duration(ns)}`);

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Siblings in the order that was chosen. */
function ordered(numbers) {
  const by = {
    change: (a, b) => Math.abs(changeOf(b)) - Math.abs(changeOf(a)),
    candidate: (a, b) => nodes[b][CANDIDATE] - nodes[a][CANDIDATE],
    baseline: (a, b) => nodes[b][BASELINE] - nodes[a][BASELINE],
    name: (a, b) => (nodes[a][0] < nodes[b][0] ? -1 : nodes[a][0] > nodes[b][0] ? 1 : 0),
    order: (a, b) => a - b,
  }[state.sort];
  return [...numbers].sort(by);
}

function visibleRows() {
  const rows = [], waiting = [0];
  while (waiting.length) {
    const number = waiting.pop();
    rows.push(number);
    if (state.open.has(number)) waiting.push(...ordered(below[number]).reverse());
  }
  return rows;
}

/** Where the name of a row, or of one inside it, has what is looked for. */
function isHit(number) {
  return state.find !== "" && `${nodes[number][1]} ${nodes[number][2]}`.toLowerCase().includes(state.find);
}

const MOST_ROWS = 3000;

function showRows() {
  const body = byId("pair-rows");
  const rows = visibleRows();
  const largest = Math.max(...rows.slice(1).map((number) => Math.abs(changeOf(number))), 1);
  body.replaceChildren(...rows.slice(0, MOST_ROWS).map((number) => rowOf(number, largest)));
  byId("pair-more").textContent = rows.length > MOST_ROWS ? `and ${count(rows.length - MOST_ROWS)} more rows: close some` : "";
  for (const head of document.querySelectorAll("#pair-grid thead th[data-sort]")) {
    head.setAttribute("aria-sort", head.dataset.sort === state.sort ? (state.sort === "name" ? "ascending" : "descending") : "none");
  }
}

function rowOf(number, largest) {
  const [label, name, type] = nodes[number];
  const node = nodes[number];
  const inner = below[number].length > 0;
  const twist = element("span", { class: "twist", "aria-hidden": "true" }, inner ? (state.open.has(number) ? "\u25be" : "\u25b8") : "");
  const kind = type && type !== label ? element("span", { class: "type" }, type) : "";
  const head = element("th", { scope: "row", class: `d${Math.min(node[DEPTH], 12)}`, title: name }, twist, label, " ", kind);
  const mark = element("span", { class: "mark", "aria-hidden": "true" });
  mark.style.background = colors[node[VERDICT]];
  const meter = element("span", { class: "meter" });
  meter.style.width = `${(100 * Math.abs(changeOf(number))) / largest}%`;
  meter.style.background = colors[node[VERDICT]];
  const row = element("tr", { "data-node": number, tabindex: -1, "aria-level": node[DEPTH] + 1 },
    head,
    element("td", {}, node[BASELINE] || node[VERDICT] !== "alone" ? duration(node[BASELINE]) : ""),
    element("td", {}, node[CANDIDATE] || node[VERDICT] !== "alone" ? duration(node[CANDIDATE]) : ""),
    element("td", {}, signed(changeOf(number))),
    element("td", {}, node[RATIO]),
    element("td", { class: "words interval" }, node[INTERVAL]),
    element("td", { class: "words", title: node[REASON] }, mark, node[VERDICT]),
    element("td", { class: "pair-bar" }, number ? meter : ""));
  if (inner) row.setAttribute("aria-expanded", String(state.open.has(number)));
  row.classList.toggle("chosen", number === state.chosen);
  row.classList.toggle("hit", isHit(number));
  return row;
}

function choose(number, { reveal = false, focus = false } = {}) {
  state.chosen = number;
  if (reveal) for (let up = nodes[number][PARENT]; up >= 0; up = nodes[up][PARENT]) state.open.add(up);
  showRows();
  drawFlame();
  const row = document.querySelector(`#pair-rows tr[data-node="${number}"]`);
  if (row) {
    row.tabIndex = 0;
    if (focus) row.focus();
    if (reveal) row.scrollIntoView({ block: "nearest" });
  }
  const node = nodes[number];
  byId("said").textContent = `${node[1]}: ${duration(node[BASELINE])} to ${duration(node[CANDIDATE])}, ${node[VERDICT]}`;
}

function toggle(number) {
  if (!below[number].length) return;
  if (state.open.has(number)) state.open.delete(number);
  else state.open.add(number);
  choose(number, { focus: true });
}

function sortBy(key) {
  state.sort = key;
  byId("pair-sort").value = key;
  showRows();
}

// The flame.

function sizes() {
  const size = new Array(nodes.length).fill(0);
  for (let number = nodes.length - 1; number >= 0; number--) {
    const inside = below[number].reduce((sum, child) => sum + size[child], 0);
    if (state.side === "difference") {
      const own = changeOf(number) - below[number].reduce((sum, child) => sum + changeOf(child), 0);
      size[number] = Math.abs(own) + inside;
    } else size[number] = Math.max(nodes[number][state.side === "candidate" ? CANDIDATE : BASELINE], inside);
  }
  return size;
}

function drawFlame() {
  const canvas = byId("pair-flame");
  const size = sizes();
  const base = nodes[state.root][DEPTH];
  let deepest = base;
  const boxes = [];
  const waiting = [[state.root, 0]];
  while (waiting.length) {
    const [number, start] = waiting.pop();
    if (!size[number]) continue;
    boxes.push([number, nodes[number][DEPTH] - base, start, size[number]]);
    deepest = Math.max(deepest, nodes[number][DEPTH]);
    let at = start;
    for (const child of [...below[number]].sort((a, b) => size[b] - size[a])) {
      waiting.push([child, at]);
      at += size[child];
    }
  }
  const width = canvas.clientWidth, height = (Math.min(deepest - base, 400) + 1) * LEVEL;
  const ratio = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.font = "12px system-ui, sans-serif";
  context.textBaseline = "middle";
  const scale = width / Math.max(size[state.root], 1);
  state.placed = [];
  for (const [number, level, start, wide] of boxes) {
    const x = start * scale, w = wide * scale;
    if (w < 0.4) continue;
    state.placed.push([number, level, x, w]);
    context.fillStyle = colors[nodes[number][VERDICT]];
    context.fillRect(x, level * LEVEL, Math.max(w - 1, 0.5), LEVEL - 1);
    if (number === state.chosen) {
      context.strokeStyle = "#000";
      context.lineWidth = 2;
      context.strokeRect(x + 1, level * LEVEL + 1, Math.max(w - 3, 1), LEVEL - 3);
    }
    if (w > 24) {
      context.save();
      context.beginPath();
      context.rect(x + 3, level * LEVEL, w - 6, LEVEL);
      context.clip();
      context.fillStyle = pair.inks[nodes[number][VERDICT]];
      context.fillText(nodes[number][0], x + 4, level * LEVEL + LEVEL / 2);
      context.restore();
    }
  }
}

function boxAt(event) {
  const place = byId("pair-flame").getBoundingClientRect();
  const x = event.clientX - place.left, level = Math.floor((event.clientY - place.top) / LEVEL);
  return state.placed.find((box) => box[1] === level && box[2] <= x && x < box[2] + box[3]);
}

function listen() {
  byId("pair-sort").addEventListener("change", () => sortBy(byId("pair-sort").value));
  byId("pair-side").addEventListener("change", () => ((state.side = byId("pair-side").value), drawFlame()));
  byId("pair-find").addEventListener("input", () => find(byId("pair-find").value));
  byId("open-all").addEventListener("click", () => ((state.open = new Set(nodes.keys())), showRows()));
  byId("close-all").addEventListener("click", () => ((state.open = new Set([0])), showRows()));
  byId("pair-grid").addEventListener("click", (event) => {
    const head = event.target.closest("th[data-sort]");
    if (head) return sortBy(head.dataset.sort);
    const row = event.target.closest("tr[data-node]");
    if (!row) return undefined;
    return event.target.closest(".twist") ? toggle(Number(row.dataset.node)) : choose(Number(row.dataset.node), { focus: true });
  });
  byId("pair-grid").addEventListener("dblclick", (event) => {
    const row = event.target.closest("tr[data-node]");
    if (row) toggle(Number(row.dataset.node));
  });
  byId("pair-grid").addEventListener("keydown", keyInTree);
  const canvas = byId("pair-flame");
  canvas.addEventListener("click", (event) => {
    const box = boxAt(event);
    if (box) choose(box[0], { reveal: true });
  });
  canvas.addEventListener("dblclick", (event) => {
    const box = boxAt(event);
    if (box) zoom(box[0]);
  });
  canvas.addEventListener("mousemove", (event) => {
    const box = boxAt(event);
    const node = box && nodes[box[0]];
    canvas.title = node ? `${node[1]}: ${duration(node[BASELINE])} -> ${duration(node[CANDIDATE])} ${node[RATIO]} ${node[VERDICT]}` : "";
  });
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Enter") zoom(state.chosen);
    else if (event.key === "Escape" || event.key === "0") zoom(event.key === "0" ? 0 : Math.max(nodes[state.root][PARENT], 0));
  });
  byId("theme-button").addEventListener("click", theme);
  window.addEventListener("resize", drawFlame);
}

function zoom(number) {
  state.root = number;
  drawFlame();
}

function find(text) {
  state.find = text.trim().toLowerCase();
  if (state.find) {
    nodes.forEach((node, number) => {
      if (isHit(number)) for (let up = node[PARENT]; up >= 0; up = nodes[up][PARENT]) state.open.add(up);
    });
  }
  const hits = nodes.filter((node, number) => isHit(number)).length;
  byId("pair-hits").textContent = state.find ? plural(hits, "row") : "";
  showRows();
}

function keyInTree(event) {
  const rows = [...document.querySelectorAll("#pair-rows tr")];
  const at = rows.findIndex((row) => Number(row.dataset.node) === state.chosen);
  const to = (row) => row && choose(Number(row.dataset.node), { focus: true });
  const keys = {
    ArrowDown: () => to(rows[at + 1]),
    ArrowUp: () => to(rows[at - 1]),
    Home: () => to(rows[0]),
    End: () => to(rows[rows.length - 1]),
    Enter: () => toggle(state.chosen),
    ArrowRight: () => (state.open.has(state.chosen) || !below[state.chosen].length ? to(rows[at + 1]) : toggle(state.chosen)),
    ArrowLeft: () => (state.open.has(state.chosen) ? toggle(state.chosen) : choose(Math.max(nodes[state.chosen][PARENT], 0), { focus: true })),
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
}

function theme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("modtrace-theme", document.documentElement.dataset.theme);
  } catch (error) {
    // Without storage it is for this page alone.
  }
}

listen();
choose(0);
document.documentElement.dataset.ready = "yes";
