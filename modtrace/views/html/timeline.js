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
    canvas.addEventListener("click", (event) => this.go(this.stepUnder(event)));
    canvas.addEventListener("mousemove", (event) => {
      if (!this.rows.length) return;
      const row = this.rows[this.stepUnder(event)];
      card.beside(event, `step ${steps.step[row]}`, this.facts(row));
    });
    canvas.addEventListener("mouseleave", () => card.hide());
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

  /** What is said of a step beside the pointer. */
  facts(row) {
    const { steps } = this;
    const parts = meta.stepParts.map((name) => [name, steps[`${name}_ns`][row]]).filter(([, ns]) => ns > 0);
    const facts = [["time", duration(steps.duration_ns[row])], ...parts.map(([name, ns]) => [name, `${duration(ns)}, ${percent(ns, steps.duration_ns[row])}%`])];
    if (!(steps.flags[row] & 1)) facts.push(["not whole", "it did not come to its end"]);
    if (steps.flags[row] & 2) facts.push(["slower", "operations were counted in it"]);
    return facts;
  }

  stepUnder(event) {
    const [x] = this.chart.point(event);
    return Math.min(Math.max(Math.floor((x / this.chart.width) * this.rows.length), 0), this.rows.length - 1);
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
    const limit = meta.stripLimits[this.process];
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
        const tall = Math.min((Math.max(steps[`${name}_ns`][row], 0) / limit) * (floor - 4), y - 4);
        context.fillStyle = PHASE_COLORS[name];
        context.fillRect(bar * wide, y - tall, Math.max(wide - gap, 1), tall);
        y -= tall;
      }
      if (steps.duration_ns[row] > limit) {
        context.fillStyle = themed("wrong");
        context.fillRect(bar * wide, 0, Math.max(wide - gap, 1), 3);
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

/**
 * Zoom by dragging over a stretch, by ctrl+wheel, and back by a double click; move by shift+wheel.
 * `view` has chart, view, whole ([first, last] ns each), set(low, high), zoom(times, around), pan(share).
 */
function zoomable(canvas, view) {
  let from;
  let dragged = false;
  const timeAt = (x) => view.view[0] + (x / view.chart.width) * (view.view[1] - view.view[0]);
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    from = view.chart.point(event)[0];
    dragged = false;
  });
  window.addEventListener("pointermove", (event) => {
    if (from === undefined) return;
    const to = view.chart.point(event)[0];
    dragged ||= Math.abs(to - from) > 5;
    view.selected = dragged ? [Math.min(from, to), Math.max(from, to)] : null;
    if (dragged) card.hide();
    view.chart.later();
  });
  window.addEventListener("pointerup", () => {
    const selected = view.selected;
    view.selected = null;
    from = undefined;
    if (selected) view.set(...selected.map((x) => timeAt(Math.min(Math.max(x, 0), view.chart.width))));
  });
  canvas.addEventListener("click", (event) => dragged && event.stopImmediatePropagation(), { capture: true });
  canvas.addEventListener("dblclick", () => view.set(...view.whole));
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.shiftKey) return;
    event.preventDefault();
    const amount = event.deltaY || event.deltaX;
    if (event.shiftKey) view.pan(amount > 0 ? 0.1 : -0.1);
    else view.zoom(amount > 0 ? 1.25 : 0.8, view.chart.point(event)[0] / view.chart.width);
  }, { passive: false });
}

/** The stretch that is dragged over. */
function drawSelected(context, selected, height) {
  if (!selected) return;
  context.globalAlpha = 0.25;
  context.fillStyle = themed("accent");
  context.fillRect(selected[0], 0, selected[1] - selected[0], height);
  context.globalAlpha = 1;
}

/** A stretch of time that can be zoomed into and moved along. */
class TimeAxis {
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
    const span = Math.min(Math.max(high - low, Math.min(1000, last - first)), last - first);
    const begin = Math.min(Math.max(low, first), last - span);
    this.view = [begin, begin + span];
    this.chart.later();
  }

  /** What the keys do with the axis; true where one was for it. */
  axisKey(key) {
    const actions = {
      w: () => this.zoom(0.7), "+": () => this.zoom(0.7), s: () => this.zoom(1.4), "-": () => this.zoom(1.4),
      a: () => this.pan(-0.2), d: () => this.pan(0.2), 0: () => this.set(...this.whole), Escape: () => this.set(...this.whole),
    };
    actions[key]?.();
    return key in actions;
  }

  drawAxis(context, width, height) {
    const [low, high] = this.view;
    const scale = width / (high - low);
    for (const at of ticks(low - this.whole[0], high - this.whole[0], width)) {
      const x = Math.round((at + this.whole[0] - low) * scale);
      context.fillStyle = themed("line");
      context.fillRect(x, 0, 1, height);
      context.fillStyle = themed("muted");
      context.fillText(duration(Math.round(at)), x + 3, AXIS_HEIGHT / 2);
    }
  }
}

const MOST_RANK_LANES = 16;

