// What a person types to find rows and to keep some of them: the language of modtrace/filter_language.py, with the words
// that it has in `meta.grammar`. tests/views/filter_cases.json holds what both must do.

const TERM = /(-?)(?:\/((?:[^/\\]|\\.)*)\/(?![^ \t\r\n])|"([^"]*)"?|([A-Za-z_][A-Za-z0-9_]*):(?!:)(?:"([^"]*)"?|([^ \t\r\n]*))|([A-Za-z_][A-Za-z0-9_]*)[ \t\r\n]*(>=|=>|==|!=|<=|=<|<>|>|<|=)[ \t\r\n]*([^ \t\r\n]*)|([^ \t\r\n]+))/y;
const COMPARE = {
  ">": (value, amount) => value > amount, ">=": (value, amount) => value >= amount, "<": (value, amount) => value < amount,
  "<=": (value, amount) => value <= amount, "=": (value, amount) => value === amount || (Number.isNaN(value) && Number.isNaN(amount)),
};

const hasCapital = (text) => /\p{Uppercase}/u.test(text);
const short = (text) => (text.length > 40 ? `${text.slice(0, 37)}...` : text);
const fold = (text) => text.toLowerCase();

/** An expression as the terminal reads it: no look around and no back references, case as in words. */
function expression(text) {
  const wrong = (why) => new Error(`/${short(text)}/ is no expression: ${why}`);
  if (/\(\?(?:<?[=!])/.test(text.replace(/\\./g, ""))) throw wrong("it looks around");
  if (/\\[1-9]/.test(text.replace(/\\\\/g, ""))) throw wrong("it refers back");
  // Any punctuation can be escaped there; here only what means something.
  const escaped = text.replace(/\\([^A-Za-z0-9_^$\\.*+?()[\]{}|/-])/g, "$1").replace(/\\-/g, "\\x2d");
  try {
    return new RegExp(escaped, hasCapital(text) ? "u" : "iu");
  } catch (error) {
    throw wrong(error.message);
  }
}

/** Whether a text has a word in it; capital letters count only where the word has some. */
function wordIn(word) {
  if (hasCapital(word)) return (text) => text.includes(word);
  const lower = fold(word);
  return (text) => fold(text).includes(lower);
}

/** Whether a text as a whole fits a pattern, in which * is any characters and ? is one. */
function glob(pattern) {
  const parts = { "*": ".*", "?": "." };
  const body = Array.from(pattern, (char) => parts[char] ?? char.replace(/[\\^$.*+?()[\]{}|/]/, "\\$&")).join("");
  const fits = new RegExp(`^${body}$`, hasCapital(pattern) ? "su" : "isu");
  return (text) => fits.test(text);
}

/** How many letters must be put in, taken out, changed or exchanged with their neighbour. */
function distance(first, second) {
  let before = [];
  let row = Array.from({ length: second.length + 1 }, (_, index) => index);
  for (let index = 0; index < first.length; index++) {
    const [above, last] = [row, before];
    row = [index + 1];
    before = above;
    for (let place = 0; place < second.length; place++) {
      let cost = Math.min(above[place] + (first[index] !== second[place]), above[place + 1] + 1, row[place] + 1);
      if (index && place && first[index] === second[place - 1] && second[place] === first[index - 1]) cost = Math.min(cost, last[place - 1] + 1);
      row.push(cost);
    }
  }
  return row[second.length];
}

/** The option that a mistyped word most likely stands for, or undefined; as filter_language.py has it. */
function nearest(text, options) {
  const word = text.toLowerCase();
  const begun = options.find((option) => word && (option.startsWith(word) || (option.length > 2 && word.startsWith(option))));
  if (begun) return begun;
  const distances = options.map((option) => distance(word, option));
  const least = Math.min(...distances, 9);
  return least < word.length && least <= 1 + (word.length > 3) ? options[distances.indexOf(least)] : undefined;
}

function keyed(key, value, quoted) {
  const { metrics, examples, texts: ofText, members, phases, phaseWords } = meta.grammar;
  const text = quoted ?? value ?? "";
  if (Object.hasOwn(metrics, key)) throw new Error(`${key} is a number: did you mean ${key}>${examples[metrics[key]]}?`);
  const keys = [...ofText, ...members];
  if (!keys.includes(key)) {
    const near = nearest(key, keys);
    const known = `there are ${keys.map((name) => `${name}:`).join(", ")}, and texts in quotes`;
    throw new Error(`${key}: is not known: ${near ? `did you mean ${near}:${short(text)}?` : known}`);
  }
  const takes = { type: "a class, such as type:Linear", path: "a name, such as path:h.*.mlp", phase: phases.join(", ") };
  if (!text && quoted === undefined) throw new Error(`${key}: takes ${takes[key] ?? "a number"}`);
  if (ofText.includes(key)) {
    const fits = glob(text);
    return (row) => fits(row[key]);
  }
  if (key === "phase") {
    const name = Object.hasOwn(phaseWords, text) ? phaseWords[text] : text;
    if (!phases.includes(name)) {
      const near = nearest(text, [...phases, ...Object.keys(phaseWords)]);
      throw new Error(`phase: takes ${phases.join(", ")}, not '${short(text)}'${near ? `: did you mean phase:${near}?` : ""}`);
    }
    return (row) => row.has("phase", phases.indexOf(name));
  }
  if (!/^[0-9]{1,15}$/.test(text)) throw new Error(`${key}: takes a number, not '${short(text)}'`);
  return (row) => row.has(key, Number(text));
}

/** A number as tensors have them. */
function elementOf(metric, text) {
  const { examples, value: ofValue } = meta.grammar;
  const lower = text.toLowerCase();
  const named = { inf: Infinity, "+inf": Infinity, "-inf": -Infinity, nan: NaN };
  if (Object.hasOwn(named, lower)) return named[lower];
  if (/^[-+]?[0-9]{1,15}(?:\.[0-9]{0,15})?(?:e[-+]?[0-9]{1,3})?$/.test(lower)) return Number(lower);
  throw new Error(`${metric} is compared with something like ${examples[ofValue]}, not '${short(text)}'`);
}

/** The number that a metric is compared with, in the metric's own unit. */
function amountOf(metric, sign, text, unit) {
  if (unit === meta.grammar.value) return elementOf(metric, text);
  const parsed = /^([0-9]{1,15})(?:\.([0-9]{1,9}))?([A-Za-z]{0,5})$/.exec(text);
  const units = meta.grammar.units[unit];
  const like = `${metric} is compared with something like ${meta.grammar.examples[unit]}, not '${short(text)}'`;
  if (!parsed) throw new Error(like);
  const [, digits, decimals = "", letters] = parsed;
  const number = digits + (decimals && `.${decimals}`);
  const asked = letters.toLowerCase();
  const every = BigInt(digits + decimals);
  if (!asked && !Object.hasOwn(units, "") && every) {
    throw new Error(`${metric}${sign}${number} has no unit: did you mean ${metric}${sign}${number}${unit === "ns" ? "ms" : "MB"}?`);
  }
  if (asked && !Object.hasOwn(units, asked)) {
    const near = nearest(asked, Object.keys(units).filter(Boolean));
    throw new Error(near ? `${like}: did you mean ${metric}${sign}${number}${near}?` : like);
  }
  return Number(every * BigInt(units[asked] ?? 1)) / 10 ** decimals.length;
}

function compared(metric, sign, text, not) {
  const { metrics, texts: ofText, members, meant, value: ofValue } = meta.grammar;
  if ([...ofText, ...members].includes(metric)) throw new Error(`${metric} takes a colon: did you mean ${metric}:${short(text) || "..."}?`);
  if (!Object.hasOwn(metrics, metric)) {
    const near = nearest(metric, meant.map(([word]) => word));
    const known = `there are ${Object.keys(metrics).join(", ")}`;
    const asked = near ? `did you mean ${meant.find(([word]) => word === near)[1]}${sign}${short(text)}?` : known;
    throw new Error(`${short(metric)} is no number that is known: ${asked}`);
  }
  if (!Object.hasOwn(COMPARE, sign)) throw new Error(`${sign} is no comparison: there are ${Object.keys(COMPARE).join(", ")}, and - in front for not`);
  const amount = amountOf(metric, sign, text, metrics[metric]);
  // A row of which the number is not known passes no comparison, turned round or not.
  const known = (number) => (metrics[metric] === ofValue ? number !== null : number >= 0);
  return (row) => known(row.number(metric)) && COMPARE[sign](row.number(metric), amount) !== not;
}

function condition([, minus, pattern, quoted, key, inQuotes, value, metric, sign, amount, word]) {
  const not = minus === "-";
  if (metric !== undefined) return compared(metric, sign, amount, not);
  let test;
  if (key !== undefined) test = keyed(key, value, inQuotes);
  else if (pattern !== undefined) {
    const regex = expression(pattern);
    test = (row) => regex.test(row.path) || regex.test(row.type);
  } else {
    if (word !== undefined && /^(?:>=|<=|>|<|=)(?:[0-9]|$)/.test(word)) {
      throw new Error(`${short(word)} has no number in front of it; there are ${Object.keys(meta.grammar.metrics).join(", ")}`);
    }
    const has = wordIn(quoted ?? word);
    test = (row) => has(row.path) || has(row.type);
  }
  return not ? (row) => !test(row) : test;
}

/**
 * What a filter such as `type:Linear self>5ms -lm_head` keeps: a function of a row with `path`, `type`, `number(metric)`
 * (where not known null of what is in tensors, else -1) and `has("phase" | "step" | "rank", number)`. Throws where a word cannot be read.
 */
function filterOf(text) {
  const { maxLength } = meta.grammar;
  if (text.length > maxLength) throw new Error(`a filter has at most ${maxLength} characters`);
  const tests = [];
  for (let place = 0; place < text.length; ) {
    TERM.lastIndex = place;
    const match = " \t\r\n".includes(text[place]) ? null : TERM.exec(text);
    place = match ? TERM.lastIndex : place + 1;
    if (match && match[0] !== "-") tests.push(condition(match));
  }
  return (row) => tests.every((test) => test(row));
}

/** What a search finds: rows with every word in path or type, or with an expression between slashes. */
function searchOf(text) {
  if (text.length > 1 && text.startsWith("/") && text.endsWith("/")) {
    const regex = expression(text.slice(1, -1));
    return (row) => regex.test(row.path) || regex.test(row.type);
  }
  const words = text.split(/[ \t\r\n]+/).filter(Boolean).map(wordIn);
  return (row) => words.length > 0 && words.every((has) => has(row.path) || has(row.type));
}
