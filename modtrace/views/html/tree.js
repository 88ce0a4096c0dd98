// The merged tree as a table: what is shown of it, in which order, and everything known of the row that is chosen.

const FUNCTION = 1;
const BACKWARD = 2;
const RECOMPUTE = 4;
const OF_MODULE = 8;
const METRICS = new Map(meta.metrics.map((metric) => [metric.key, metric]));

class Tree {
  constructor(stored, texts, sets) {
    this.stored = stored;
    this.sets = new Map();
    for (let row = 0; row < sets.rows; row++) {
      if (!this.sets.has(sets.set[row])) this.sets.set(sets.set[row], []);
      this.sets.get(sets.set[row]).push([sets.first[row], sets.last[row]]);
    }
    this.texts = texts;
    this.count = stored.rows;
    this.depth = stored.depth;
    this.parent = new Int32Array(this.count).fill(-1);
    this.end = new Int32Array(this.count);
    const open = [];
    for (let node = 0; node < this.count; node++) {
      while (open.length > this.depth[node]) this.end[open.pop()] = node;
      this.parent[node] = open.length ? open[open.length - 1] : -1;
      open.push(node);
    }
    for (const node of open) this.end[node] = this.count;
    this.expanded = new Uint8Array(this.count);
    this.phases = this.phaseNames();
    this.metrics = meta.metrics.filter((metric) => [metric.name, metric.bound].some((name) => name && stored[name].some((value) => (metric.unit === "value" ? value !== null : value > 0))));
    this.sorts = ["order", ...this.metrics.map((metric) => metric.key), "name"];
    this.ofRun = Object.fromEntries(meta.sums.map((name) => [name, stored[name]]));
    this.sumOver("counted");
    this.chooseColors();
    this.sortKey = "order";
    this.descending = true;
    this.kept = null;
    this.hits = [];
    this.order = Int32Array.from({ length: this.count }, (_, node) => node);
    this.unfold(40);
  }

  /** Have all sums over the steps that count ("counted"), or over the whole run ("run"). */
  sumOver(name) {
    const { stored } = this;
    this.base = meta[name];
    for (const sum of meta.sums) stored[sum] = name === "run" ? this.ofRun[sum] : stored[`counted_${sum}`];
    this.total = 0;
    for (let node = 0; node < this.count; node++) if (!this.depth[node]) this.total += Math.max(stored.total_ns[node], 0);
  }

  /** Percent of what shares are of, "-" for a row that did not run in it. */
  share(name, node) {
    return this.stored.calls[node] ? percent(this.stored[name][node], this.base.ns) : "-";
  }

  /** The classes with most time get colors of their own. */
  chooseColors() {
    const spent = new Map();
    for (let node = 0; node < this.count; node++) {
      if (!(this.stored.flags[node] & OF_MODULE)) continue;
      spent.set(this.type(node), (spent.get(this.type(node)) ?? 0) + Math.max(this.ofRun.self_ns[node], 0));
    }
    const classes = [...spent.keys()].sort((a, b) => spent.get(b) - spent.get(a));
    classes.slice(0, meta.classColors.length).forEach((type, rank) => classColors.set(type, meta.classColors[rank]));
    this.otherClasses = Math.max(classes.length - meta.classColors.length, 0);
  }

  /** A module has the color of its class, anything else that of its phase. */
  color(node) {
    if (this.stored.flags[node] & OF_MODULE) return classColor(this.type(node));
    return PHASE_COLORS[this.label(node)] ?? PHASE_COLORS.other;
  }

  text(key, node) {
    const number = this.stored[key][node];
    return number < 0 ? "" : this.texts[number];
  }

  label(node) {
    return this.text("label", node);
  }

  type(node) {
    return this.text("type", node);
  }

  /** The full name; of a root module its class. */
  name(node) {
    return this.text("name", node) || this.type(node);
  }

  leaf(node) {
    return this.end[node] === node + 1;
  }

  /** The phase of each row: that of the nearest phase around it. */
  phaseNames() {
    return Array.from(this.stored.phase, (code, node) => {
      const flags = this.stored.flags[node];
      if (flags & RECOMPUTE) return "recompute";
      if (flags & BACKWARD) return "backward";
      return code >= 0 ? meta.phases[code] : "";
    });
  }

  /** A number of a row; see `isKnown`. */
  number(key, node) {
    return this.stored[METRICS.get(key).name][node];
  }