/** The steps of each rank where they are in time: who waits for whom can be seen. */
class RunTime extends TimeAxis {
  constructor(canvas, steps, choose) {
    super();
    this.steps = steps;
    this.canvas = canvas;
    this.chosen = -1;
    this.ranks = meta.ranks.slice(0, MOST_RANK_LANES);
    let first = Infinity;
    let last = 0;
    for (let row = 0; row < steps.rows; row++) {
      first = Math.min(first, steps.start_ns[row]);
      last = Math.max(last, steps.start_ns[row] + Math.max(steps.duration_ns[row], 0));
    }
    this.whole = steps.rows ? [0, Math.max(last, 1)] : [0, 1];
    this.view = steps.rows ? [Math.max(first - 0.03 * (last - first), 0), Math.max(last, 1)] : [0, 1];
    canvas.style.height = `${AXIS_HEIGHT + this.ranks.length * LANE_HEIGHT}px`;
    this.chart = new Chart(canvas, (context, width, height) => this.draw(context, width, height));
    zoomable(canvas, this);
    canvas.addEventListener("click", (event) => {
      const row = this.rowAt(event);
      if (row >= 0) choose(steps.process[row], steps.step[row]);
    });
    canvas.addEventListener("mousemove", (event) => {
      const row = this.selected ? -1 : this.rowAt(event);
      if (row < 0) return card.hide();
      const rank = this.ranks.length > 1 ? `rank ${meta.ranks[steps.process[row]]}, ` : "";
      return card.beside(event, `${rank}step ${steps.step[row]}`, strip.facts(row));
    });
    canvas.addEventListener("mouseleave", () => card.hide());
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !this.axisKey(event.key)) return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  rowAt(event) {
    const [x, y] = this.chart.point(event);
    const [low, high] = this.view;
    const time = low + (x / this.chart.width) * (high - low);
    const lane = Math.floor((y - AXIS_HEIGHT) / LANE_HEIGHT);
    const { process, start_ns, duration_ns } = this.steps;
    return process.findIndex((number, row) => number === lane && start_ns[row] <= time && time < start_ns[row] + duration_ns[row]);
  }

  draw(context, width, height) {
    this.drawAxis(context, width, height);
    const { steps } = this;
    const [low, high] = this.view;
    const scale = width / (high - low);
    for (let row = 0; row < steps.rows; row++) {
      const top = AXIS_HEIGHT + steps.process[row] * LANE_HEIGHT;
      let x = (steps.start_ns[row] - low) * scale;
      const wide = steps.duration_ns[row] * scale;
      if (top >= height || x > width || x + wide < 0) continue;
      if (row === this.chosen) {
        context.fillStyle = themed("ink");
        context.fillRect(x, top + LANE_HEIGHT - 2, Math.max(wide, 2), 2);
      }
      for (const name of meta.stepParts) {
        const part = Math.max(steps[`${name}_ns`][row], 0) * scale;
        context.fillStyle = PHASE_COLORS[name];
        if (part > 0) context.fillRect(x, top + 1, Math.max(part - (name === "other" ? 1 : 0), 0.3), LANE_HEIGHT - 4);
        x += part;
      }
    }
    if (this.ranks.length > 1) {
      this.ranks.forEach((rank, lane) => {
        const text = `rank ${rank}`;
        const top = AXIS_HEIGHT + lane * LANE_HEIGHT;
        context.fillStyle = themed("paper");
        context.fillRect(0, top + 1, context.measureText(text).width + 8, LANE_HEIGHT - 4);
        context.fillStyle = themed("ink");
        context.fillText(text, 4, top + LANE_HEIGHT / 2 - 1);
      });
    }
    drawSelected(context, this.selected, height);
  }
}

