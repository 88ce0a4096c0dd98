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
  grid.show(order, false);
  const lines = () => [columns.map((column) => column.name), ...Array.from(order, (row) => columns.map((column) => column.csv(row)))];
  return { grid, csv: () => csv(lines()) };
}

function modulesTable(host, stored, texts) {
  const text = (key) => (row) => (stored[key][row] < 0 ? "" : texts[stored[key][row]]);
  const words = (key, title, name = key) => ({ key, title, name, left: true, text: text(key), csv: text(key) });
  const number = (key, title, format, name = key) => ({ key, title, name, text: (row) => format(stored[key][row]), csv: (row) => stored[key][row] });
  const flops = (key, title) => ({ ...number(key, title), text: (row) => bounded(stored[key][row], stored[`${key}_at_least`][row], "") });
  const named = { key: "name", title: "module", name: "name", left: true, csv: text("name"), text: (row) => text("name")(row) || `(${text("type")(row)})` };
  const columns = [
    named, words("type", "class"), number("calls", "calls", count), number("self_ns", "self", duration), number("total_ns", "total", duration),
    number("forward_total_ns", "forward", duration), number("backward_total_ns", "backward", duration),
    number("forward_p50_ns", "median", duration), number("forward_p95_ns", "p95", duration),
    number("device_total_ns", "device", duration), flops("forward_flops", "FLOPs"), flops("backward_flops", "FLOPs back"),
    number("parameter_count", "parameters", count), number("parameter_bytes", "bytes", size), words("outputs", "outputs"),
    words("extra_repr", "settings"), words("source_file", "file"), number("source_line", "line", (value) => (value < 0 ? "" : String(value))),
  ];
  return listTable(host, "Modules", columns.filter((column) => column === named || told(stored[stored[`${column.key}_at_least`] ? `${column.key}_at_least` : column.key])), stored.rows);
}

/** Whether a column says anything. */
const told = (values) => values.some((value) => value >= 0);

function stepsTable(host, stored, choose) {
  const number = (key, title, format) => ({ key, title, name: key, text: (row) => format(stored[key][row]), csv: (row) => stored[key][row] });
  const several = meta.ranks.length > 1;
  const rank = { key: "process", title: "rank", name: "rank", text: (row) => String(meta.ranks[stored.process[row]]), csv: (row) => meta.ranks[stored.process[row]] };
  const parts = meta.stepParts.filter((name) => stored[`${name}_ns`].some((value) => value > 0));
  const columns = [
    ...(several ? [rank] : []), number("step", "step", String), number("duration_ns", "time", duration),
    ...parts.map((name) => number(`${name}_ns`, name, duration)), number("calls", "calls", count),
    ...(told(stored.flops_at_least) ? [{ ...number("flops", "FLOPs"), text: (row) => bounded(stored.flops[row], stored.flops_at_least[row], "") }] : []),
    ...["samples", "device_ns", "device_idle_ns", "memory_peak_bytes"].filter((key) => told(stored[key])).map((key) => {
      return number(key, { samples: "samples", device_ns: "device", device_idle_ns: "idle", memory_peak_bytes: "peak" }[key],
        key.endsWith("_ns") ? duration : key.endsWith("_bytes") ? size : count);
    }),
    number("start_ns", "start", duration),
  ];
  const table = listTable(host, "Steps", columns, stored.rows);
  table.grid.options.open = choose;
  return table;
}

function operatorsTable(host) {
  const rows = meta.operators;
  const words = (at, key, title) => ({ key, title, name: key, left: true, text: (row) => rows[row][at], csv: (row) => rows[row][at] });
  const number = (at, key, title, format) => ({ key, title, name: key, text: (row) => format(rows[row][at]), csv: (row) => rows[row][at] });
  const columns = [
    { ...words(0, "name", "module"), text: (row) => rows[row][0] || "outside of calls" }, words(1, "type", "class"),
    number(2, "forward_ns", "forward", duration), number(3, "backward_ns", "backward", duration),
    number(4, "executions", "executions", count), words(5, "top", "most time in"),
  ];
  return listTable(host, "Operators", columns, rows.length);
}
