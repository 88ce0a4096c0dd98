// Raw deflate (RFC 1951), for browsers without DecompressionStream("deflate-raw").

/** The codes of an alphabet: how many there are of each length, and the symbols in the order of their codes. */
function codesOf(lengths) {
  const counts = new Uint16Array(16);
  for (const length of lengths) counts[length]++;
  counts[0] = 0;
  const next = new Uint16Array(16);
  for (let length = 1; length < 15; length++) next[length + 1] = next[length] + counts[length];
  const symbols = new Uint16Array(lengths.length);
  lengths.forEach((length, symbol) => {
    if (length) symbols[next[length]++] = symbol;
  });
  return { counts, symbols };
}

/** Bases and extra bits of lengths (from 3, up to 258) and of distances (from 1). */
function basesOf(count, first, perStep) {
  const extra = [];
  const base = [];
  for (let at = 0, value = first; at < count; at++) {
    base.push(value);
    extra.push(Math.max(0, Math.floor(at / perStep) - 1));
    value += 1 << extra[at];
  }
  return { base, extra };
}

/** What some bytes were before they were deflated. */
function inflate(bytes) {
  let out = new Uint8Array(Math.max(1024, bytes.length * 4));
  let size = 0;
  let at = 0;
  let held = 0;
  let holds = 0;
  const lengthBases = basesOf(28, 3, 4);
  lengthBases.base.push(258);
  lengthBases.extra.push(0);
  const distanceBases = basesOf(30, 1, 2);

  const room = (more) => {
    if (size + more <= out.length) return;
    const larger = new Uint8Array(Math.max(out.length * 2, size + more));
    larger.set(out);
    out = larger;
  };
  const bits = (count) => {
    while (holds < count) {
      if (at >= bytes.length) throw new Error("the data of this page is cut short");
      held |= bytes[at++] << holds;
      holds += 8;
    }
    const value = held & ((1 << count) - 1);
    held >>>= count;
    holds -= count;
    return value;
  };
  const symbol = ({ counts, symbols }) => {
    let code = 0;
    let first = 0;
    let index = 0;
    for (let length = 1; length < 16; length++) {
      code |= bits(1);
      if (code - counts[length] < first) return symbols[index + code - first];
      index += counts[length];
      first = (first + counts[length]) << 1;
      code <<= 1;
    }
    throw new Error("the data of this page is damaged");
  };
  const stored = () => {
    held = 0;
    holds = 0;
    const count = bytes[at] | (bytes[at + 1] << 8);
    at += 4;
    room(count);
    out.set(bytes.subarray(at, at + count), size);
    size += count;
    at += count;
  };
  const compressed = (literals, distances) => {
    for (;;) {
      const code = symbol(literals);
      if (code === 256) return;
      if (code < 256) {
        room(1);
        out[size++] = code;
        continue;
      }
      const length = lengthBases.base[code - 257] + bits(lengthBases.extra[code - 257]);
      const far = symbol(distances);
      const distance = distanceBases.base[far] + bits(distanceBases.extra[far]);
      room(length);
      for (let copied = 0; copied < length; copied++, size++) out[size] = out[size - distance];
    }
  };
  const fixed = () => {
    const lengths = Array.from({ length: 288 }, (_, code) => (code < 144 ? 8 : code < 256 ? 9 : code < 280 ? 7 : 8));
    compressed(codesOf(lengths), codesOf(new Array(30).fill(5)));
  };
  const dynamic = () => {
    const literals = bits(5) + 257;
    const distances = bits(5) + 1;
    const order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
    const own = new Array(19).fill(0);
    for (let count = bits(4) + 4, index = 0; index < count; index++) own[order[index]] = bits(3);
    const codes = codesOf(own);
    const lengths = [];
    while (lengths.length < literals + distances) {
      const code = symbol(codes);
      if (code < 16) {
        lengths.push(code);
        continue;
      }
      const value = code === 16 ? lengths[lengths.length - 1] : 0;
      const times = code === 16 ? 3 + bits(2) : code === 17 ? 3 + bits(3) : 11 + bits(7);
      for (let time = 0; time < times; time++) lengths.push(value);
    }
    compressed(codesOf(lengths.slice(0, literals)), codesOf(lengths.slice(literals)));
  };

  for (let last = 0; !last; ) {
    last = bits(1);
    [stored, fixed, dynamic][bits(2)]();
  }
  return out.subarray(0, size);
}
