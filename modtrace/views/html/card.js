// What is known of the thing under the pointer, beside the pointer.

class Card {
  constructor() {
    this.box = element("div", { id: "card", role: "tooltip", hidden: "" });
    document.body.append(this.box);
    document.addEventListener("scroll", () => this.hide(), { capture: true, passive: true });
  }

  /** Show a title and pairs of a fact and its value beside a point of the window. */
  show(title, facts, x, y) {
    const rows = facts.flatMap(([fact, value]) => [element("dt", {}, fact), element("dd", {}, value)]);
    this.box.replaceChildren(element("b", {}, title), element("dl", {}, ...rows));
    this.box.hidden = false;
    const { offsetWidth: wide, offsetHeight: high } = this.box;
    const left = x + 14 + wide > window.innerWidth ? x - 14 - wide : x + 14;
    const top = y + 14 + high > window.innerHeight ? y - 14 - high : y + 14;
    this.box.style.left = `${Math.max(Math.min(left, window.innerWidth - wide - 4), 4)}px`;
    this.box.style.top = `${Math.max(top, 4)}px`;
  }

  hide() {
    this.box.hidden = true;
  }
}

const card = new Card();
