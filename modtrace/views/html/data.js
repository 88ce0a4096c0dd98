// The data of the page: columns of numbers, and texts. A whole number that is not known is -1, a double null.

const meta = JSON.parse(document.getElementById("meta").textContent);

/** The bytes that base64 stands for. */
function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let at = 0; at < raw.length; at++) bytes[at] = raw.charCodeAt(at);
  return bytes;
}

/** What unpacks raw deflate; browsers have it since May 2023. */
function inflater() {
  try {
    return new DecompressionStream("deflate-raw");
  } catch (error) {
    throw new Error("this browser is too old to unpack its data (it needs one of May 2023 or later)");
  }
}

async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(inflater());
  try {
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch (error) {
    throw new Error("the data of this page is damaged");
  }
}

const bytesNamed = (name) => inflated(bytesOf(document.getElementById(`blob-${name}`).textContent));

/** Doubles, null where not known, from the planes of their bits plus one; 0 is what is not known. */
function doubles(bytes, at, planes, rows) {
  const view = new DataView(new ArrayBuffer(8));
  return Array.from({ length: rows }, (_, row) => {
    let known = false;
    for (let plane = 0; plane < 8; plane++) {
      const byte = plane < planes ? bytes[at + plane * rows + row] : 0;
      known ||= byte > 0;
      view.setUint8(plane, byte);
    }
    if (!known) return null;
    view.setBigUint64(0, view.getBigUint64(0, true) - 1n, true);
    return view.getFloat64(0, true);
  });
}

/** Columns of a blob by name: an array of 32 bits where that is enough, else of doubles (exact up to 2 ** 53). */
async function columns(name) {
  const { rows, columns: told } = meta.blobs[name];
  const bytes = await bytesNamed(name);
  const found = { rows };
  let at = 0;
  for (const [column, planes, form] of told) {
    if (form === "double") {
      found[column] = doubles(bytes, at, planes, rows);
      at += planes * rows;
      continue;
    }
    const values = planes < 4 ? new Int32Array(rows) : new Float64Array(rows);
    for (let plane = 0, scale = 1; plane < planes; plane++, scale *= 256) {
      for (let row = 0; row < rows; row++) values[row] += bytes[at + row] * scale;
      at += rows;
    }
    if (form === "signed") {
      for (let row = 0; row < rows; row++) {
        const stored = values[row];
        values[row] = stored % 2 ? -(stored + 1) / 2 : stored / 2;
      }
    } else {
      for (let row = 0; row < rows; row++) values[row] -= 1;
    }
    found[column] = values;
  }
  return found;
}

async function texts(name) {
  return JSON.parse(new TextDecoder().decode(await bytesNamed(name)));
}

const chunks = new Map();

/** The calls of a chunk; the last few that were asked for are kept. */
async function chunk(number) {
  if (!chunks.has(number)) {
    if (chunks.size >= 8) chunks.delete(chunks.keys().next().value);
    chunks.set(number, columns(`calls-${number}`));
  }
  return chunks.get(number);
}

/**
 * The calls of one step: `path`, `thread`, `start`, `duration`, `self`, `device` and `backward`, the time of the backward of
 * a forward (ns; -1 where not known), `depth`, `status`, `peak` (bytes); `inputs`, `outputs` and `error`, numbers of names,
 * those of signatures -1 where they are the usual ones of the row of the tree.
 * A call is stored by the gap to what was before it: the end of the last one as deep, or the start of the one around it.
 */
async function callsOfStep(step, paths, depths) {
  const stored = await chunk(step.chunk);
  const first = step.offset;
  const count = step.rows;
  const part = (name) => stored[name].subarray(first, first + count);
  const calls = {
    count, path: part("path"), thread: part("thread"), duration: part("duration_ns"), status: part("status"),
    inputs: part("inputs"), outputs: part("outputs"), error: part("error"), device: part("device_ns"), peak: part("peak_bytes"),
    start: new Float64Array(count), self: new Float64Array(count), backward: new Float64Array(count).fill(-1),
    depth: new Int32Array(count),
  };
  const [overhead, forward] = [part("overhead_ns"), part("forward")];
  // Of each thread, the last row of each depth.
  const lasts = new Map();
  for (let row = 0; row < count; row++) {
    if (!lasts.has(calls.thread[row])) lasts.set(calls.thread[row], []);
    const last = lasts.get(calls.thread[row]);
    const depth = depths[paths.node[calls.path[row]]];
    const [sibling, parent] = [last[depth] ?? -1, last[depth - 1] ?? -1];
    const before = parent < 0 ? step.start : calls.start[parent];
    const expected = sibling > parent ? calls.start[sibling] + Math.max(calls.duration[sibling], 0) : before;
    calls.start[row] = expected + stored.gap_ns[first + row];
    calls.depth[row] = depth;
    last[depth] = row;
    const took = Math.max(calls.duration[row], 0);
    calls.self[row] += overhead[row] < 0 ? -Infinity : took - (overhead[row] % 2 ? -(overhead[row] + 1) / 2 : overhead[row] / 2);
    if (parent >= 0) calls.self[parent] -= took;
    if (forward[row] > 0 && calls.duration[row] >= 0) calls.backward[row - forward[row]] = Math.max(calls.backward[row - forward[row]], 0) + took;
  }
  calls.self.forEach((ns, row) => ns < 0 && (calls.self[row] = -1));
  return calls;
}
