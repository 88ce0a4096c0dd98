// The steps of the run as a strip of bars, and the calls of one of them in time.

const LANE_HEIGHT = 18;
const AXIS_HEIGHT = 18;

/** The steps of one process, and which of them have their calls in the page. */
class Strip {
  constructor(canvas, steps, details, { choose, said }) {
    this.steps = steps;
    this.canvas = canvas;
    this.choose = choose;
    this.said = said;
    this.detail = new Map();
    for (let at = 0; at < details.rows; at++) {
      const found = { chunk: details.chunk[at], offset: details.offset[at], rows: details.calls[at], start: details.start_ns[at] };
      this.detail.set(`${details.process[at]}/${details.step[at]}`, found);
    }
    this.process = 0;
    this.at = -1;
    this.chart = new Chart(canvas, (context, width, height) => this.draw(context, width, height));
    canvas.addEventListener("click", (event) => {
      const [x] = this.chart.point(event);
      this.go(Math.floor((x / this.chart.width) * this.rows.length));
    });
    canvas.addEventListener("keydown", (event) => this.key(event));
    this.of(0);
  }

  /** Show the steps of a process. */
  of(process) {
    this.process = process;
    this.rows = [];
    for (let row = 0; row < this.steps.rows; row++) if (this.steps.process[row] === process) this.rows.push(row);
    this.canvas.setAttribute("aria-valuemin", this.rows.length ? this.steps.step[this.rows[0]] : 0);
    this.canvas.setAttribute("aria-valuemax", this.rows.length ? this.steps.step[this.rows[this.rows.length - 1]] : 0);
    this.at = -1;
    this.chart.later();
  }

  detailOf(row) {
    return this.detail.get(`${this.steps.process[row]}/${this.steps.step[row]}`);
  }

  describe(row) {
    const { steps } = this;
    const parts = meta.stepParts.map((name) => [name, steps[`${name}_ns`][row]]).filter(([, ns]) => ns > 0);
    const told = parts.map(([name, ns]) => `${name} ${duration(ns)}`).join(", ");
    const marks = (steps.flags[row] & 1 ? "" : ", not whole") + (steps.flags[row] & 2 ? ", operations were counted in it" : "");
    return `step ${steps.step[row]}: ${duration(steps.duration_ns[row])}${marks}${told && meta.endsBy[this.process] !== "root" ? ` = ${told}` : ""}`;
  }

  go(at) {
    if (!this.rows.length) return;
    this.at = Math.min(Math.max(at, 0), this.rows.length - 1);
    const row = this.rows[this.at];
    this.canvas.setAttribute("aria-valuenow", this.steps.step[row]);
    this.canvas.setAttribute("aria-valuetext", this.describe(row));
    this.chart.later();
    this.choose(row);
  }

  key(event) {
    const moves = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10, Home: -1e9, End: 1e9 };
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    this.go(this.at + moves[event.key]);
    event.preventDefault();
    event.stopPropagation();
  }

  draw(context, width, height) {
    const { steps, rows } = this;
    const bars = Math.min(rows.length, Math.floor(width));
    if (!bars) return;
    const floor = height - 6;
    const wide = width / bars;
    const longest = rows.reduce((most, row) => Math.max(most, steps.duration_ns[row]), 1);
    const gap = wide > 4 ? 1 : 0;
    for (let bar = 0; bar < bars; bar++) {
      // Where several steps share a pixel the longest of them is drawn.
      const first = Math.floor((bar * rows.length) / bars);
      const last = Math.max(Math.floor(((bar + 1) * rows.length) / bars), first + 1);
      let row = rows[first];
      let known = false;
      for (let at = first; at < last; at++) {
        if (steps.duration_ns[rows[at]] > steps.duration_ns[row]) row = rows[at];
        known = known || this.detailOf(rows[at]) !== undefined;
      }
      let y = floor;
      for (const name of meta.stepParts) {
        const tall = (Math.max(steps[`${name}_ns`][row], 0) / longest) * (floor - 4);
        context.fillStyle = PHASE_COLORS[name];
        context.fillRect(bar * wide, y - tall, Math.max(wide - gap, 1), tall);
        y -= tall;
      }
      if (known) {
        context.fillStyle = themed("muted");
        context.fillRect(bar * wide, height - 4, Math.max(wide - gap, 1), 3);
      }
    }
    if (this.at >= 0) {
      context.strokeStyle = themed("ink");
      context.lineWidth = 2;
      context.strokeRect((this.at * width) / rows.length, 1, Math.max(width / rows.length - gap, 3), height - 2);
    }
  }
}

