// A list that holds elements for the visible rows only: a listbox with one tab stop, whatever its length.

import { h } from "./dom.js";

const ROW = 78;
const MARGIN = 6;

/** `draw(item)` gives a row's content; `choose(item, deliberately)` is called when the selection moves or is opened. */
export function virtualList(box, { draw, choose }) {
  const spacer = h("div", { class: "spacer", role: "presentation" });
  box.append(spacer);
  let items = [];
  let selected = -1;
  const rows = new Map();

  function render() {
    const first = Math.max(0, Math.floor(box.scrollTop / ROW) - MARGIN);
    const last = Math.min(items.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + MARGIN);
    for (const [index, row] of rows) {
      if (index < first || index >= last) {
        row.remove();
        rows.delete(index);
      }
    }
    for (let index = first; index < last; index += 1) if (!rows.has(index)) add(index);
  }

  function add(index) {
    const row = h(
      "div",
      { class: "row", role: "option", id: `${box.id}-${index}`, style: { top: `${index * ROW}px` } },
      draw(items[index]),
    );
    row.setAttribute("aria-setsize", items.length);
    row.setAttribute("aria-posinset", index + 1);
    row.setAttribute("aria-selected", String(index === selected));
    row.addEventListener("click", () => select(index, true));
    rows.set(index, row);
    spacer.append(row);
  }

  function select(index, deliberately) {
    if (!items.length) return;
    const next = Math.max(0, Math.min(items.length - 1, index));
    rows.get(selected)?.setAttribute("aria-selected", "false");
    selected = next;
    reveal();
    render();
    rows.get(selected)?.setAttribute("aria-selected", "true");
    box.setAttribute("aria-activedescendant", `${box.id}-${selected}`);
    choose(items[selected], deliberately);
  }

  function reveal() {
    const top = selected * ROW;
    if (top < box.scrollTop) box.scrollTop = top;
    if (top + ROW > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW - box.clientHeight;
  }

  /** New items; the one with id `keep` stays selected, and the place in the list stays if asked to. */
  function fill(next, keep, stay) {
    items = next;
    selected = items.findIndex(({ id }) => id === keep);
    spacer.style.height = `${items.length * ROW}px`;
    if (!stay) box.scrollTop = 0;
    rows.forEach((row) => row.remove());
    rows.clear();
    if (selected >= 0) {
      box.setAttribute("aria-activedescendant", `${box.id}-${selected}`);
      if (!stay) reveal();
    } else box.removeAttribute("aria-activedescendant");
    render();
  }

  const page = () => Math.max(1, Math.floor(box.clientHeight / ROW) - 1);
  const moves = {
    ArrowDown: () => selected + 1,
    j: () => selected + 1,
    ArrowUp: () => selected - 1,
    k: () => selected - 1,
    PageDown: () => selected + page(),
    PageUp: () => selected - page(),
    Home: () => 0,
    End: () => items.length - 1,
    Enter: () => selected,
  };
  box.addEventListener("scroll", render, { passive: true });
  new ResizeObserver(render).observe(box);

  /** Whether the key meant something here. */
  function press(key) {
    if (!(key in moves)) return false;
    select(moves[key](), key === "Enter");
    return true;
  }
  return {
    fill,
    press,
    get selected() {
      return items[selected] ?? null;
    },
  };
}
