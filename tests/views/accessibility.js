// What a page lacks for those who use it by keyboard, with a screen reader or with poor sight: a list of sentences, empty
// for a page in which nothing is found. It looks at the page as it is, with what is hidden left out.

const shown = (element) => element.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true });

const called = (element) => {
  const id = element.id ? `#${element.id}` : "";
  return `<${element.tagName.toLowerCase()}${id} class="${element.getAttribute("class") ?? ""}"> ${element.textContent.trim().slice(0, 40)}`;
};

/** The text that can be seen in an element. */
const seenText = (element) =>
  Array.from(element.childNodes, (child) => (child.nodeType === Node.TEXT_NODE ? child.data : child.nodeType === Node.ELEMENT_NODE && child.ariaHidden !== "true" && !child.matches("input, select, textarea") ? seenText(child) : "")).join("").trim();

/** The name that a screen reader says of an element. */
function nameOf(element) {
  const by = (element.getAttribute("aria-labelledby") ?? "").split(" ").filter(Boolean);
  if (by.length) return by.map((id) => document.getElementById(id)?.textContent ?? "").join(" ").trim();
  const label = element.getAttribute("aria-label")?.trim();
  if (label) return label;
  if (element.labels?.length) return Array.from(element.labels, seenText).join(" ").trim();
  return element.matches("input, select, textarea, canvas") ? "" : seenText(element) || (element.title ?? "");
}

const CONTROLS = "a[href], button, input, select, textarea, summary, [tabindex]:not([tabindex='-1'])";
const NAMED = `${CONTROLS}, canvas, nav, aside, section, dialog[open], [role=grid], [role=treegrid], [role=columnheader], svg[role=img]`;

function names() {
  const lacks = [];
  for (const element of document.querySelectorAll(NAMED)) {
    if (!shown(element) || element.matches(".grid-view")) continue;
    const name = nameOf(element);
    if (!name) lacks.push(`no name: ${called(element)}`);
    const text = element.matches("a, button, [role=columnheader]") ? seenText(element) : "";
    if (text && !name.toLowerCase().includes(text.toLowerCase())) lacks.push(`the name "${name}" lacks the text that is seen: ${called(element)}`);
  }
  for (const svg of document.querySelectorAll("svg")) {
    if (shown(svg) && !svg.closest("[aria-hidden=true]") && !(svg.getAttribute("role") === "img" && nameOf(svg))) lacks.push(`a drawing without a name: ${called(svg.parentElement)}`);
  }
  return lacks;
}

const PARENTS = { row: "[role=rowgroup], [role=grid], [role=treegrid]", rowgroup: "[role=grid], [role=treegrid]", gridcell: "[role=row]", rowheader: "[role=row]", columnheader: "[role=row]" };
const VALUES = ["aria-valuemin", "aria-valuemax"];

function roles() {
  const lacks = [];
  const only = (selector) => document.querySelectorAll(selector).length === 1 || lacks.push(`not one ${selector}`);
  ["main", "header", "nav", "h1"].forEach(only);
  if (!document.title) lacks.push("no title");
  if (!document.documentElement.lang) lacks.push("no language");
  let level = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    if (!shown(heading)) continue;
    const deep = Number(heading.tagName[1]);
    if (deep > level + 1) lacks.push(`a heading too deep: ${called(heading)}`);
    level = deep;
  }
  const ids = Array.from(document.querySelectorAll("[id]"), (element) => element.id);
  for (const id of new Set(ids.filter((id, at) => ids.indexOf(id) !== at))) lacks.push(`two elements are #${id}`);
  for (const attribute of ["aria-labelledby", "aria-describedby", "aria-activedescendant", "aria-controls", "for"]) {
    for (const element of document.querySelectorAll(`[${attribute}]`)) {
      for (const id of element.getAttribute(attribute).split(" ")) if (!document.getElementById(id)) lacks.push(`${attribute} of nothing: ${called(element)}`);
    }
  }
  for (const [role, parents] of Object.entries(PARENTS)) {
    for (const element of document.querySelectorAll(`[role=${role}]`)) if (!element.parentElement.closest(parents)) lacks.push(`${role} outside of its parent: ${called(element)}`);
  }
  for (const slider of document.querySelectorAll("[role=slider]")) {
    if (shown(slider)) for (const value of VALUES) if (!slider.hasAttribute(value)) lacks.push(`a slider without ${value}: ${called(slider)}`);
  }
  for (const hidden of document.querySelectorAll("[aria-hidden=true]")) {
    if (shown(hidden) && hidden.querySelector(CONTROLS)) lacks.push(`a control in what is hidden: ${called(hidden)}`);
  }
  for (const cell of document.querySelectorAll("thead th")) if (shown(cell) && !cell.textContent.trim()) lacks.push(`an empty head: ${called(cell.closest("table"))}`);
  return lacks;
}

const channels = (color) => {
  const [red, green, blue, alpha = 1] = color.match(/[\d.]+/g).map(Number);
  return { red, green, blue, alpha };
};
const over = (top, below) => {
  const mixed = (name) => top[name] * top.alpha + below[name] * (1 - top.alpha);
  return { red: mixed("red"), green: mixed("green"), blue: mixed("blue"), alpha: 1 };
};

function luminance({ red, green, blue }) {
  const linear = [red, green, blue].map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}

function contrast(first, second) {
  const [low, high] = [luminance(first), luminance(second)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

function backgroundOf(element) {
  const layers = [];
  for (let up = element; up; up = up.parentElement) {
    const color = channels(getComputedStyle(up).backgroundColor);
    layers.push(color);
    if (color.alpha === 1) break;
  }
  return layers.reverse().reduce((below, top) => over(top, below), { red: 255, green: 255, blue: 255, alpha: 1 });
}

function contrasts() {
  const lacks = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("script, style, svg, .spoken, option") || !shown(element)) continue;
    const style = getComputedStyle(element);
    const background = backgroundOf(element);
    const ratio = contrast(over(channels(style.color), background), background);
    const size = parseFloat(style.fontSize);
    const least = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    if (ratio < least) lacks.set(`contrast ${ratio.toFixed(2)} of ${style.color}: ${called(element)}`, 1);
  }
  return [...lacks.keys()];
}

/** Controls too small to hit; links within text are as high as its lines. */
function sizes() {
  const lacks = [];
  for (const element of document.querySelectorAll("button, input, select, nav a")) {
    const box = element.getBoundingClientRect();
    if (shown(element) && (box.height < 24 || box.width < 24)) lacks.push(`${box.width} x ${box.height} is too small: ${called(element)}`);
  }
  return lacks;
}

/** Everything that the tab key must come to, in order. */
const focusable = () => Array.from(document.querySelectorAll(CONTROLS)).filter((element) => shown(element) && !element.disabled);

const positiveTabs = () => Array.from(document.querySelectorAll("[tabindex]")).filter((element) => element.tabIndex > 0).map((element) => `an order of its own: ${called(element)}`);

const lacking = () => [...names(), ...roles(), ...contrasts(), ...sizes(), ...positiveTabs()];
