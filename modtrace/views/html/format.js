// Numbers as people read them: at most three significant digits and a unit, as modtrace writes them everywhere.

const three = (value) => (value >= 99.95 ? value.toFixed(0) : value >= 9.995 ? value.toFixed(1) : value.toFixed(2));

function duration(ns) {
  if (ns === -1) return "?";
  if (ns < 0) return `-${duration(-ns)}`;
  if (ns < 1000) return `${Math.round(ns)} ns`;
  for (const [limit, unit, scale] of [[1e6, "us", 1e3], [1e9, "ms", 1e6], [60e9, "s", 1e9]]) {
    const text = three(ns / scale);
    if (Number(text) * scale < limit) return `${text} ${unit}`;
  }
  const seconds = Math.round(ns / 1e9);
  const two = (value) => String(value).padStart(2, "0");
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m${two(seconds % 60)}s`;
  return `${Math.floor(seconds / 3600)}h${two(Math.floor((seconds % 3600) / 60))}m`;
}

function count(number) {
  if (number === -1) return "?";
  if (number < 100000) return number.toLocaleString("en-US");
  for (const [scale, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (number >= scale) return `${(number / scale).toFixed(1)}${unit}`;
  }
  return String(number);
}

function scaled(number, unit) {
  if (number === -1) return "?";
  let value = number;
  for (const prefix of ["", "k", "M", "G", "T", "P"]) {
    if (value < 999.5) return prefix ? `${three(value)} ${prefix}${unit}` : `${value.toFixed(0)} ${unit}`;
    value /= 1000;
  }
  return `${three(value)} E${unit}`;
}

/** A number; where it is not known the least that it can be, if that says anything. */
function bounded(number, least, unit) {
  return number === -1 && least > 0 ? `>${scaled(least, unit)}` : scaled(number, unit);
}

function size(bytes) {
  if (bytes === -1) return "?";
  let value = bytes;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return unit === "B" ? `${value.toFixed(0)} B` : `${three(value)} ${unit}`;
    value /= 1024;
  }
  return `${three(value)} TiB`;
}

function percent(part, whole) {
  if (whole <= 0 || part === -1) return "?";
  const value = (100 * part) / whole;
  if (value > 0 && value < 0.05) return "<0.1";
  return value.toFixed(1);
}

const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** A cell of CSV, quoted where it must be; a text that a spreadsheet would run as a formula gets a ' in front. */
function csvCell(value) {
  if (typeof value === "number") return value === -1 ? "" : String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}

const csv = (rows) => rows.map((row) => `${row.map(csvCell).join(",")}\n`).join("");
