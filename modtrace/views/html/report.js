// What the page does when it is used: links its parts, listens to keys, keeps what is looked at in the address.

const KEYS = [
  ["1 2 3 4 5", "summary, tree, flame, timeline, memory"], ["up down, j k", "move; PgUp PgDn, g G, Home End"],
  ["left right, h l", "close or go out, open or go in"], ["Space", "open or close; E C all below, e along single children"],
  ["Enter", "flame of the row; Esc back"], ["/ n N", "find, next, previous"], ["f F", "filter, clear it"],
  ["s S r", "sort by the next, by the one before, the other way round"], ["%", "times or shares, of self or total"],
  ["[ ]", "step before, next step"], ["{ }", "rank before, next rank"], ["w a s d, + - 0", "zoom and move in the timeline, all of it; also drag, ctrl+wheel, double click"],
  ["m o", "call tree or flat by module; the steps or the whole run"], ["y x", "copy the path, copy what is shown as CSV"], ["?", "this list"],
];

const byId = (id) => document.getElementById(id);
const state = { node: -1, absolute: true, ofTotal: false, mode: "tree", shareOf: "counted", restoring: false };
let tree;
let grid;
let flat;
let forms;
let icicle;
let strip;
let runTime;
let timeline;
let curves = [];
let shownStep = 0;

/** For a screen reader, and for nobody else. */
function said(text) {
  byId("said").textContent = text;
}

async function copy(text, what) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch (error) {
    const area = element("textarea", { class: "spoken", "aria-hidden": "true" });
    area.value = text;
    const before = document.activeElement;
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
    before?.focus();
  }
  tell(done ? `copied ${what}` : "this browser does not let a page copy");
}

/** A short note that goes away by itself. */
function tell(text) {
  said(text);
  const note = element("div", { class: "note-shown", "aria-hidden": "true" }, text);
  document.body.append(note);
  setTimeout(() => note.remove(), 1600);
}

function showRows() {
  grid.show(tree.visible());
  grid.sorted(tree.sortKey, tree.descending);
}

/** Show the call tree or the flat table. */
function showMode(mode) {
  state.mode = mode;
  byId("mode").value = mode;
  byId("tree-grid").hidden = mode !== "tree";
  byId("flat-grid").hidden = mode !== "flat";
  for (const id of ["open-all", "close-all"]) byId(id).hidden = mode === "flat";
  byId("sort").parentElement.hidden = mode === "flat";
  if (mode === "flat") flat.show();
  keepAddress(true);
}

/** Have all sums and shares over the steps that count, or over the whole run. */
function shareOf(name) {
  if (state.shareOf !== name || !byId("share-note").textContent) {
    state.shareOf = name;
    byId("share-of").value = name;
    tree.sumOver(name);
    flat.sumOver(name);
    if (tree.sortKey !== "order") tree.sort(tree.sortKey, tree.descending);
    showOutside();
    showRows();
    icicle?.fitHeight();
    if (state.node >= 0) showDetail(state.node);
  }
  keepAddress(true);
}

/** Say what shares are of, and what is in no row. */
function showOutside() {
  const { text, ns, outside } = tree.base;
  byId("share-note").textContent = `Times, calls and % are of ${text}, ${duration(ns)} in all. Self is time without the calls inside.`;
  const shares = state.shareOf === "run" ? (amount) => ` (${amount < 0 ? `-${percent(-amount, ns)}` : percent(amount, ns)}%)` : () => "";
  byId("outside").replaceChildren(...outside.map(([label, amount]) => element("li", {}, `${label}: ${duration(amount)}${shares(amount)}`)));
}

/** Choose a row of the tree everywhere; moving along the tree by keys leaves no place to go back to. */
function select(node, from, clicked = from !== grid) {
  const fresh = state.node !== node && clicked;
  state.node = node;
  if (from !== grid) {
    tree.reveal(node);
    showRows();
    grid.choose(grid.rows.indexOf(node), true);
  }
  icicle.chosen = node;
  icicle.chart.later();
  timeline.node = node;
  timeline.chart.later();
  showDetail(node);
  keepAddress(fresh);
}

