// Puts the parts of the page together, the first of them as soon as they can be shown.

function legend(steps) {
  const names = meta.stepParts.filter((name) => steps[`${name}_ns`].some((ns) => ns > 0));
  byId("legend").replaceChildren(...names.map((name) => {
    const mark = element("span", { class: "mark", "aria-hidden": "true" });
    mark.style.background = PHASE_COLORS[name];
    return element("li", {}, mark, name);
  }));
}

function showTree(stored, told, storedForms) {
  tree = new Tree(stored, told);
  forms = new Map();
  for (let row = 0; row < storedForms.rows; row++) {
    const text = (number) => (number < 0 ? "" : told[number]);
    const node = storedForms.node[row];
    if (!forms.has(node)) forms.set(node, []);
    forms.get(node).push([text(storedForms.inputs[row]), text(storedForms.outputs[row]), storedForms.calls[row]]);
  }
  grid = new Grid(byId("tree-grid"), treeColumns(tree, state), {
    label: "Modules by where they were called",
    select: (node) => select(node, grid),
    open: flameOf,
    sort: (key) => sortBy(key, key === tree.sortKey ? !tree.descending : true),
    key: treeKey,
    levels: {
      level: (node) => tree.depth[node],
      expandable: (node) => !tree.leaf(node),
      expanded: (node) => Boolean(tree.kept || tree.expanded[node]),
      toggle: (node) => ((tree.expanded[node] = tree.expanded[node] ? 0 : 1), showRows()),
    },
  });
  grid.marked = (node) => (tree.hits.length && tree.isHit.has(node) ? "hit" : "");
  const rest = meta.rest.map(([label, ns]) => element("li", {}, `${label}: ${duration(ns)} (${ns < 0 ? `-${percent(-ns, meta.wallNs)}` : percent(ns, meta.wallNs)}%)`));
  byId("tree-grid").after(element("ul", { class: "rest" }, ...rest));
  showRows();
}

function listen() {
  byId("find").addEventListener("input", () => find(byId("find").value));
  byId("filter").addEventListener("input", () => filter(byId("filter").value));
  byId("sort").addEventListener("change", () => sortBy(byId("sort").value));
  const all = (open) => (tree.setBelow(-1, open), showRows());
  byId("open-all").addEventListener("click", () => all(true));
  byId("close-all").addEventListener("click", () => all(false));
  byId("copy-tree").addEventListener("click", treeCsv);
  byId("theme-button").addEventListener("click", theme);
  byId("help-button").addEventListener("click", () => byId("help").showModal());
  byId("step-before").addEventListener("click", () => stepBy(-1));
  byId("step-after").addEventListener("click", () => stepBy(1));
  byId("rank").addEventListener("change", () => showRank(Number(byId("rank").value)));
  byId("keys").replaceChildren(...KEYS.map(([keys, what]) => element("tr", {}, element("th", { scope: "row" }, keys), element("td", {}, what))));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("themechange")));
  document.addEventListener("keydown", globalKey);
}

async function showSteps(wanted) {
  const [steps, details, paths, names] = await Promise.all([columns("steps"), columns("details"), columns("paths"), texts("names")]);
  timeline = new Timeline(byId("calls"), tree, paths, names, { select, said });
  strip = new Strip(byId("strip"), steps, details, { choose: chooseStep, said });
  legend(steps);
  byId("rank-label").hidden = meta.ranks.length < 2;
  byId("rank").replaceChildren(...meta.ranks.map((rank, at) => element("option", { value: at }, String(rank))));
  return () => {
    if (!steps.rows) return;
    const place = wanted();
    if (place) {
      byId("rank").value = String(place.process);
      strip.of(place.process);
      const at = strip.rows.findIndex((row) => steps.step[row] === place.step);
      if (at >= 0) return strip.go(at);
    }
    // A step in the middle says more of a run than the first, in which everything is slow.
    const detailed = strip.rows.map((row, at) => (strip.detailOf(row) ? at : -1)).filter((at) => at >= 0);
    strip.go(detailed[Math.floor(detailed.length / 2)] ?? 0);
  };
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
  }
}

async function showTables(told) {
  const [modules, steps] = [await columns("modules"), strip.steps];
  const choose = (row) => {
    if (steps.process[row] !== strip.process) showRank(steps.process[row]);
    strip.go(strip.rows.indexOf(row));
    goTo("timeline");
  };
  const shown = { modules: modulesTable(byId("modules-grid"), modules, told), steps: stepsTable(byId("steps-grid"), steps, choose) };
  if (meta.operators.length) {
    byId("operators").hidden = false;
    byId("operators-title").textContent = `Operators (${meta.operatorsDevice})`;
    shown.operators = operatorsTable(byId("operators-grid"));
  }
  for (const [name, table] of Object.entries(shown)) {
    byId(`copy-${name}`).addEventListener("click", () => copy(table.csv(), `the table of ${name}`));
  }
}

async function start() {
  const [stored, told, storedForms] = await Promise.all([columns("tree"), texts("texts"), columns("forms")]);
  showTree(stored, told, storedForms);
  icicle = new Icicle(byId("icicle"), tree, { select, said });
  const openStep = await showSteps(fromAddress);
  listen();
  openStep();
  icicle.chart.now();
  strip.chart.now();
  performance.mark("modtrace-shown");
  await showMemory(told);
  await showTables(told);
  if (curves.length && strip.at >= 0) chooseStep(strip.rows[strip.at]);
  performance.mark("modtrace-ready");
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  // What is in the page without a script is still true.
  document.documentElement.classList.remove("scripted");
  byId("trouble").hidden = false;
  byId("trouble").textContent = `The interactive part of this page cannot be shown: ${error.message}`;
});
