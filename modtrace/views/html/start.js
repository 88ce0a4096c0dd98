// Puts the parts of the page together, the first of them as soon as they can be shown.

function legend(steps) {
  const names = meta.stepParts.filter((name) => steps[`${name}_ns`].some((ns) => ns > 0));
  byId("legend").replaceChildren(...names.map((name) => {
    const mark = element("span", { class: "mark", "aria-hidden": "true" });
    mark.style.background = PHASE_COLORS[name];
    return element("li", {}, mark, name);
  }));
}

/** Colors of the phases and classes in the flame. */
function flameLegend() {
  const item = (color, text) => {
    const mark = element("span", { class: "mark", "aria-hidden": "true" });
    mark.style.background = color;
    return element("li", {}, mark, text);
  };
  const phases = new Set();
  for (let node = 0; node < tree.count; node++) if (!(tree.stored.flags[node] & OF_MODULE) && PHASE_COLORS[tree.label(node)]) phases.add(tree.label(node));
  const classes = [...classColors].map(([type, color]) => item(color, type));
  if (tree.otherClasses) classes.push(item(meta.otherClassColor, plural(tree.otherClasses, "other class").replace(/classs$/, "classes")));
  byId("flame-legend").replaceChildren(...[...phases].map((name) => item(PHASE_COLORS[name], name)), ...classes);
}

function showTree(stored, told, storedForms, sets, profiles) {
  tree = new Tree(stored, told, sets);
  const titles = { order: "as it ran", ...Object.fromEntries(tree.metrics.map((metric) => [metric.key, metric.title])) };
  byId("sort").replaceChildren(...tree.sorts.map((key) => element("option", { value: key }, titles[key] ?? key)));
  forms = new Map();
  for (let row = 0; row < storedForms.rows; row++) {
    const text = (number) => (number < 0 ? "" : told[number]);
    const node = storedForms.node[row];
    if (!forms.has(node)) forms.set(node, []);
    forms.get(node).push([text(storedForms.inputs[row]), text(storedForms.outputs[row]), storedForms.calls[row]]);
  }
  grid = new Grid(byId("tree-grid"), treeColumns(tree, state), {
    label: "Modules by where they were called",
    select: (node, clicked) => select(node, grid, clicked),
    open: flameOf,
    sort: (key) => sortBy(key, key === tree.sortKey ? !tree.descending : true),
    key: treeKey,
    levels: {
      level: (node) => tree.depth[node],
      expandable: (node) => !tree.leaf(node),
      expanded: (node) => Boolean(tree.kept || tree.expanded[node]),
      toggle: (node) => ((tree.expanded[node] = tree.expanded[node] ? 0 : 1), showRows(), keepAddress()),
    },
  });
  grid.marked = (node) => (tree.hits.length && tree.isHit.has(node) ? "hit" : "");
  byId("flat-grid").after(element("ul", { class: "outside", id: "outside" }));
  flat = new FlatTable(byId("flat-grid"), profiles, told, { select });
  showOutside();
  flameLegend();
  showRows();
}

function listen() {
  byId("find").addEventListener("input", () => find(byId("find").value));
  byId("filter").addEventListener("input", () => filter(byId("filter").value));
  byId("sort").addEventListener("change", () => sortBy(byId("sort").value));
  byId("mode").addEventListener("change", () => showMode(byId("mode").value));
  byId("share-of").addEventListener("change", () => shareOf(byId("share-of").value));
  const all = (open) => (tree.setBelow(-1, open), showRows());
  byId("open-all").addEventListener("click", () => all(true));
  byId("close-all").addEventListener("click", () => all(false));
  byId("copy-tree").addEventListener("click", treeCsv);
  byId("theme-button").addEventListener("click", theme);
  byId("help-button").addEventListener("click", () => byId("help").showModal());
  byId("step-before").addEventListener("click", () => stepBy(-1));
  byId("step-after").addEventListener("click", () => stepBy(1));
  byId("rank").addEventListener("change", () => showRank(Number(byId("rank").value)));
  for (const link of document.querySelectorAll(".rank-link")) {
    link.addEventListener("click", () => {
      byId("rank").value = link.dataset.process;
      showRank(Number(link.dataset.process));
    });
  }
  byId("keys").replaceChildren(...KEYS.map(([keys, what]) => element("tr", {}, element("th", { scope: "row" }, keys), element("td", {}, what))));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("themechange")));
  document.addEventListener("keydown", globalKey);
}