  /** A number of a row as text; the head of its column says what FLOPs are. */
  shown(metric, node) {
    const value = this.stored[metric.name][node];
    if (!this.stored.calls[node] && metric.adds !== "calls" && meta.sums.includes(metric.name)) return "-";
    if (value < 0 && metric.adds === "ranks") return "";
    return metric.unit === "FLOP" ? bounded(value, metric.bound ? this.stored[metric.bound][node] : -1, "") : inUnit(value, metric.unit);
  }

  /** What a filter looks at. */
  facts(node) {
    return {
      path: this.name(node), type: this.type(node), number: (key) => this.number(key, node),
      has: (group, number) => this.has(group, number, node),
    };
  }

  /** Whether a row has a call in a phase, step or rank. */
  has(group, number, node) {
    if (group === "phase") return Boolean(this.stored.phases[node] & (1 << number));
    const which = this.stored[`${group}s`];
    if (!which) throw new Error(`${group}: is not in this page: modtrace view has it`);
    return (this.sets.get(which[node]) ?? []).some(([first, last]) => first <= number && number <= last);
  }

  /** The rows that are open or closed otherwise than at the beginning. */
  changed() {
    const nodes = [];
    for (let node = 0; node < this.count; node++) if (this.expanded[node] !== this.unfolded[node] && !this.leaf(node)) nodes.push(node);
    return nodes;
  }

  /** Open and close rows as at the beginning but for these. */
  reopen(nodes) {
    this.expanded.set(this.unfolded);
    for (const node of nodes) this.expanded[node] = this.unfolded[node] ? 0 : 1;
  }

  /** The ranks that a row ran in, where these are not all and are told apart by no row above it; "" otherwise. */
  ranks(node) {
    const which = this.stored.ranks;
    if (!which || meta.ranks.length < 2) return "";
    if (this.parent[node] >= 0 && which[this.parent[node]] === which[node]) return "";
    const ranges = this.sets.get(which[node]) ?? [];
    const number = ranges.reduce((sum, [first, last]) => sum + last - first + 1, 0);
    if (!number || number >= meta.ranks.length) return "";
    return `rank ${ranges.map(([first, last]) => (first === last ? first : `${first}-${last}`)).join(", ")}`;
  }

  /** Open the rows with most time until about so many can be seen. */
  unfold(most) {
    this.expanded.fill(0);
    const byTime = Array.from({ length: this.count }, (_, node) => node).filter((node) => !this.leaf(node));
    byTime.sort((a, b) => this.stored.total_ns[b] - this.stored.total_ns[a] || this.depth[a] - this.depth[b]);
    let seen = 0;
    for (let node = 0; node < this.count; node = this.end[node]) seen++;
    for (const node of byTime) {
      let children = 0;
      for (let child = node + 1; child < this.end[node]; child = this.end[child]) children++;
      if (seen + children > most) break;
      this.expanded[node] = 1;
      seen += children;
    }
    this.unfolded = this.expanded.slice();
  }

  sort(key, descending) {
    this.sortKey = key;
    this.descending = descending;
    const sign = descending ? -1 : 1;
    const metric = METRICS.get(key);
    const values = metric && this.stored[metric.name];
    const bound = metric && metric.bound ? this.stored[metric.bound] : values;
    // Unknown ones stand last either way, NaN beside infinity.
    const rank = (node) => {
      const number = isKnown(values[node], metric.unit) ? values[node] : bound[node];
      return isKnown(number, metric.unit) ? sign * (Number.isNaN(number) ? Infinity : number) : NaN;
    };
    const byRank = (a, b) => {
      const [first, second] = [rank(a), rank(b)];
      if (first === second || (Number.isNaN(first) && Number.isNaN(second))) return a - b;
      return Number.isNaN(second) || first < second ? -1 : 1;
    };
    const compare =
      key === "name"
        ? (a, b) => -sign * this.label(a).localeCompare(this.label(b))
        : key === "order"
          ? (a, b) => -sign * (a - b)
          : byRank;
    const order = new Int32Array(this.count);
    let placed = 0;
    const pending = [this.childrenOf(-1).sort(compare).reverse()];
    while (pending.length) {
      const siblings = pending[pending.length - 1];
      if (!siblings.length) {
        pending.pop();
        continue;
      }
      const node = siblings.pop();
      order[placed++] = node;
      if (!this.leaf(node)) pending.push(this.childrenOf(node).sort(compare).reverse());
    }
    this.order = order;
  }

  childrenOf(node) {
    const found = [];
    const end = node < 0 ? this.count : this.end[node];
    for (let child = node + 1; child < end; child = this.end[child]) found.push(child);
    return found;
  }

