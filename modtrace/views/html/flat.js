// The flat table: one row a module or phase, forward and backward together, each without what is inside.

class FlatTable {
  constructor(host, profiles, texts, { select }) {
    this.host = host;
    this.profiles = profiles;
    this.texts = texts;
    this.key = "self_ns";
    this.descending = true;
    this.only = null;
    this.name = "counted";
    const text = (key) => (row) => (this.stored[key][row] < 0 ? "" : texts[this.stored[key][row]]);
    const time = (key, title, hint) => ({ key, title, hint, sort: key, text: (row) => (this.stored[key][row] < 0 ? "" : duration(this.stored[key][row])) });
    const onDevice = profiles.counted.device_ns.some((ns) => ns > 0);
    const columns = [
      { key: "label", title: "module", left: true, sort: "label", text: text("label") },
      { key: "type", title: "class", left: true, sort: "type", text: text("type") },
      time("self_ns", "self", `${METRICS.get("self").doc}, forward and backward together`),
      { key: "share", title: "%", hint: "share of the self time", text: (row) => percent(this.stored.self_ns[row], tree.base.ns) },
      { key: "bar", title: spoken("share as a bar"), left: true, fill: (cell, row) => fillBar(cell, this.stored.self_ns[row], this.longest) },
      time("forward_ns", "forward", "the part of self in its forward"),
      time("backward_ns", "backward", "the part of self in its backward, with what checkpointing computes again"),
      ...(onDevice ? [time("device_ns", "device", METRICS.get("device").doc)] : []),
      { key: "calls", title: "calls", hint: METRICS.get("calls").doc, sort: "calls", text: (row) => count(this.stored.calls[row]) },
      { key: "output", title: "output", hint: "the signature of its output seen most often", left: true, text: text("output") },
    ];
    this.grid = new Grid(host, columns, {
      label: "Modules, the hottest first",
      select: (row) => this.stored.node[row] >= 0 && select(this.stored.node[row], this.grid),
      sort: (key) => this.sort(key, key === this.key ? !this.descending : true),
    });
    this.sumOver("counted");
  }

  get stored() {
    return this.profiles[this.name];
  }

  sumOver(name) {
    this.name = name;
    this.longest = this.stored.self_ns.reduce((most, ns) => Math.max(most, ns), 1);
    this.show();
  }

  sort(key, descending) {
    this.key = key;
    this.descending = descending;
    this.show();
  }

  /** Rows of the nodes that a filter keeps; all for null. */
  keep(nodes) {
    this.only = nodes;
    this.show();
  }

  csv() {
    const names = ["label", "type", "self_ns", "forward_ns", "backward_ns", "device_ns", "calls", "output"];
    const words = new Set(["label", "type", "output"]);
    const value = (name, row) => (words.has(name) ? this.texts[this.stored[name][row]] ?? "" : this.stored[name][row]);
    return csv([["module", ...names.slice(1)], ...Array.from(this.grid.rows, (row) => names.map((name) => value(name, row)))]);
  }

  show() {
    const values = this.stored[this.key];
    const words = this.key === "label" || this.key === "type";
    const sign = this.descending ? -1 : 1;
    const textOf = (row) => (values[row] < 0 ? "" : this.texts[values[row]]);
    const rows = Int32Array.from({ length: this.stored.rows }, (_, row) => row).filter((row) => !this.only || this.only[this.stored.node[row]]);
    rows.sort((a, b) => (words ? -sign * textOf(a).localeCompare(textOf(b)) : sign * (values[a] - values[b])) || a - b);
    this.grid.sorted(this.key, this.descending);
    this.grid.show(rows);
  }
}