async function showSteps() {
  const [steps, details, paths, names] = await Promise.all([columns("steps"), columns("details"), columns("paths"), texts("names")]);
  timeline = new Timeline(byId("calls"), tree, paths, names, { select, said });
  runTime = new RunTime(byId("run-time"), steps, goToStep);
  strip = new Strip(byId("strip"), steps, details, { choose: chooseStep, said });
  legend(steps);
  byId("rank-label").hidden = meta.ranks.length < 2;
  byId("rank").replaceChildren(...meta.ranks.map((rank, at) => element("option", { value: at }, String(rank))));
  return () => {
    if (!steps.rows) return;
    // The median step says more of a run than the first, in which everything is slow, or one that counted operations.
    const usual = (at) => steps.flags[strip.rows[at]] === 1 && steps.step[strip.rows[at]] > 0;
    let detailed = strip.rows.map((row, at) => (strip.detailOf(row) ? at : -1)).filter((at) => at >= 0);
    if (detailed.some(usual)) detailed = detailed.filter(usual);
    detailed.sort((a, b) => steps.duration_ns[strip.rows[a]] - steps.duration_ns[strip.rows[b]]);
    strip.go(detailed[Math.floor((detailed.length - 1) / 2)] ?? 0);
  };
}

/** The chart of steps on the first screen: what a column is, beside the pointer; a click shows the step. */
function firstSteps() {
  const chart = byId("steps-chart");
  if (!chart) return;
  const under = (event) => {
    const box = chart.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * meta.columns.length);
    const number = meta.columns[Math.min(Math.max(column, 0), meta.columns.length - 1)];
    const row = strip.steps.step.findIndex((step, at) => step === number && strip.steps.process[at] === 0);
    return [number, row];
  };
  chart.addEventListener("mousemove", (event) => {
    const [number, row] = under(event);
    if (row >= 0) card.beside(event, `step ${number}`, strip.facts(row));
  });
  chart.addEventListener("mouseleave", () => card.hide());
  chart.addEventListener("click", (event) => {
    if (goToStep(0, under(event)[0])) goTo("timeline");
  });
}

async function showMemory(told) {
  if (!meta.memory.length) return;
  byId("memory").hidden = false;
  for (const [at, facts] of meta.memory.entries()) {
    const canvas = element("canvas", { tabindex: 0, role: "slider", class: "curve", "aria-label": `Memory held on ${facts.device} over time, in milliseconds`, "aria-valuemin": 0 });
    const table = element("table", { class: "holders" });
    const several = meta.ranks.length > 1 ? `, rank ${meta.ranks[facts.process]}` : "";
    byId("memory-parts").append(element("h3", {}, `${facts.device}${several}: peak ${size(facts.peak_bytes)}, ${plural(facts.allocations, "allocation")}`), canvas, table);
    const [curve, holders] = await Promise.all([columns(`curve-${at}`), columns(`holders-${at}`)]);
    canvas.setAttribute("aria-valuemax", Math.round(curve.at_ns[curve.rows - 1] / 1e6));
    curves.push(new MemoryCurve(canvas, table, facts, curve, holders, told, { said }));
    canvas.after(curves[curves.length - 1].legend());
  }
}

async function showTables(told) {
  const [modules, steps] = [await columns("modules"), strip.steps];
  const choose = (row) => {
    if (steps.process[row] !== strip.process) showRank(steps.process[row]);
    strip.go(strip.rows.indexOf(row));
    goTo("timeline");
  };
  const shown = { modules: modulesTable(byId("modules-grid"), modules, told, select), steps: stepsTable(byId("steps-grid"), steps, choose) };
  if (meta.operators.length) {
    byId("operators").hidden = false;
    byId("operators-title").textContent = `Operators (${meta.operatorsDevice})`;
    shown.operators = operatorsTable(byId("operators-grid"), select);
  }
  for (const [name, table] of Object.entries(shown)) {
    byId(`copy-${name}`).addEventListener("click", () => copy(table.csv(), `the table of ${name}`));
  }
}

async function start() {
  const names = ["tree", "forms", "sets", "flat-counted", "flat-run"];
  const [told, stored, storedForms, sets, counted, run] = await Promise.all([texts("texts"), ...names.map(columns)]);
  showTree(stored, told, storedForms, sets, { counted, run });
  icicle = new Icicle(byId("icicle"), tree, { select, said });
  const openStep = await showSteps();
  listen();
  firstSteps();
  const address = location.hash;
  state.restoring = true;
  openStep();
  state.restoring = false;
  if (address.includes("=")) restore(address);
  icicle.chart.now();
  strip.chart.now();
  performance.mark("modtrace-shown");
  await showMemory(told);
  await showTables(told);
  if (curves.length && strip.at >= 0) chooseStep(strip.rows[strip.at]);
  performance.mark("modtrace-ready");
  followLinks();
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  // What is in the page without a script is still true.
  document.documentElement.classList.remove("scripted");
  byId("trouble").hidden = false;
  byId("trouble").textContent = `The interactive part of this page cannot be shown: ${error.message}`;
});
