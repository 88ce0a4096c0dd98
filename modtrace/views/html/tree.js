// The merged tree as a table: what is shown of it, in which order, and everything known of the row that is chosen.

const FUNCTION = 1;
const BACKWARD = 2;
const RECOMPUTE = 4;
const OF_MODULE = 8;
const SORTS = ["order", "self", "total", "calls", "name"];

class Tree {
  constructor(stored, texts) {
    this.stored = stored;
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
    this.lower = Array.from({ length: this.count }, (_, node) => `${this.name(node)} ${this.type(node)}`);
    this.total = 0;
    for (let node = 0; node < this.count; node++) if (!this.depth[node]) this.total += Math.max(stored.total_ns[node], 0);
    this.sortKey = "order";
    this.descending = true;
    this.kept = null;
    this.hits = [];
    this.order = Int32Array.from({ length: this.count }, (_, node) => node);
    this.unfold(40);
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

  /** What a filter looks at. */
  facts(node) {
    const { self_ns, total_ns, peak_bytes, calls, device_ns, flops } = this.stored;
    return {
      path: this.name(node), type: this.type(node), phase: this.phases[node], self: self_ns[node],
      total: total_ns[node], mem: peak_bytes[node], calls: calls[node], device: device_ns[node], flops: flops[node],
    };
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
  }

  sort(key, descending) {
    this.sortKey = key;
    this.descending = descending;
    const sign = descending ? -1 : 1;
    const { self_ns, total_ns, calls } = this.stored;
    const values = { self: self_ns, total: total_ns, calls }[key];
    const compare =
      key === "name"
        ? (a, b) => -sign * this.label(a).localeCompare(this.label(b))
        : key === "order"
          ? (a, b) => -sign * (a - b)
          : (a, b) => sign * (values[a] - values[b]) || a - b;
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
    let fits = 0;
    let own = 0;
    for (let node = 0; node < this.count; node++) {
      if (!test(this.facts(node))) continue;
      fits++;
      own += Math.max(this.stored.self_ns[node], 0);
      for (let up = node; up >= 0 && !kept[up]; up = this.parent[up]) kept[up] = 1;
    }
    this.kept = kept;
    return { fits, own };
  }

  /** The rows that a text is in. */
  search(text) {
    const has = text ? matcher(text) : () => false;
    this.hits = [];
    for (let node = 0; node < this.count; node++) if (has(this.lower[node])) this.hits.push(node);
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

/** The columns of the table; those of which nothing is known are left out. */
function treeColumns(tree, state) {
  const { stored } = tree;
  const time = (key) => (node) => duration(stored[key][node]);
  const has = (key) => stored[key].some((value) => value > 0);
  const columns = [
    { key: "name", title: "module", left: true, sort: "name", fill: (cell, node) => fillName(cell, tree, node) },
    { key: "self", title: "self", sort: "self", text: (node) => state.absolute ? time("self_ns")(node) : `${percent(stored.self_ns[node], meta.wallNs)}%` },
    { key: "share", title: "%", text: (node) => percent(stored[state.ofTotal ? "total_ns" : "self_ns"][node], meta.wallNs) },
    { key: "total", title: "total", sort: "total", text: time("total_ns") },
    { key: "bar", title: "", left: true, fill: (cell, node) => fillBar(cell, stored.total_ns[node], tree.total) },
    { key: "calls", title: "calls", sort: "calls", text: (node) => count(stored.calls[node]) },
    { key: "each", title: "median", text: time("p50_ns") },
  ];
  if (has("device_ns")) columns.push({ key: "device", title: "device", text: time("device_ns") });
  if (has("flops_at_least")) {
    columns.push({ key: "flops", title: "FLOPs", text: (node) => bounded(stored.flops[node], stored.flops_at_least[node], "") });
  }
  if (has("peak_bytes")) columns.push({ key: "peak", title: "peak", text: (node) => size(stored.peak_bytes[node]) });
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
  if (type && type !== label && label !== `(${type})`) parts.push(element("span", { class: "type" }, type));
  if (again || raised) parts.push(element("span", { class: "note" }, again + raised));
  cell.replaceChildren(...parts);
  cell.title = tree.name(node);
}

function fillBar(cell, value, whole) {
  if (!cell.firstChild) cell.append(element("span", { class: "meter", "aria-hidden": "true" }));
  cell.firstChild.style.width = `${whole > 0 ? Math.max((100 * value) / whole, value > 0 ? 0.5 : 0) : 0}%`;
}

/** Everything that is known of a row, as pairs of what it is and its value. */
function treeDetail(tree, node, forms) {
  const { stored } = tree;
  const rows = [];
  const add = (what, value) => value !== "" && rows.push([what, value]);
  const figure = (key) => duration(stored[key][node]);
  const calls = stored.calls[node];
  add("class", tree.type(node) + (tree.text("described", node) ? `(${tree.text("described", node)})` : ""));
  add("phase", tree.phases[node]);
  add("calls", count(calls) + (stored.instances[node] > 1 ? ` of ${stored.instances[node]} modules` : ""));
  add("self", `${figure("self_ns")}, ${percent(stored.self_ns[node], meta.wallNs)}% of the run`);
  add("total", `${figure("total_ns")}, ${percent(stored.total_ns[node], meta.wallNs)}%`);
  if (calls > 1) add("a call", `median ${figure("p50_ns")}, p95 ${figure("p95_ns")}, max ${figure("max_ns")}`);
  if (stored.device_ns[node] >= 0) add("on the device", figure("device_ns"));
  if (stored.flops[node] > 0) {
    // The time of the host on an accelerator is that of telling it what to do.
    const rate = stored.total_ns[node] > 0 && !meta.accelerators ? `, ${scaled((stored.flops[node] * 1e9) / stored.total_ns[node], "FLOP/s")}` : "";
    add("computes", scaled(stored.flops[node], "FLOP") + rate);
  } else if (stored.flops[node] === -1 && stored.flops_at_least[node] > 0) {
    add("computes", `at least ${scaled(stored.flops_at_least[node], "FLOP")}`);
  }
  if (stored.peak_bytes[node] >= 0) add("memory peak", size(stored.peak_bytes[node]));
  if (stored.flags[node] & OF_MODULE && stored.parameters[node] >= 0) {
    add("parameters", `${count(stored.parameters[node])}, ${size(stored.parameter_bytes[node])}${stored.instances[node] > 1 ? " each" : ""}`);
  }
  if (stored.raised[node] > 0) add("raised", plural(stored.raised[node], "call"));
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