function showDetail(node) {
  const type = tree.type(node);
  const name = tree.text("name", node) || type;
  const rows = treeDetail(tree, node, forms).map(([what, value]) => element("div", {}, element("dt", {}, what), element("dd", {}, value)));
  byId("detail").replaceChildren(
    element("h3", {}, name),
    element("button", { type: "button", on: { click: () => copy(name, "the path") } }, "Copy path"),
    element("button", { type: "button", on: { click: () => flameOf(node) } }, "Flame"),
    element("button", { type: "button", class: "close", on: { click: () => byId("detail").replaceChildren() } }, "Close"),
    element("dl", {}, ...rows),
  );
}

function flameOf(node) {
  icicle.zoom(node);
  byId("flame").scrollIntoView();
  byId("icicle").focus({ preventScroll: true });
}

function find(text) {
  let hits = [];
  try {
    hits = tree.search(text.trim());
    byId("hits").textContent = text.trim() ? (hits.length ? `${count(hits.length)} found` : "nothing found") : "";
  } catch (error) {
    tree.hits = [];
    tree.isHit = new Set();
    byId("hits").textContent = error.message;
  }
  grid.paint();
  icicle.chart.later();
}

/** Go to the next or the previous row that was found, as the table has them. */
function toHit(direction) {
  if (!tree.hits.length) return;
  const place = new Map(Array.from(tree.order, (node, at) => [node, at]));
  const hits = [...tree.hits].sort((a, b) => place.get(a) - place.get(b));
  const here = state.node < 0 ? -1 : place.get(state.node);
  let at = direction > 0 ? hits.findIndex((node) => place.get(node) > here) : hits.findLastIndex((node) => place.get(node) < here);
  if (at < 0) at = direction > 0 ? 0 : hits.length - 1;
  select(hits[at]);
  byId("hits").textContent = `${count(at + 1)} of ${count(hits.length)}`;
  said(`${at + 1} of ${hits.length}: ${tree.name(hits[at])}`);
}

function filter(text) {
  const told = byId("kept");
  try {
    const found = tree.filter(text);
    told.textContent = found ? `${count(found.fits)} of ${plural(tree.count, "row")}, ${percent(found.own, tree.base.ns)}% of the time` : "";
    told.classList.remove("bad");
  } catch (error) {
    told.textContent = error.message;
    told.classList.add("bad");
    return;
  }
  flat.keep(tree.kept && tree.fits);
  showRows();
  keepAddress();
}

function sortBy(key, descending = true) {
  tree.sort(key, descending);
  byId("sort").value = key;
  showRows();
  if (grid.at >= 0) grid.choose(grid.at, true);
  said(`sorted by ${key}`);
  keepAddress();
}

function nextSort(direction) {
  const { sorts } = tree;
  sortBy(sorts[(sorts.indexOf(tree.sortKey) + direction + sorts.length) % sorts.length]);
}

function units() {
  if (state.absolute) state.absolute = false;
  else if (!state.ofTotal) state.ofTotal = true;
  else Object.assign(state, { absolute: true, ofTotal: false });
  grid.paint();
  said(`${state.absolute ? "times" : "shares"}, % of ${state.ofTotal ? "total" : "self"}`);
}

function treeCsv() {
  if (state.mode === "flat") return copy(flat.csv(), plural(flat.grid.rows.length, "row"));
  const { stored } = tree;
  const names = tree.metrics.flatMap((metric) => [metric.name, metric.bound].filter(Boolean));
  const values = new Set(tree.metrics.filter((metric) => metric.unit === "value").map((metric) => metric.name));
  const head = ["depth", "path", "type", "phase", "modules", ...names, "inputs", "outputs"];
  const rows = Array.from(grid.rows, (node) => [
    stored.depth[node], tree.name(node), tree.type(node), tree.phases[node], stored.instances[node],
    ...names.map((name) => (values.has(name) ? tensorCell(stored[name][node]) : stored[name][node])), tree.text("inputs", node), tree.text("outputs", node),
  ]);
  return copy(csv([head, ...rows]), plural(rows.length, "row"));
}

/** What the keys do in the tree. */
function treeKey(event, node) {
  const toggle = (open) => {
    tree.expanded[node] = open ? 1 : 0;
    showRows();
    keepAddress();
  };
  const keys = {
    ArrowRight: () => (tree.leaf(node) ? 0 : tree.expanded[node] ? select(node + 1) : toggle(true)),
    ArrowLeft: () => (tree.expanded[node] && !tree.leaf(node) ? toggle(false) : tree.parent[node] >= 0 && select(tree.parent[node])),
    " ": () => toggle(!tree.expanded[node]),
    E: () => (tree.setBelow(node, true), showRows()),
    C: () => (tree.setBelow(node, false), showRows()),
    e: () => select(tree.follow(node)),
  };
  const key = { l: "ArrowRight", h: "ArrowLeft" }[event.key] ?? event.key;
  if (!(key in keys) || node < 0) return false;
  keys[key]();
  return true;
}