/** The calls of one step. */
class Timeline extends TimeAxis {
  constructor(canvas, tree, paths, names, { select, said }) {
    super();
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
    zoomable(canvas, this);
    canvas.addEventListener("click", (event) => {
      const row = this.rowAt(event);
      if (row >= 0) this.pick(row);
      this.moved(event);
    });
    canvas.addEventListener("mousemove", (event) => this.moved(event));
    canvas.addEventListener("blur", () => card.hide());
    canvas.addEventListener("mouseleave", () => card.hide());
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  /** Draw the calls of the step of this number. */
  show(calls, number) {
    this.calls = calls;
    this.number = number;
    this.chosen = -1;
    this.marks = [];
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
    this.drawAxis(context, width, height);
    this.marks = [];
    this.lanes.forEach(({ rows }, lane) => {
      const top = AXIS_HEIGHT + lane * LANE_HEIGHT;
      let at = firstWhere(0, rows.length, (index) => this.end(rows[index]) > low);
      while (at < rows.length && this.calls.start[rows[at]] < high) {
        const row = rows[at];
        const x = (this.calls.start[row] - low) * scale;
        const wide = (this.end(row) - this.calls.start[row]) * scale;
        const node = this.paths.node[this.calls.path[row]];
        if (wide < 1) {
          // All that begins and ends in this pixel is one mark.
          const until = low + (Math.floor(x) + 1) / scale;
          const next = firstWhere(at + 1, rows.length, (index) => this.end(rows[index]) >= until);
          if (next > at + 1) this.marks.push({ lane, x, rows: rows.slice(at, next) });
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
    drawSelected(context, this.selected, height);
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
    return tree.color(node);
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

  /** The calls that are one mark under the pointer, because none of them is a pixel wide; undefined for none. */
  mergedAt(event) {
    const [x, y] = this.chart.point(event);
    const under = Math.floor((y - AXIS_HEIGHT) / LANE_HEIGHT);
    return this.marks.find((mark) => mark.lane === under && Math.abs(x - mark.x - 0.5) < 1)?.rows;
  }

  moved(event) {
    if (!this.calls) return;
    const row = this.selected ? -1 : this.rowAt(event);
    const merged = row < 0 || this.widthOf(row) >= 1 ? undefined : this.mergedAt(event);
    if (row < 0) card.hide();
    else if (merged) card.beside(event, plural(merged.length, "call"), this.factsOfMany(merged));
    else card.beside(event, this.nameOf(row), this.facts(row));
  }

  /** How many pixels wide a call is. */
  widthOf(row) {
    return ((this.end(row) - this.calls.start[row]) * this.chart.width) / (this.view[1] - this.view[0]);
  }

  signature(name, row) {
    const number = this.calls[name][row];
    return number < 0 ? this.tree.text(name, this.paths.node[this.calls.path[row]]) : this.names[number];
  }

  /** What is known of one call. */
  facts(row) {
    const { calls, tree } = this;
    const node = this.paths.node[calls.path[row]];
    const known = (ns) => (ns < 0 ? "" : duration(ns));
    const share = calls.duration[row] < 0 ? "" : `, ${percent(calls.duration[row], this.whole[1] - this.whole[0])}% of the step`;
    const usual = tree.stored.calls[node] > 1 ? `${tree.shown(METRICS.get("p50"), node)}, median of ${plural(tree.stored.calls[node], "call")}` : "";
    return [
      ["class", tree.type(node)], ["phase", tree.phases[node]],
      ["start", `${duration(calls.start[row] - this.whole[0])} into step ${this.number}`],
      ["duration", duration(calls.duration[row]) + share], ["self", known(calls.self[row])], ["its backward", known(calls.backward[row])],
      ["on the device", known(calls.device[row])], ["memory peak", calls.peak[row] < 0 ? "" : size(calls.peak[row])],
      ["inputs", this.signature("inputs", row)], ["outputs", this.signature("outputs", row)],
      ["ended", calls.status[row] > 0 ? meta.statuses[calls.status[row]] : ""], ["error", calls.error[row] < 0 ? "" : this.names[calls.error[row]]],
      ["usual", usual],
    ].filter(([, value]) => value);
  }

  /** What is known of calls too short to be drawn apart. */
  factsOfMany(rows) {
    const times = rows.map((row) => this.calls.duration[row]).filter((ns) => ns >= 0).sort((a, b) => a - b);
    const calls = new Map();
    for (const row of rows) calls.set(this.nameOf(row), (calls.get(this.nameOf(row)) ?? 0) + 1);
    const most = [...calls].sort(([, a], [, b]) => b - a);
    const names = most.slice(0, 4).map(([name, times]) => (times > 1 ? `${name} x${times}` : name));
    return [
      ["start", `${duration(this.calls.start[rows[0]] - this.whole[0])} into step ${this.number}`],
      ["median", times.length ? duration(times[(times.length - 1) >> 1]) : "?"], ["in all", duration(times.reduce((sum, ns) => sum + ns, 0))],
      ["of", names.join(", ") + (most.length > 4 ? ` and ${most.length - 4} more` : "")], ["each", "zoom in to see it"],
    ];
  }

  pick(row) {
    this.chosen = row;
    const node = this.paths.node[this.calls.path[row]];
    this.select(node);
    this.said(this.describe(row));
    this.chart.later();
  }

  /** Show what is known of the chosen call beside its box, for those who move by keys. */
  showChosen() {
    const { chosen, chart, canvas } = this;
    const lane = this.lanes.findIndex(({ rows }) => rows.includes(chosen));
    const x = ((this.calls.start[chosen] - this.view[0]) / (this.view[1] - this.view[0])) * chart.width;
    const { left, top } = canvas.getBoundingClientRect();
    card.show(canvas, this.nameOf(chosen), this.facts(chosen), left + Math.min(Math.max(x, 0), chart.width), top + AXIS_HEIGHT + (lane + 1) * LANE_HEIGHT);
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
    if (/^Arrow/.test(event.key)) {
      this.pick(this.step(event.key));
      this.showChosen();
    } else if (event.key === "Enter" && this.chosen >= 0) this.set(this.calls.start[this.chosen], this.end(this.chosen));
    else if (!this.axisKey(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
  }
}
