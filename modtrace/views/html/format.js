// Numbers as people read them: at most three significant digits and a unit, as modtrace/units.py writes them. They are
// rounded half up on their exact decimal value, so all is whole numbers without end. -1 is not known.

const TIMES = [["us", 1000n, 1000], ["ms", 1000000n, 1000], ["s", 1000000000n, 60]];
const SIZES = [["KiB", 1n << 10n], ["MiB", 1n << 20n], ["GiB", 1n << 30n], ["TiB", 1n << 40n]];
const COUNTS = [["k", 1000n], ["M", 1000000n], ["B", 1000000000n], ["T", 1000000000000n]];
const PREFIXES = ["", "k", "M", "G", "T", "P", "E"];

const integer = (number) => (typeof number === "bigint" ? number : BigInt(Math.round(number)));

/** `number / scale` with so many digits behind the point, halves away from zero; of two BigInts. */
function rounded(number, scale, digits) {
  if (number < 0n) return `-${rounded(-number, scale, digits)}`;
  const power = 10n ** BigInt(digits);
  const units = (2n * number * power + scale) / (2n * scale);
  return digits ? `${units / power}.${String(units % power).padStart(digits, "0")}` : String(units);
}

/** `number / scale`, not below zero, with three significant digits. */
function three(number, scale) {
  if (1000n * number >= 99950n * scale) return rounded(number, scale, 0);
  return rounded(number, scale, 1000n * number >= 9995n * scale ? 1 : 2);
}

/** The number in the first unit in which it is below the unit's limit, else in the last. */
function inUnits(units, text) {
  for (const [unit, scale, limit] of units) {
    const shown = text(scale);
    if (Number(shown) < limit || unit === units[units.length - 1][0]) return [shown, unit, Number(shown) < limit];
  }
  return null;
}

function duration(ns) {
  if (ns === -1) return "?";
  if (ns < 0) return `-${duration(-ns)}`;
  const number = integer(ns);
  if (number < 1000n) return `${number} ns`;
  const [text, unit, fits] = inUnits(TIMES, (scale) => three(number, scale));
  if (fits) return `${text} ${unit}`;
  const seconds = Number(rounded(number, 1000000000n, 0));
  const two = (value) => String(value).padStart(2, "0");
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m${two(seconds % 60)}s`;
  return `${Math.floor(seconds / 3600)}h${two(Math.floor((seconds % 3600) / 60))}m`;
}

function count(number) {
  if (number === -1) return "?";
  if (number < 100000) return String(number).replace(/\B(?=(\d{3})+$)/g, ",");
  const [text, unit] = inUnits(COUNTS.map((unit) => [...unit, 1000]), (scale) => rounded(integer(number), scale, 1));
  return `${text}${unit}`;
}

function scaled(value, unit) {
  if (value === -1) return "?";
  const number = integer(value);
  if (number < 1000n) return `${number} ${unit}`;
  let power = 1;
  while (power < PREFIXES.length - 1 && 2n * number >= 1999n * 1000n ** BigInt(power)) power++;
  return `${three(number, 1000n ** BigInt(power))} ${PREFIXES[power]}${unit}`;
}

/** A number; where it is not known the least that it can be, if that says anything. */
function bounded(number, least, unit) {
  return number === -1 && least > 0 ? `>${scaled(least, unit)}` : scaled(number, unit);
}

function size(bytes) {
  if (bytes === -1) return "?";
  const number = integer(bytes);
  if (number < 1024n) return `${number} B`;
  const [text, unit] = inUnits(SIZES.map((unit) => [...unit, 1024]), (scale) => three(number, scale));
  return `${text} ${unit}`;
}

/** An element of a tensor: `0.125`, `65504`, `6.1e5`, `nan`; null is not known. */
function tensorValue(number) {
  if (number === null) return "?";
  if (!Number.isFinite(number)) return Number.isNaN(number) ? "nan" : number < 0 ? "-inf" : "inf";
  if (number === 0) return "0";
  if (number < 0) return `-${tensorValue(-number)}`;
  const [digits, power] = number.toExponential(2).split("e");
  const short = (decimal) => decimal.replace(/\.?0+$/, "");
  if (-3 <= power && power <= 1) return short(number.toFixed(2 - power));
  const whole = 2 <= power && power <= 5 ? number.toFixed(0) : "";
  return whole && whole.length <= 5 ? whole : `${short(digits)}e${Number(power)}`;
}

/** Whether a number in a unit is known: values of tensors have any sign and are null where not, all others -1. */
const isKnown = (number, unit) => (unit === "value" ? number !== null : number >= 0);

function percent(part, of) {
  if (of <= 0 || part === -1) return "?";
  const [number, total] = [integer(part), integer(of)];
  return 0n < number && 2000n * number < total ? "<0.1" : rounded(100n * number, total, 1);
}

/** A number in its unit: ns, bytes, FLOP, value, or "" for a count. `least` is a lower bound of it, used where it is not known. */
function inUnit(number, unit, least = -1) {
  if (unit === "ns") return duration(number);
  if (unit === "bytes") return size(number);
  if (unit === "value") return tensorValue(number);
  return unit === "FLOP" ? bounded(number, least, unit) : count(number);
}

const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** What is in a tensor for a cell of CSV, with all its digits: `-1` is a number there, and no formula. */
const tensorCell = (number) => ({ cell: number === null ? "" : String(number).replace("NaN", "nan").replace("Infinity", "inf") });

/** A cell of CSV, quoted where it must be; a text that a spreadsheet would run as a formula gets a ' in front. */
function csvCell(value) {
  if (typeof value === "object") return value.cell;
  if (typeof value === "number") return value === -1 ? "" : String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}

const csv = (rows) => rows.map((row) => `${row.map(csvCell).join(",")}\n`).join("");
