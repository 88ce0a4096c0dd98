// What the drawings share: canvases as sharp as the screen, colors of the theme, texts that fit.

const PHASE_COLORS = meta.phaseColors;

/** Class of module -> its color; those with most time have one of their own. */
const classColors = new Map();

const classColor = (type) => classColors.get(type) ?? meta.otherClassColor;

const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** A canvas that is drawn anew, at most once a frame, when it is asked to, resized, or the colors change. */
class Chart {
  constructor(canvas, draw) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.draw = draw;
    new ResizeObserver(() => this.later()).observe(canvas);
    document.addEventListener("themechange", () => this.later());
  }

  get width() {
    return this.canvas.clientWidth;
  }

  get height() {
    return this.canvas.clientHeight;
  }

  later() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.now();
    });
  }

  now() {
    const ratio = window.devicePixelRatio || 1;
    const { width, height, canvas, context } = this;
    if (!width || !height) return;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    this.draw(context, width, height);
  }

  /** Where a pointer is, in pixels of the canvas. */
  point(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }
}

/** A text cut to a width, or nothing where not even a few letters fit. */
function fitted(context, text, width) {
  if (width < 24) return "";
  if (context.measureText(text).width <= width) return text;
  let low = 0;
  let high = Math.min(text.length, Math.ceil(width / 4));
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (context.measureText(`${text.slice(0, middle)}..`).width <= width) low = middle;
    else high = middle - 1;
  }
  return low > 1 ? `${text.slice(0, low)}..` : "";
}

function box(context, x, y, width, height, color, label, chosen) {
  context.fillStyle = color;
  context.fillRect(x, y, Math.max(width - (width > 3 ? 1 : 0), 1), height - 1);
  const text = label && fitted(context, label, width - 8);
  if (text) {
    // What is faint stays readable: its box fades, its text does not.
    const alpha = context.globalAlpha;
    context.globalAlpha = 1;
    context.fillStyle = alpha < 1 ? themed("ink") : "#101418";
    context.fillText(text, x + 4, y + height / 2);
    context.globalAlpha = alpha;
  }
  if (chosen) {
    context.strokeStyle = themed("ink");
    context.lineWidth = 2;
    context.strokeRect(x + 1, y + 1, Math.max(width - 3, 2), height - 3);
  }
}

/** Round values for an axis from `low` to `high`, about one in `each` pixels. */
function ticks(low, high, width, each = 110) {
  const rough = ((high - low) * each) / Math.max(width, 1);
  const power = 10 ** Math.floor(Math.log10(Math.max(rough, 1e-9)));
  const step = [1, 2, 5, 10].map((times) => times * power).find((value) => value >= rough) ?? power;
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) found.push(value);
  return found;
}

/** The first index from `low` to `high` at which a rising test is true, `high` for none. */
function firstWhere(low, high, test) {
  while (low < high) {
    const middle = (low + high) >> 1;
    if (test(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}
