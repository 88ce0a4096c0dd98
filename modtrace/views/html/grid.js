// A table of any length: only the rows that can be seen are in the page. With `levels` it is a tree.

const ROW_HEIGHT = 28;

/** An element with attributes and children; texts are texts, never markup. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else if (value !== undefined && value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** A title that only a screen reader says. */
const spoken = (text) => element("span", { class: "spoken" }, text);

class Grid {
  /**
   * columns: {key, title, hint, left, from (narrowest width at which it is shown, unless rows are sorted by it), text(row),
   * fill(cell, row)} each.
   * options: label, select(row, clicked), open(row), sort(key), levels {level(row), expandable(row), expanded(row), toggle(row)}.
   */
  constructor(host, columns, options) {
    this.host = host;
    this.columns = columns;
    this.options = options;
    this.rows = new Int32Array(0);
    this.at = -1;
    this.pool = [];
    this.marked = () => "";
    const cells = columns.map((column) => {
      const cell = element("div", { role: "columnheader", class: this.classOf(column), title: column.hint }, column.title);
      if (options.sort && column.sort) this.sortable(cell, column.sort);
      return cell;
    });
    this.headers = cells;
    this.head = element("div", { role: "row", class: "grid-row grid-head", "aria-rowindex": 1 }, ...cells);
    this.space = element("div", { class: "grid-space", role: "presentation" });
    this.view = element("div", { class: "grid-view", role: "rowgroup" }, this.space);
    host.setAttribute("role", options.levels ? "treegrid" : "grid");
    host.setAttribute("aria-label", options.label);
    host.setAttribute("aria-colcount", columns.length);
    host.classList.add("grid");
    host.tabIndex = 0;
    host.replaceChildren(element("div", { role: "rowgroup" }, this.head), this.view);
    this.view.addEventListener("scroll", () => {
      this.head.parentElement.scrollLeft = this.view.scrollLeft;
      this.later();
    });
    this.view.tabIndex = 0;
    this.space.addEventListener("click", (event) => this.clicked(event));
    this.space.addEventListener("dblclick", () => this.at >= 0 && this.options.open?.(this.rows[this.at]));
    host.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => (this.fit(), this.paint())).observe(this.view);
  }

  /** Let a head be sorted by with a click, and with Enter or space where it has the focus. */
  sortable(cell, key) {
    cell.tabIndex = 0;
    cell.setAttribute("aria-sort", "none");
    cell.addEventListener("click", () => this.options.sort(key));
    cell.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      this.options.sort(key);
      event.preventDefault();
      event.stopPropagation();
    });
  }

  classOf(column) {
    return `cell ${column.left ? "left" : "right"} c-${column.key}`;
  }

  /** Show these rows; the chosen one stays chosen if it is among them. */
  show(rows, keep = true) {
    const chosen = this.at >= 0 ? this.rows[this.at] : -1;
    this.rows = rows;
    this.at = keep ? rows.indexOf(chosen) : -1;
    this.host.setAttribute("aria-rowcount", rows.length + 1);
    this.space.style.height = `${rows.length * ROW_HEIGHT}px`;
    this.view.style.height = `${Math.min(rows.length * ROW_HEIGHT + 2, Math.max(window.innerHeight * 0.62, 220))}px`;
    this.paint();
  }

  sorted(key, descending) {
    this.sortKey = key;
    this.fit();
    this.columns.forEach((column, at) => {
      const mine = column.sort === key;
      if (column.sort) this.headers[at].setAttribute("aria-sort", mine ? (descending ? "descending" : "ascending") : "none");
    });
  }

  later() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.paint();
    });
  }

  /** Hide the columns that have no room. */
  fit() {
    const width = this.host.clientWidth;
    this.hides = this.columns.map((column) => column.from > width && column.sort !== this.sortKey);
    for (const row of [this.head, ...this.pool]) this.hides.forEach((hidden, at) => (row.children[at].hidden = hidden));
  }

  paint() {
    const first = Math.max(Math.floor(this.view.scrollTop / ROW_HEIGHT) - 4, 0);
    const fits = Math.min(Math.ceil((this.view.clientHeight || 400) / ROW_HEIGHT) + 8, 72);
    const last = Math.min(first + fits, this.rows.length);
    while (this.pool.length < last - first) this.pool.push(this.row());
    this.pool.forEach((row, index) => {
      const position = first + index;
      row.hidden = position >= last;
      if (!row.hidden) this.fill(row, position);
    });
    if (this.at >= first && this.at < last) this.host.setAttribute("aria-activedescendant", this.pool[this.at - first].id);
    else this.host.removeAttribute("aria-activedescendant");
  }

  row() {
    const cells = this.columns.map((column, at) => {
      return element("div", { role: at ? "gridcell" : "rowheader", class: this.classOf(column), hidden: this.hides?.[at] ? "" : null });
    });
    const row = element("div", { role: "row", class: "grid-row", id: `${this.host.id}-row-${this.pool.length}` }, ...cells);
    this.space.append(row);
    return row;
  }

  fill(row, position) {
    const number = this.rows[position];
    row.style.top = `${position * ROW_HEIGHT}px`;
    row.dataset.position = position;
    row.setAttribute("aria-rowindex", position + 2);
    row.setAttribute("aria-selected", position === this.at);
    row.className = `grid-row ${position === this.at ? "chosen" : ""} ${this.marked(number)}`;
    const levels = this.options.levels;
    if (levels) {
      row.setAttribute("aria-level", levels.level(number) + 1);
      if (levels.expandable(number)) row.setAttribute("aria-expanded", levels.expanded(number));
      else row.removeAttribute("aria-expanded");
    }
    this.columns.forEach((column, at) => {
      const cell = row.children[at];
      if (column.fill) column.fill(cell, number);
      else cell.textContent = column.text(number);
    });
  }

  clicked(event) {
    const row = event.target.closest("[data-position]");
    if (!row) return;
    const number = this.rows[Number(row.dataset.position)];
    if (event.target.closest(".twist")) this.options.levels?.toggle(number);
    this.choose(this.rows.indexOf(number), false, true);
  }

  /** Choose the row at a position and bring it into view. */
  choose(position, quiet = false, clicked = false) {
    if (!this.rows.length) return;
    this.at = Math.min(Math.max(position, 0), this.rows.length - 1);
    const top = this.at * ROW_HEIGHT;
    const { scrollTop, clientHeight } = this.view;
    if (top < scrollTop) this.view.scrollTop = top;
    else if (top + ROW_HEIGHT > scrollTop + clientHeight) this.view.scrollTop = top + ROW_HEIGHT - clientHeight;
    this.paint();
    if (!quiet) this.options.select?.(this.rows[this.at], clicked);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(Math.floor(this.view.clientHeight / ROW_HEIGHT) - 1, 1);
    const moves = {
      ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: page, PageUp: -page,
      Home: -this.rows.length, g: -this.rows.length, End: this.rows.length, G: this.rows.length,
    };
    if (event.key in moves) this.choose((this.at < 0 && moves[event.key] === 1 ? -1 : this.at) + moves[event.key]);
    else if (event.key === "Enter" && this.at >= 0 && this.options.open) this.options.open(this.rows[this.at]);
    else if (!this.options.key?.(event, this.at >= 0 ? this.rows[this.at] : -1)) return;
    event.preventDefault();
    event.stopPropagation();
  }
}
