// What a person types to find rows and to keep some of them.

const UNITS = { ns: 1, us: 1e3, ms: 1e6, s: 1e9, b: 1, kb: 1e3, mb: 1e6, gb: 1e9, kib: 1024, mib: 1024 ** 2, gib: 1024 ** 3 };
const PHASE_WORDS = { fwd: "forward", bwd: "backward", optim: "optimizer", zero: "zero_grad" };

/** Whether a text has a word in it; capital letters count only where the word has some. */
function matcher(word) {
  const pattern = /^\/(.+)\/$/.exec(word);
  if (pattern) {
    const regex = new RegExp(pattern[1], pattern[1] === pattern[1].toLowerCase() ? "i" : "");
    return (text) => regex.test(text);
  }
  if (word !== word.toLowerCase()) return (text) => text.includes(word);
  return (text) => text.toLowerCase().includes(word);
}

/** Whether a path fits a pattern in which * stands for one part of it, or for some letters. */
function pathMatcher(pattern) {
  const escaped = pattern.replace(/[.+?^${}()|[\]\\]/g, "\\$&").replace(/\*/g, "[^.]*");
  const regex = new RegExp(`(^|\\.)${escaped}(\\.|$)`);
  return (text) => regex.test(text);
}

function comparison(key, sign, text) {
  const parsed = /^([\d.]+)\s*([a-z%]*)$/i.exec(text);
  const unit = parsed ? parsed[2].toLowerCase() : "";
  if (!parsed || (unit && !(unit in UNITS))) throw new Error(`${text} is no number`);
  const limit = Number(parsed[1]) * (UNITS[unit] ?? 1);
  return (row) => {
    const value = row[key];
    return value >= 0 && (sign === ">" ? value > limit : value < limit);
  };
}

function condition(word) {
  const keyed = /^(self|total|mem|calls|device|flops)([<>])(.+)$/.exec(word);
  if (keyed) return comparison(keyed[1], keyed[2], keyed[3]);
  const named = /^(type|path|phase):(.+)$/.exec(word);
  if (named && named[1] === "type") return (row) => row.type === named[2] || matcher(named[2])(row.type);
  if (named && named[1] === "path") {
    const fits = pathMatcher(named[2]);
    return (row) => fits(row.path);
  }
  if (named) return (row) => row.phase === (PHASE_WORDS[named[2]] ?? named[2]);
  const has = matcher(word);
  return (row) => has(row.path) || has(row.type);
}

/**
 * What a filter such as `type:Linear self>5ms -lm_head` keeps: a function of a row
 * {path, type, phase, self, total, mem, calls, device, flops}. Throws where a word cannot be read.
 */
function filterOf(text) {
  const parts = text.split(/\s+/).filter(Boolean).map((word) => {
    const not = word.length > 1 && word.startsWith("-");
    const test = condition(not ? word.slice(1) : word);
    return not ? (row) => !test(row) : test;
  });
  return (row) => parts.every((test) => test(row));
}