  /** Keep the rows that fit, with those around them. Returns how many fit and their share of the time. */
  filter(text) {
    if (!text.trim()) {
      this.kept = null;
      return null;
    }
    const test = filterOf(text);
    const kept = new Uint8Array(this.count);
    this.fits = new Uint8Array(this.count);
    let fits = 0;
    let own = 0;
    for (let node = 0; node < this.count; node++) {
      if (!test(this.facts(node))) continue;
      fits++;
      this.fits[node] = 1;
      own += Math.max(this.stored.self_ns[node], 0);
      for (let up = node; up >= 0 && !kept[up]; up = this.parent[up]) kept[up] = 1;
    }
    this.kept = kept;
    return { fits, own };
  }

  /** The rows that a text is in. */
  search(text) {
    const has = searchOf(text);
    this.hits = [];
    for (let node = 0; node < this.count; node++) if (has({ path: this.name(node), type: this.type(node) })) this.hits.push(node);
    this.isHit = new Set(this.hits);
    return this.hits;
  }

  visible() {
    const rows = [];
    let closed = Infinity;
    for (const node of this.order) {
      if (this.depth[node] > closed) continue;
      const shown = !this.kept || this.kept[node];
      if (shown) rows.push(node);
      closed = shown && (this.kept || this.expanded[node]) ? Infinity : this.depth[node];
    }
    return Int32Array.from(rows);
  }

  reveal(node) {
    for (let up = this.parent[node]; up >= 0; up = this.parent[up]) this.expanded[up] = 1;
    if (this.kept && !this.kept[node]) this.kept = null;
  }

  setBelow(node, open) {
    const [first, last] = node < 0 ? [0, this.count] : [node, this.end[node]];
    this.expanded.fill(open ? 1 : 0, first, last);
  }

  /** Open a row and, while it has one child only, that one too. */
  follow(node) {
    for (let at = node; !this.leaf(at); at = at + 1) {
      this.expanded[at] = 1;
      if (this.end[at + 1] !== this.end[at]) return at + 1;
    }
    return node;
  }
}

/** Pixels of columns that are not as wide as the others, as report.css has them. */
const COLUMN_WIDTHS = { name: 180, share: 52, bar: 96 };
const COLUMN_WIDTH = 78;
/** Pixels that names get before numbers that say less. */
const NAME_ROOM = 100;

/** The columns of the table: a share and a bar among the numbers of which anything is known; those that find no room are left out. */
function treeColumns(tree, state) {
  const { stored } = tree;
  const absolute = (metric) => (node) => tree.shown(metric, node);
  const share = (node) => `${tree.share("self_ns", node)}%`;
  const numbers = tree.metrics.map((metric) => ({
    key: metric.key, title: metric.title, hint: metric.doc, sort: metric.key,
    text: metric.key === "self" ? (node) => (state.absolute ? tree.shown(metric, node) : share(node)) : absolute(metric),
  }));
  const behind = {
    self: { key: "share", title: "%", hint: "share of the self time; % on the keyboard: of the total time", text: (node) => tree.share(state.ofTotal ? "total_ns" : "self_ns", node) },
    total: { key: "bar", title: spoken("share of the total time"), left: true, fill: (cell, node) => fillBar(cell, stored.total_ns[node], tree.base.ns) },
  };
  const columns = [{ key: "name", title: "module", hint: "h.* x12 is one row for twelve modules that are alike", left: true, sort: "name", fill: (cell, node) => fillName(cell, tree, node) }];
  for (const column of numbers) columns.push(column, ...(behind[column.key] ? [behind[column.key]] : []));
  return withRoom(columns);
}

/** Columns with the narrowest table that has room for each: of a spread the middle comes first. */
function withRoom(columns) {
  const spread = (column) => ["p95", "max"].includes(METRICS.get(column.key)?.adds);
  let room = 0;
  for (const column of [...columns.filter((column) => !spread(column)), ...columns.filter(spread)]) {
    room += COLUMN_WIDTHS[column.key] ?? COLUMN_WIDTH;
    if (METRICS.has(column.key)) column.from = room + (spread(column) ? NAME_ROOM : 0);
  }
  return columns;
}

function fillName(cell, tree, node) {
  const open = tree.kept ? true : tree.expanded[node];
  const label = tree.label(node);
  const type = tree.type(node);
  const folded = tree.stored.instances[node] > 1 ? ` x${tree.stored.instances[node]}` : "";
  const again = tree.stored.flags[node] & RECOMPUTE ? " recompute" : "";
  const raised = tree.stored.raised[node] > 0 ? ` raised ${tree.stored.raised[node]}x` : "";
  const twist = element("span", { class: "twist", "aria-hidden": "true" }, tree.leaf(node) ? "" : open ? "\u25be" : "\u25b8");
  twist.style.marginLeft = `${Math.min(tree.depth[node], 24) * 12}px`;
  const parts = [twist, element("span", { class: "label" }, label + folded)];
  if (tree.ranks(node)) parts.push(element("span", { class: "type" }, tree.ranks(node)));
  if (type && type !== label && label !== `(${type})`) parts.push(element("span", { class: "type" }, type));
  if (again || raised) parts.push(element("span", { class: "note" }, again + raised));
  cell.replaceChildren(...parts);
  cell.title = tree.name(node);
}

