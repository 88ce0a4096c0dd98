// The address of the page holds what is looked at, so that it can be sent, kept and gone back to. Rows are named by the
// labels from the top of the tree down, which another report of the same program shares.

const MOST_OPENED = 60;

/** The part of an address for a label; the second of two siblings of one label ends in `~2`. */
function addressPart(node) {
  const label = tree.label(node) || tree.type(node);
  let repeat = 1;
  const parent = tree.parent[node];
  for (let other = parent + 1; other < node; other = tree.end[other]) if ((tree.label(other) || tree.type(other)) === label) repeat++;
  return encodeURIComponent(label) + (repeat > 1 ? `~${repeat}` : "");
}

function pathOf(node) {
  const parts = [];
  for (let up = node; up >= 0; up = tree.parent[up]) parts.push(addressPart(up));
  return parts.reverse().join("/");
}

/** The row of a path, -1 for none. */
function nodeAt(path) {
  let node = -1;
  for (const part of path.split("/")) {
    const [, label, repeat = "1"] = /^(.*?)(?:~(\d+))?$/.exec(part);
    const alike = tree.childrenOf(node).filter((child) => encodeURIComponent(tree.label(child) || tree.type(child)) === encodeURIComponent(decoded(label)));
    node = alike[Number(repeat) - 1] ?? -1;
    if (node < 0) return -1;
  }
  return node;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch (error) {
    return text;
  }
}

/** What is looked at, as the part of an address behind the #. */
function addressOf() {
  const parts = [];
  if (state.node >= 0) parts.push(`row=${pathOf(state.node)}`);
  if (strip && strip.at >= 0) parts.push(`step=${strip.process}.${strip.steps.step[strip.rows[strip.at]]}`);
  const text = byId("filter").value.trim();
  if (text) parts.push(`filter=${encodeURIComponent(text)}`);
  if (tree.sortKey !== "order") parts.push(`sort=${tree.descending ? "" : "-"}${tree.sortKey}`);
  if (icicle.root >= 0) parts.push(`zoom=${pathOf(icicle.root)}`);
  if (state.mode !== "tree") parts.push(`rows=${state.mode}`);
  if (state.shareOf !== "counted") parts.push(`of=${state.shareOf}`);
  const changed = tree.changed();
  if (changed.length && changed.length <= MOST_OPENED) parts.push(`open=${changed.map(pathOf).join(",")}`);
  return parts.join("&");
}

/** Keep what is looked at in the address; as a place to go back to if it is `fresh`. */
function keepAddress(fresh = false) {
  if (state.restoring || !strip) return;
  const address = `#${addressOf()}`;
  if (address === location.hash) return;
  try {
    if (fresh) history.pushState(null, "", address);
    else history.replaceState(null, "", address);
  } catch (error) {
    // A frame without an address of its own.
  }
}

/** Show what an address asks for; what it does not name is as at the beginning. */
function restore(hash) {
  const text = hash.replace(/^#/, "");
  if (text && !text.includes("=")) return goTo(text);
  const wanted = new Map(text.split("&").map((part) => [part.slice(0, part.indexOf("=")), part.slice(part.indexOf("=") + 1)]));
  state.restoring = true;
  try {
    byId("filter").value = decoded(wanted.get("filter") ?? "");
    filter(byId("filter").value);
    shareOf(wanted.get("of") === "run" ? "run" : "counted");
    showMode(wanted.get("rows") === "flat" ? "flat" : "tree");
    const sort = /^(-?)(.*)$/.exec(wanted.get("sort") ?? "order");
    const key = tree.sorts.includes(sort[2]) ? sort[2] : "order";
    if (key !== tree.sortKey || !sort[1] !== tree.descending) sortBy(key, !sort[1]);
    tree.reopen((wanted.get("open") ?? "").split(",").filter(Boolean).map(nodeAt).filter((node) => node >= 0));
    showRows();
    const zoom = wanted.has("zoom") ? nodeAt(wanted.get("zoom")) : -1;
    if (zoom !== icicle.root) icicle.zoom(zoom);
    const node = wanted.has("row") ? nodeAt(wanted.get("row")) : -1;
    if (node >= 0) select(node);
    const step = (wanted.get("step") ?? "").split(".").map(Number);
    if (step.length === 2 && step.every(Number.isInteger)) goToStep(...step);
  } finally {
    state.restoring = false;
  }
  return undefined;
}

/** Links within the page are followed by the page itself: in a frame of a notebook they would load the notebook. */
function followLinks() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.('a[href^="#"]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    const hash = link.getAttribute("href");
    if (!hash.includes("=")) return goTo(hash.slice(1));
    keepAddress();
    const merged = mergedAddress(hash);
    try {
      history.pushState(null, "", merged);
    } catch (error) {
      // See above.
    }
    restore(merged);
    if (hash.startsWith("#filter=")) showMode("flat");
    goTo("tree");
  });
  window.addEventListener("popstate", () => restore(location.hash));
  window.addEventListener("hashchange", () => restore(location.hash));
}

/** The address of now with what a link names. */
function mergedAddress(hash) {
  const parts = new Map(addressOf().split("&").filter(Boolean).map((part) => [part.slice(0, part.indexOf("=")), part]));
  parts.delete("filter");
  for (const part of hash.slice(1).split("&")) parts.set(part.slice(0, part.indexOf("=")), part);
  return `#${[...parts.values()].join("&")}`;
}
