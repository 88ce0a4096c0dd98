// The data of the page: columns of whole numbers, and texts. A number that is not known is -1.

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

/** Columns of a blob by name: an array of 32 bits where that is enough, else of doubles (exact up to 2 ** 53). */
async function columns(name) {
  const { rows, columns: told } = meta.blobs[name];
  const bytes = await bytesNamed(name);
  const found = { rows };
  let at = 0;
  for (const [column, planes, signed] of told) {
    const values = planes < 4 ? new Int32Array(rows) : new Float64Array(rows);
    for (let plane = 0, scale = 1; plane < planes; plane++, scale *= 256) {
      for (let row = 0; row < rows; row++) values[row] += bytes[at + row] * scale;
      at += rows;
    }
    if (signed) {
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
 * The calls of one step: `path`, `thread`, `start` and `duration` (ns; -1 where not known), `depth`, `status`.
 * A call is stored by the gap to what was before it: the end of the last one as deep, or the start of the one around it.
 */
async function callsOfStep(step, paths, depths) {
  const stored = await chunk(step.chunk);
  const first = step.offset;
  const count = step.rows;
  const calls = {
    count,
    path: stored.path.subarray(first, first + count),
    thread: stored.thread.subarray(first, first + count),
    duration: stored.duration_ns.subarray(first, first + count),
    status: stored.status.subarray(first, first + count),
    start: new Float64Array(count),
    depth: new Int32Array(count),
  };
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
  }
  return calls;
}