function fillBar(cell, value, whole) {
  if (!cell.firstChild) cell.append(element("span", { class: "meter", "aria-hidden": "true" }));
  cell.firstChild.style.width = `${whole > 0 ? Math.max((100 * value) / whole, value > 0 ? 0.5 : 0) : 0}%`;
}

/** What treeDetail calls the median and the like of a row of several calls. */
const SPREAD = "a call";

/** Everything that is known of a row, as pairs of what it is and its value. */
function treeDetail(tree, node, forms) {
  const { stored } = tree;
  const rows = [];
  const add = (what, value) => value !== "" && rows.push([what, value]);
  const calls = stored.calls[node];
  add("class", tree.type(node) + (tree.text("described", node) ? `(${tree.text("described", node)})` : ""));
  add("phase", tree.phases[node]);
  if (tree.ranks(node)) add("only in", tree.ranks(node));
  const spread = [];
  let behind = 0;
  for (const metric of [...tree.metrics].sort((a, b) => (b.adds === "calls") - (a.adds === "calls"))) {
    const value = stored[metric.name][node];
    const title = metric.label || metric.title;
    if (metric.adds === "calls") add(title, count(calls) + (stored.instances[node] > 1 ? ` of ${stored.instances[node]} modules` : "") + whenCalled(tree, node));
    else if (["p50", "p95", "max"].includes(metric.adds)) (behind ||= rows.length), spread.push(`${metric.title} ${tree.shown(metric, node)}`);
    else if (metric.unit === "FLOP") add(title, computed(tree, metric, node));
    else if (metric.key === "self") add(title, `${tree.shown(metric, node)}, ${tree.share("self_ns", node)}% of ${tree.base.text.split(";")[0]}`);
    else if (metric.key === "total") add(title, `${tree.shown(metric, node)}, ${tree.share("total_ns", node)}%`);
    else if (isKnown(value, metric.unit)) add(title, tree.shown(metric, node));
  }
  if (stored.backward_ns[node] >= 0) rows.splice(behind || rows.length, 0, ["its backward", duration(stored.backward_ns[node])]);
  if (calls > 1 && spread.length) rows.splice(behind, 0, [SPREAD, spread.join(", ")]);
  if (stored.flags[node] & OF_MODULE && stored.parameters[node] >= 0) {
    add("parameters", `${count(stored.parameters[node])}, ${size(stored.parameter_bytes[node])}${stored.instances[node] > 1 ? " each" : ""}`);
  }
  if (stored.raised[node] > 0) add("raised", plural(stored.raised[node], "call"));
  add("error", tree.text("error", node));
  if (stored.unknown[node] > 0) add("time not known", plural(stored.unknown[node], "call"));
  const several = forms.get(node) ?? [];
  if (several.length) {
    for (const [given, returned, times] of several) add(`${plural(times, "call")}`, `${given || "?"} \u2192 ${returned || "?"}`);
  } else {
    add("inputs", tree.text("inputs", node));
    add("outputs", tree.text("outputs", node));
  }
  const line = stored.line[node];
  add("forward in", tree.text("source", node) + (line >= 0 ? `:${line}` : ""));
  return rows;
}

/** Of a row with a single call when that was, "" for others. */
function whenCalled(tree, node) {
  const { calls, start_ns: start, step } = tree.stored;
  if (calls[node] !== 1 || start[node] < 0) return "";
  return `, ${duration(start[node])} after recording began${step[node] >= 0 ? `, in step ${step[node]}` : ""}`;
}

/** How much a row computes, and how fast where that can be told; "" for nothing. */
function computed(tree, metric, node) {
  const { stored } = tree;
  const value = stored[metric.name][node];
  const least = metric.bound ? stored[metric.bound][node] : -1;
  if (value <= 0) return value === -1 && least > 0 ? `at least ${scaled(least, metric.unit)}` : "";
  // The time of the host on an accelerator is that of telling it what to do.
  const rate = stored.total_ns[node] > 0 && !meta.accelerators ? `, ${scaled(Math.floor((value * 1e9) / stored.total_ns[node]), "FLOP/s")}` : "";
  return scaled(value, metric.unit) + rate;
}
