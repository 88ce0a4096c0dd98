// The memory that was held over time, and who held it at the moment under the cursor.

class MemoryCurve {
  constructor(canvas, table, facts, curve, holders, texts, { said }) {
    Object.assign(this, { canvas, table, facts, curve, holders, texts, said });
    this.moments = [];
    for (let row = 0; row < holders.rows; row++) {
      const last = this.moments[this.moments.length - 1];
      if (!last || last.at !== holders.at_ns[row]) this.moments.push({ at: holders.at_ns[row], rows: [row] });
      else last.rows.push(row);
    }
    this.step = null;
    this.chart = new Chart(canvas, (context, width, height) => this.draw(context, width, height));
    canvas.addEventListener("click", (event) => this.go(this.timeAt(this.chart.point(event)[0])));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("mousemove", (event) => this.moved(event));
    canvas.addEventListener("mouseleave", () => card.hide());
    this.go(facts.peak_ns, true);
  }

  /** From the first call, or when watching began, to the end: what was before would take most of the axis. */
  get span() {
    const { at_ns, rows } = this.curve;
    const last = Math.max(at_ns[rows - 1], at_ns[0] + 1);
    const first = Math.min(Math.max(this.facts.from_ns, at_ns[0]), this.facts.peak_ns);
    return [Math.max(first - 0.01 * (last - first), at_ns[0]), last];
  }

  /** The categories that are held at some time, the lowest of the stack first. */
  get categories() {
    return meta.categories.map((name, code) => [name, this.curve[`held_${code}`], meta.categoryColors[code]]).filter(([, held]) => held);
  }

  legend() {
    return element("ul", { class: "legend" }, ...this.categories.map(([name, , color]) => {
      const mark = element("span", { class: "mark", "aria-hidden": "true" });
      mark.style.background = color;
      return element("li", {}, mark, name);
    }));
  }

  moved(event) {
    const time = this.timeAt(this.chart.point(event)[0]);
    const at = firstWhere(0, this.curve.rows, (index) => this.curve.at_ns[index] > time) - 1;
    if (at < 0) return card.hide();
    const facts = this.categories.filter(([, held]) => held[at] > 0).map(([name, held]) => [name, size(held[at])]).reverse();
    return card.beside(event, `${size(this.curve.held_bytes[at])} at ${duration(Math.round(time))}`, facts);
  }

  /** When each step of this process began. */
  drawSteps(context, x, floor, width) {
    const { step, start_ns, process, rows } = strip.steps;
    let last = -Infinity;
    for (let row = 0; row < rows; row++) {
      const left = x(start_ns[row]);
      if (process[row] !== this.facts.process || left < 0 || left > width) continue;
      context.globalAlpha = 0.4;
      context.fillStyle = themed("ink");
      if (left - last >= 3) context.fillRect(left, 0, 1, floor);
      context.globalAlpha = 1;
      if (left - last < 52 || left > width - 44) continue;
      const text = `step ${step[row]}`;
      context.fillStyle = themed("paper");
      context.fillRect(left + 1, floor - 15, context.measureText(text).width + 6, 14);
      context.fillStyle = themed("ink");
      context.fillText(text, left + 4, floor - 8);
      last = left;
    }
  }

  timeAt(x) {
    const [low, high] = this.span;
    return low + (x / this.chart.width) * (high - low);
  }

  /** Who held memory at the nearest moment of which that is known. */
  go(time, quiet = false) {
    this.at = this.moments.reduce((best, one, index) => Math.abs(one.at - time) < Math.abs(this.moments[best].at - time) ? index : best, 0);
    const moment = this.moments[this.at];
    const held = this.heldAt(moment.at);
    const peak = moment.at === this.facts.peak_ns ? ", the peak" : "";
    const rows = moment.rows.filter((row) => this.holders.category[row] >= 0).map((row) => {
      const { category, name, type, backward, held_bytes } = this.holders;
      const who = this.texts[name[row]] || "outside of calls";
      const kind = this.texts[type[row]];
      const what = meta.categories[category[row]] + (backward[row] === 1 ? ", allocated in its backward" : "");
      return element("tr", {},
        element("th", { scope: "row" }, who, kind && kind !== who ? element("span", { class: "type" }, kind) : ""),
        element("td", {}, size(held_bytes[row])), element("td", {}, percent(held_bytes[row], held)), element("td", { class: "words" }, what));
    });
    const told = `Held at ${duration(moment.at)}${peak}: ${size(held)}. The largest holders:`;
    this.table.replaceChildren(element("caption", {}, told),
      element("thead", {}, element("tr", {}, ...["module", "bytes", "%", "for"].map((text, at) => element("th", { scope: "col", class: at === 3 ? "words" : undefined }, text)))),
      element("tbody", {}, ...rows));
    this.canvas.setAttribute("aria-valuenow", Math.round(moment.at / 1e6));
    this.canvas.setAttribute("aria-valuetext", told);
    if (!quiet) this.said(told);
    this.chart.later();
  }

  heldAt(time) {
    const { at_ns, held_bytes, rows } = this.curve;
    if (time === this.facts.peak_ns) return this.facts.peak_bytes;
    const at = firstWhere(0, rows, (index) => at_ns[index] > time) - 1;
    return at < 0 ? 0 : held_bytes[at];
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10 };
    if (event.key in moves) this.go(this.moments[Math.min(Math.max(this.at + moves[event.key], 0), this.moments.length - 1)].at);
    else if (event.key === "Home" || event.key === "0") this.go(this.facts.peak_ns);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  draw(context, width, height) {
    const { at_ns, held_bytes, rows } = this.curve;
    const [low, high] = this.span;
    const floor = height - AXIS_HEIGHT;
    const x = (time) => ((time - low) / (high - low)) * width;
    const y = (bytes) => floor - (bytes / Math.max(this.facts.peak_bytes, 1)) * (floor - 14);
    if (this.step) {
      context.fillStyle = themed("shade");
      context.fillRect(x(this.step[0]), 0, Math.max(x(this.step[1]) - x(this.step[0]), 2), floor);
    }
    const base = new Float64Array(rows);
    for (const [, held, color] of this.categories) {
      const top = Float64Array.from(held, (bytes, at) => base[at] + bytes);
      context.beginPath();
      for (const [levels, order] of [[top, 1], [base, -1]]) {
        for (let index = 0; index < rows; index++) {
          const at = order > 0 ? index : rows - 1 - index;
          const [left, right] = [x(at_ns[at]), at + 1 < rows ? x(at_ns[at + 1]) : width];
          context.lineTo(order > 0 ? left : right, y(levels[at]));
          context.lineTo(order > 0 ? right : left, y(levels[at]));
        }
      }
      context.closePath();
      context.fillStyle = color;
      context.fill();
      base.set(top);
    }
    this.drawSteps(context, x, floor, width);
    context.fillStyle = themed("muted");
    for (const at of ticks(low, high, width)) {
      context.fillRect(x(at), floor, 1, 4);
      context.fillText(duration(at), Math.min(x(at) + 3, width - 50), floor + AXIS_HEIGHT / 2);
    }
    context.fillStyle = themed("ink");
    context.fillText(`peak ${size(this.facts.peak_bytes)}`, Math.min(x(this.facts.peak_ns) + 4, width - 100), 7);
    context.fillStyle = themed("ink");
    context.fillRect(x(this.moments[this.at].at), 0, 1.5, floor);
  }
}