/** The calls of one step. */
class Timeline {
  constructor(canvas, tree, paths, names, { select, said }) {
    this.tree = tree;
    this.paths = paths;
    this.names = names;
    this.select = select;
    this.said = said;
    this.canvas = canvas;
    this.calls = null;
    this.lanes = [];
    this.chosen = -1;
    this.node = -1;
    this.chart = new Chart(canvas, (context, width, height) => this.draw(context, width, height));
    canvas.addEventListener("click", (event) => {
      const row = this.rowAt(event);
      if (row >= 0) this.pick(row);
    });
    canvas.addEventListener("mousemove", (event) => this.moved(event));
    canvas.addEventListener("mousedown", (event) => (this.held = this.chart.point(event)[0]));
    window.addEventListener("mouseup", () => (this.held = undefined));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.shiftKey) return;
      event.preventDefault();
      this.zoom(event.deltaY > 0 ? 1.25 : 0.8, this.chart.point(event)[0] / this.chart.width);
    }, { passive: false });
  }

  show(calls) {
    this.calls = calls;
    this.chosen = -1;
    this.lanes = [];
    const lanes = new Map();
    let end = 0;
    let begin = Infinity;
    for (let row = 0; calls && row < calls.count; row++) {
      const key = calls.thread[row] * 65536 + calls.depth[row];
      if (!lanes.has(key)) lanes.set(key, []);
      lanes.get(key).push(row);
      begin = Math.min(begin, calls.start[row]);
      end = Math.max(end, calls.start[row] + Math.max(calls.duration[row], 0));
    }
    this.lanes = [...lanes.keys()].sort((a, b) => a - b).map((key) => ({ thread: Math.floor(key / 65536), rows: lanes.get(key) }));
    this.whole = calls && calls.count ? [begin, Math.max(end, begin + 1)] : [0, 1];
    this.view = [...this.whole];
    this.canvas.style.height = `${AXIS_HEIGHT + Math.min(Math.max(this.lanes.length, 2), 40) * LANE_HEIGHT}px`;
    this.chart.later();
  }

  nameOf(row) {
    const path = this.calls.path[row];
    return this.names[this.paths.name[path]] || this.tree.type(this.paths.node[path]);
  }

  end(row) {
    return this.calls.start[row] + Math.max(this.calls.duration[row], 0);
  }

  draw(context, width, height) {
    if (!this.calls || !this.calls.count) return;
    const [low, high] = this.view;
    const scale = width / (high - low);
    context.fillStyle = themed("muted");
    for (const at of ticks(low - this.whole[0], high - this.whole[0], width)) {
      const x = (at + this.whole[0] - low) * scale;
      context.fillRect(x, 0, 1, height);
      context.fillText(duration(Math.round(at)), x + 3, AXIS_HEIGHT / 2);
    }
    this.lanes.forEach(({ rows }, lane) => {
      const top = AXIS_HEIGHT + lane * LANE_HEIGHT;
      let at = firstWhere(0, rows.length, (index) => this.end(rows[index]) > low);
      while (at < rows.length && this.calls.start[rows[at]] < high) {
        const row = rows[at];
        const x = (this.calls.start[row] - low) * scale;
        const wide = (this.end(row) - this.calls.start[row]) * scale;
        const node = this.paths.node[this.calls.path[row]];
        if (wide < 1) {
          // All that shares this pixel is one mark.
          const until = low + (Math.floor(x) + 1) / scale;
          const next = firstWhere(at + 1, rows.length, (index) => this.calls.start[rows[index]] >= until);
          box(context, x, top, 1, LANE_HEIGHT, this.color(node), "", false);
          at = next;
          continue;
        }
        const left = Math.max(x, 0);
        context.globalAlpha = this.node >= 0 && node !== this.node && row !== this.chosen ? 0.4 : 1;
        box(context, left, top, Math.min(x + wide, width) - left, LANE_HEIGHT, this.color(node), this.shortName(row), row === this.chosen);
        context.globalAlpha = 1;
        at++;
      }
    });
  }

  /** The name without what the call around it is named. */
  shortName(row) {
    const name = this.nameOf(row);
    const number = name.lastIndexOf(".");
    const before = number > 0 ? name.slice(0, number).lastIndexOf(".") : -1;
    return before > 0 ? name.slice(before + 1) : name;
  }

  color(node) {
    const { tree } = this;
    if (tree.stored.flags[node] & OF_MODULE) return colorOf(tree.type(node));
    return PHASE_COLORS[tree.label(node)] ?? PHASE_COLORS.other;
  }

  describe(row) {
    const node = this.paths.node[this.calls.path[row]];
    const status = this.calls.status[row] > 0 ? `, ${meta.statuses[this.calls.status[row]]}` : "";
    const type = this.tree.type(node);
    return `${this.nameOf(row)}${type && type !== this.nameOf(row) ? ` ${type}` : ""}, ${this.tree.phases[node] || "call"}: ${duration(this.calls.duration[row])} at ${duration(this.calls.start[row] - this.whole[0])}${status}`;
  }

  rowAt(event) {
    const [x, y] = this.chart.point(event);
    const lane = this.lanes[Math.floor((y - AXIS_HEIGHT) / LANE_HEIGHT)];
    if (!lane || y < AXIS_HEIGHT) return -1;
    const [low, high] = this.view;
    const time = low + (x / this.chart.width) * (high - low);
    const at = firstWhere(0, lane.rows.length, (index) => this.calls.start[lane.rows[index]] > time) - 1;
    return at >= 0 && this.end(lane.rows[at]) >= time - (high - low) / this.chart.width ? lane.rows[at] : -1;
  }

  moved(event) {
    if (!this.calls) return;
    if (this.held !== undefined) {
      const [x] = this.chart.point(event);
      this.pan((this.held - x) / this.chart.width);
      this.held = x;
      return;
    }
    const row = this.rowAt(event);
    this.canvas.title = row < 0 ? "" : this.describe(row);
  }

  pick(row) {
    this.chosen = row;
    const node = this.paths.node[this.calls.path[row]];
    this.select(node);
    this.said(this.describe(row));
    this.chart.later();
  }

  zoom(times, around = 0.5) {
    const [low, high] = this.view;
    const middle = low + (high - low) * around;
    const least = Math.min(1000, this.whole[1] - this.whole[0]);
    const span = Math.max((high - low) * times, least);
    this.set(middle - span * around, middle + span * (1 - around));
  }

  pan(share) {
    const [low, high] = this.view;
    this.set(low + (high - low) * share, high + (high - low) * share);
  }

  set(low, high) {
    const [first, last] = this.whole;
    const span = Math.min(high - low, last - first);
    const begin = Math.min(Math.max(low, first), last - span);
    this.view = [begin, begin + span];
    this.chart.later();
  }

  /** The call before or after the chosen one, in, or out of it. */
  step(key) {
    const { calls, chosen } = this;
    if (chosen < 0) return 0;
    if (key === "ArrowDown") return chosen + 1 < calls.count && calls.depth[chosen + 1] > calls.depth[chosen] ? chosen + 1 : chosen;
    const direction = key === "ArrowRight" ? 1 : -1;
    for (let row = chosen + direction; row >= 0 && row < calls.count; row += direction) {
      if (key === "ArrowUp" && calls.depth[row] < calls.depth[chosen]) return row;
      if (key !== "ArrowUp" && calls.depth[row] === calls.depth[chosen]) return row;
    }
    return chosen;
  }

  key(event) {
    if (!this.calls || !this.calls.count || event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      w: () => this.zoom(0.7), "+": () => this.zoom(0.7), s: () => this.zoom(1.4), "-": () => this.zoom(1.4),
      a: () => this.pan(-0.2), d: () => this.pan(0.2), 0: () => this.set(...this.whole), Escape: () => this.set(...this.whole),
      Enter: () => this.chosen >= 0 && this.set(this.calls.start[this.chosen], this.end(this.chosen)),
    };
    if (/^Arrow/.test(event.key)) this.pick(this.step(event.key));
    else if (event.key in actions) actions[event.key]();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
