// The tree drawn by time: each row as wide as the time that its calls took, what is inside it below it.

const LEVEL_HEIGHT = 20;
const MOST_LEVELS = 400;
/** In place of a row: the time before the first call, which the whole run begins with. */
const BEFORE = -2;

class Icicle {
  constructor(canvas, tree, { select, said }) {
    this.tree = tree;
    this.select = select;
    this.said = said;
    this.root = -1;
    this.chosen = -1;
    this.placed = [];
    this.canvas = canvas;
    this.chart = new Chart(canvas, (context, width, height) => this.draw(context, width, height));
    canvas.addEventListener("click", (event) => this.clicked(event));
    canvas.addEventListener("dblclick", () => this.zoom(Math.max(this.chosen, -1)));
    canvas.addEventListener("mousemove", (event) => this.moved(event));
    canvas.addEventListener("mouseleave", () => card.hide());
    canvas.addEventListener("blur", () => card.hide());
    canvas.addEventListener("keydown", (event) => this.key(event));
    this.fitHeight();
  }

  /** As high as the levels that are drawn. */
  fitHeight() {
    let deepest = 0;
    const [first, last] = this.range();
    for (let node = first; node < last; node++) deepest = Math.max(deepest, this.tree.depth[node]);
    const base = this.root < 0 ? 0 : this.tree.depth[this.root];
    this.canvas.style.height = `${Math.min(deepest - base + 1, MOST_LEVELS) * LEVEL_HEIGHT}px`;
    this.chart.later();
  }

  range() {
    return this.root < 0 ? [0, this.tree.count] : [this.root, this.tree.end[this.root]];
  }

  timeOf(node) {
    return Math.max(this.tree.stored.total_ns[node], 0);
  }

  /** The time before the first call, ns, where it is drawn: with the whole run, not zoomed into. */
  get before() {
    return this.root < 0 && state.shareOf === "run" ? tree.base.before : 0;
  }

  draw(context, width, height) {
    const { tree, before } = this;
    const base = this.root < 0 ? 0 : tree.depth[this.root];
    const whole = before + (this.root < 0 ? tree.total : this.timeOf(this.root));
    this.placed = [];
    if (!whole) return;
    const scale = width / whole;
    if (before) {
      this.placed.push([BEFORE, 0, 0, before * scale]);
      box(context, 0, 0, before * scale, LEVEL_HEIGHT, themed("idle"), "before the first call", this.chosen === BEFORE);
    }
    // `next` holds, for each level, where the next row of it begins.
    const next = [before * scale];
    const [first, last] = this.range();
    for (let node = first; node < last; ) {
      const level = tree.depth[node] - base;
      const x = next[level] ?? 0;
      const wide = this.timeOf(node) * scale;
      next[level] = x + wide;
      next[level + 1] = x;
      if (wide < 0.4 || (level + 1) * LEVEL_HEIGHT > height) {
        node = tree.end[node];
        continue;
      }
      this.placed.push([node, x, level * LEVEL_HEIGHT, wide]);
      const hit = tree.hits.length && tree.isHit.has(node);
      const dimmed = tree.hits.length && !hit;
      context.globalAlpha = dimmed ? 0.35 : 1;
      const folded = tree.stored.instances[node] > 1 ? ` x${tree.stored.instances[node]}` : "";
      box(context, x, level * LEVEL_HEIGHT, wide, LEVEL_HEIGHT, this.color(node), tree.label(node) + folded, node === this.chosen);
      context.globalAlpha = 1;
      node++;
    }
  }

  color(node) {
    const { tree } = this;
    return tree.color(node);
  }

  describe(node) {
    const { tree } = this;
    if (node === BEFORE) return `before the first call: ${this.facts(BEFORE)[0][1]}`;
    return `${tree.name(node)} ${tree.type(node)}: ${duration(tree.stored.total_ns[node])}, ${tree.share("total_ns", node)}% of ${tree.base.text}, ${plural(tree.stored.calls[node], "call")}`;
  }

  /** What is known of a box: of a single call what that was, of many how many and their median. */
  facts(node) {
    const { tree } = this;
    const { calls, instances } = tree.stored;
    if (node === BEFORE) return [["time", `${duration(this.before)}, ${percent(this.before, tree.base.ns)}% of ${tree.base.text}`], ["spent on", "imports, data, building models"]];
    const facts = treeDetail(tree, node, forms).filter(([fact]) => fact !== "forward in");
    if (calls[node] < 2) return facts;
    const of = instances[node] > 1 ? ` of ${instances[node]} modules` : "";
    const spread = facts.find(([fact]) => fact === SPREAD)?.[1];
    const merged = plural(calls[node], "call") + of + (spread ? `: ${spread}` : "");
    return [["merged", merged], ...facts.filter(([fact]) => fact !== SPREAD && fact !== METRICS.get("calls").title)];
  }

  at(event) {
    const [x, y] = this.chart.point(event);
    const found = this.placed.find(([, left, top, wide]) => x >= left && x < left + wide && y >= top && y < top + LEVEL_HEIGHT);
    return found ? found[0] : -1;
  }

  titleOf(node) {
    return node === BEFORE ? "before the first call" : this.tree.name(node);
  }

  moved(event) {
    const node = this.at(event);
    if (node === -1) card.hide();
    else card.beside(event, this.titleOf(node), this.facts(node));
  }

  clicked(event) {
    this.choose(this.at(event));
    this.moved(event);
  }

  /** Choose a box; the one before the first call is no row of the tree. */
  choose(node) {
    if (node === -1) return;
    if (node >= 0) return this.select(node);
    this.chosen = node;
    this.chart.later();
  }

  /** Show what is known of the chosen box beside it, for those who move by keys. */
  showChosen() {
    this.chart.now();
    const drawn = this.placed.find(([node]) => node === this.chosen);
    if (!drawn) return card.hide();
    const { left, top } = this.canvas.getBoundingClientRect();
    return card.show(this.canvas, this.titleOf(drawn[0]), this.facts(drawn[0]), left + drawn[1], top + drawn[2] + LEVEL_HEIGHT);
  }

  zoom(node) {
    this.root = node;
    this.fitHeight();
    keepAddress(true);
    this.said(node < 0 ? `all of ${this.tree.base.text}` : `zoomed to ${this.tree.name(node)}`);
  }

  /** Move between rows by the tree, not by pixels, so that the narrowest can be reached. */
  step(key) {
    const { tree } = this;
    const from = this.chosen;
    if (from < 0) return from === BEFORE && key !== "ArrowRight" ? from : Math.max(this.root, 0);
    if (key === "ArrowLeft" && from === 0 && this.before) return BEFORE;
    if (key === "ArrowUp") return tree.parent[from] >= 0 ? tree.parent[from] : from;
    if (key === "ArrowDown") return tree.leaf(from) ? from : from + 1;
    const siblings = tree.childrenOf(tree.parent[from]);
    const at = siblings.indexOf(from) + (key === "ArrowRight" ? 1 : -1);
    return siblings[Math.min(Math.max(at, 0), siblings.length - 1)];
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^Arrow/.test(event.key)) {
      const node = this.step(event.key);
      const [first, last] = this.range();
      if (node !== BEFORE && (node < first || node >= last)) this.zoom(this.tree.parent[node]);
      this.choose(node);
      this.said(this.describe(node));
      this.showChosen();
    } else if (event.key === "Enter" || event.key === "+") this.zoom(Math.max(this.chosen, -1));
    else if ((event.key === "Escape" || event.key === "-") && this.root >= 0) this.zoom(this.tree.parent[this.root]);
    else if (event.key === "0") this.zoom(-1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
