// Tables of modules, steps and operators, each of which can be copied as CSV.

/** A table by what its columns are: {key, title, left, text(row), csv(row)}; every column can be sorted by. */
function listTable(host, label, columns, rows) {
  const order = Int32Array.from({ length: rows }, (_, row) => row);
  let key = null;
  let descending = true;
  const grid = new Grid(host, columns.map((column) => ({ ...column, sort: column.key })), {
    label,
    sort: (chosen) => {
      descending = chosen === key ? !descending : true;
      key = chosen;
      const column = columns.find((one) => one.key === key);
      const sign = descending ? -1 : 1;
      const compare = (a, b) => (typeof a === "string" ? -sign * a.localeCompare(b) : sign * (a - b));
      order.sort((a, b) => compare(column.csv(a), column.csv(b)) || a - b);
      grid.sorted(key, descending);
      grid.show(order, true);
    },
  });
  grid.sorted(null, true);
  grid.show(order, false);
  const lines = () => [columns.map((column) => column.name), ...Array.from(order, (row) => columns.map((column) => column.csv(row)))];
  return { grid, csv: () => csv(lines()) };
}

function modulesTable(host, stored, texts, select) {
  const text = (key) => (row) => (stored[key][row] < 0 ? "" : texts[stored[key][row]]);
  const words = (key, title, name = key) => ({ key, title, name, left: true, text: text(key), csv: text(key) });
  const number = (key, title, format) => ({ key, title, name: key, text: (row) => format(stored[key][row]), csv: (row) => stored[key][row] });
  const roots = new Set(stored.root.filter((root) => root >= 0));
  // Two models have modules of the same names: with several roots a name begins with that of its root.
  const fullName = (row) => {
    const [root, name] = [text("root")(row), text("name")(row)];
    if (!name) return root || `(${text("type")(row)})`;
    return root && roots.size > 1 ? `${root}.${name}` : name;
  };
  const named = { key: "name", title: "module", name: "name", left: true, csv: text("name"), text: fullName };
  const columns = [
    named, words("type", "class"), ...meta.moduleColumns.map((column) => numberColumn(stored, column)), words("outputs", "outputs"),
    words("extra_repr", "settings"), words("source_file", "file"), number("source_line", "line", (value) => (value < 0 ? "" : String(value))),
  ];
  const shown = columns.filter((column) => column === named || told(stored[stored[`${column.key}_at_least`] ? `${column.key}_at_least` : column.key]));
  const table = listTable(host, "Modules", shown, stored.rows);
  table.grid.options.select = (row) => stored.node[row] >= 0 && select(stored.node[row]);
  return table;
}

/** A column of numbers {key, title, unit, bound} of a table. */
function numberColumn(stored, { key, title, unit, bound, doc }) {
  const text = (row) => (unit === "FLOP" ? bounded(stored[key][row], bound ? stored[bound][row] : -1, "") : inUnit(stored[key][row], unit));
  return { key, title, hint: doc, name: key, text, csv: (row) => stored[key][row] };
}

/** Whether a column says anything. */
const told = (values) => values.some((value) => value >= 0);

function stepsTable(host, stored, choose) {
  const several = meta.ranks.length > 1;
  const rank = { key: "process", title: "rank", name: "rank", text: (row) => String(meta.ranks[stored.process[row]]), csv: (row) => meta.ranks[stored.process[row]] };
  const step = { key: "step", title: "step", name: "step", text: (row) => String(stored.step[row]), csv: (row) => stored.step[row] };
  const parts = new Set(meta.stepParts.map((name) => `${name}_ns`));
  const says = ({ key, bound }) => (parts.has(key) ? stored[key].some((value) => value > 0) : told(stored[bound || key]));
  const columns = [...(several ? [rank] : []), step, ...meta.stepColumns.filter(says).map((column) => numberColumn(stored, column))];
  const table = listTable(host, "Steps", columns, stored.rows);
  table.grid.options.open = choose;
  return table;
}

function operatorsTable(host, select) {
  const rows = meta.operators;
  const words = (at, key, title) => ({ key, title, name: key, left: true, text: (row) => rows[row][at], csv: (row) => rows[row][at] });
  const number = ({ key, title, unit }, index) => ({
    key, title, name: key, text: (row) => inUnit(rows[row][2 + index], unit), csv: (row) => rows[row][2 + index],
  });
  const columns = [
    { ...words(0, "name", "module"), text: (row) => rows[row][0] || "outside of calls" }, words(1, "type", "class"),
    ...meta.operatorColumns.map(number), words(2 + meta.operatorColumns.length, "top", "most time in"),
  ];
  const table = listTable(host, "Operators", columns, rows.length);
  const nodes = new Map();
  for (let node = tree.count - 1; node >= 0; node--) nodes.set(tree.name(node), node);
  table.grid.options.select = (row) => nodes.has(rows[row][0]) && select(nodes.get(rows[row][0]));
  return table;
}