async function chooseStep(row) {
  const { steps } = strip;
  const asked = ++shownStep;
  byId("step-told").textContent = strip.describe(row);
  runTime.chosen = row;
  runTime.chart.later();
  const [low, high] = [steps.start_ns[row], steps.start_ns[row] + Math.max(steps.duration_ns[row], 0)];
  for (const curve of curves) {
    curve.step = curve.facts.process === strip.process ? [low, high] : null;
    curve.chart.later();
  }
  const detail = strip.detailOf(row);
  byId("no-detail").hidden = detail !== undefined;
  byId("calls").hidden = detail === undefined;
  if (!detail) {
    byId("no-detail").textContent = "The calls of this step are not in this page; the steps that are marked below their bars have them.";
    timeline.show(null);
  } else {
    const calls = await callsOfStep(detail, timeline.paths, tree.depth);
    if (asked === shownStep) timeline.show(calls, steps.step[row]);
  }
  keepAddress();
}

function stepBy(direction) {
  strip.go(strip.at + direction);
}

function rankBy(direction) {
  const select = byId("rank");
  const next = Math.min(Math.max(strip.process + direction, 0), meta.ranks.length - 1);
  select.value = String(next);
  showRank(next);
}

function showRank(process) {
  strip.of(process);
  const first = strip.rows.findIndex((row) => strip.detailOf(row));
  strip.go(Math.max(first, 0));
}

/** Show a step by its number, if it is in the page. */
function goToStep(process, number) {
  if (process < 0 || process >= meta.ranks.length) return false;
  if (strip.process !== process) {
    byId("rank").value = String(process);
    strip.of(process);
  }
  const at = strip.rows.findIndex((row) => strip.steps.step[row] === number);
  if (at < 0) return false;
  if (at !== strip.at) strip.go(at);
  return true;
}

function goTo(section) {
  const at = byId(section);
  if (!at || at.hidden) return;
  at.scrollIntoView();
  const inside = { tree: state.mode === "flat" ? "flat-grid" : "tree-grid", flame: "icicle", timeline: "calls" }[section];
  const target = inside ? byId(inside) : at.querySelector("[tabindex]") ?? at;
  if (target === at) at.tabIndex = -1;
  target.focus({ preventScroll: true });
}

function globalKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const typing = event.target.closest?.("input, select, textarea");
  if (typing) {
    if (event.key === "Escape" || (event.key === "Enter" && typing.tagName === "INPUT")) {
      if (event.key === "Enter" && typing.id === "find") toHit(1);
      byId("tree-grid").focus();
      event.preventDefault();
    }
    return;
  }
  const keys = {
    1: () => goTo("summary"), 2: () => goTo("tree"), 3: () => goTo("flame"), 4: () => goTo("timeline"), 5: () => goTo("memory"),
    "/": () => (byId("find").focus(), byId("find").select()), n: () => toHit(1), N: () => toHit(-1),
    f: () => (byId("filter").focus(), byId("filter").select()),
    F: () => ((byId("filter").value = ""), filter("")),
    m: () => showMode(state.mode === "tree" ? "flat" : "tree"), o: () => shareOf(state.shareOf === "run" ? "counted" : "run"),
    s: () => nextSort(1), S: () => nextSort(-1), r: () => sortBy(tree.sortKey, !tree.descending), "%": units,
    "[": () => stepBy(-1), "]": () => stepBy(1), "{": () => rankBy(-1), "}": () => rankBy(1),
    y: () => state.node >= 0 && copy(tree.name(state.node), "the path"), x: treeCsv, "?": () => byId("help").showModal(),
    Escape: () => (byId("find").value ? ((byId("find").value = ""), find("")) : ((byId("filter").value = ""), filter(""))),
    0: () => icicle.zoom(-1),
  };
  if (!(event.key in keys)) return;
  keys[event.key]();
  event.preventDefault();
}

function theme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("modtrace-theme", root.dataset.theme);
  } catch (error) {
    // See theme.js.
  }
  document.dispatchEvent(new Event("themechange"));
}
