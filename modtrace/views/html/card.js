// What is known of the thing under the pointer, beside the pointer.

class Card {
  constructor() {
    this.box = element("div", { id: "card", role: "tooltip", hidden: "" });
    document.body.append(this.box);
    // What moves under the card takes it away; a table elsewhere in the page may scroll.
    document.addEventListener("scroll", (event) => event.target.contains(this.drawing) && this.hide(), { capture: true, passive: true });
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.hide(), { capture: true });
  }

  /** Show a title and pairs of a fact and its value beside the pointer. */
  beside(event, title, facts) {
    this.show(event.currentTarget, title, facts, event.clientX, event.clientY);
  }

  /** Show them beside a point of the window, which is in a drawing. */
  show(drawing, title, facts, x, y) {
    this.drawing = drawing;
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
