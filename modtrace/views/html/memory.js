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
    this.go(facts.peak_ns, true);
  }

  get span() {
    const { at_ns, rows } = this.curve;
    return [at_ns[0], Math.max(at_ns[rows - 1], at_ns[0] + 1)];
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
    context.beginPath();
    context.moveTo(0, floor);
    let level = 0;
    for (let at = 0; at < rows; at++) {
      context.lineTo(x(at_ns[at]), y(level));
      level = held_bytes[at];
      context.lineTo(x(at_ns[at]), y(level));
    }
    context.lineTo(width, y(level));
    context.lineTo(width, floor);
    context.closePath();
    context.fillStyle = "#56B4E955";
    context.strokeStyle = themed("accent");
    context.fill();
    context.stroke();
    context.fillStyle = themed("muted");
    for (const at of ticks(low, high, width)) {
      context.fillRect(x(at), floor, 1, 4);
      context.fillText(duration(at), Math.min(x(at) + 3, width - 50), floor + AXIS_HEIGHT / 2);
    }
    context.fillText(`peak ${size(this.facts.peak_bytes)}`, Math.min(x(this.facts.peak_ns) + 4, width - 100), 7);
    context.fillStyle = themed("ink");
    context.fillRect(x(this.moments[this.at].at), 0, 1.5, floor);
  }
}
