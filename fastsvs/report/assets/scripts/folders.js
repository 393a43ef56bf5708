// The list of all runs and evaluations in a folder that is served: open one, or several beside one another.

import { byId, h } from "./dom.js";
import { plural, show } from "./format.js";

const COLUMNS = ["", "Run", "Method", "Model", "Steps", "Held-out", "Last change"];
const chosen = new Set();
const search = h("input", {
  type: "search",
  placeholder: "Find a run",
  "aria-label": "Find a run",
  autocomplete: "off",
});
const compare = h("button", { type: "button", onclick: () => location.assign(address([...chosen])) });
let listed = null;

/** Draws the list; what is chosen and searched for stays. */
export function drawFolders(head) {
  listed = head;
  document
    .querySelectorAll("main > section:not(#result), #figures, .bar nav, #sections, .skip")
    .forEach((part) => (part.hidden = true));
  byId("lede").textContent = `${plural(head.folders.length, "folder")} of runs and evaluations in ${head.root}`;
  if (!byId("headline").childElementCount) {
    search.addEventListener("input", fillFolders);
    byId("headline").append(
      h("div", { class: "controls" }, search, compare),
      h(
        "table",
        { class: "headline folders" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            COLUMNS.map((name) => h("th", { scope: "col" }, name)),
          ),
        ),
        h("tbody"),
      ),
    );
  }
  fillFolders();
}

function fillFolders() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = ({ name, kind, model }) =>
    words.every((word) => `${name} ${kind} ${model}`.toLowerCase().includes(word));
  const rows = listed.folders.filter(fits);
  const there = new Set(listed.folders.map(({ name }) => name));
  [...chosen].filter((name) => !there.has(name)).forEach((name) => chosen.delete(name));
  const nothing = h("tr", {}, h("td", { colspan: COLUMNS.length }, "Nothing matches."));
  const focused = document.activeElement?.dataset?.name;
  byId("headline")
    .querySelector("tbody")
    .replaceChildren(...(rows.length ? rows.map(rowOf) : [nothing]));
  if (focused)
    byId("headline")
      .querySelector(`[data-name="${CSS.escape(focused)}"]`)
      ?.focus();
  tellChosen();
}

function tellChosen() {
  compare.disabled = !chosen.size;
  compare.textContent = chosen.size
    ? `Open ${plural(chosen.size, "chosen one")} together`
    : "Choose some to open together";
}

function rowOf(folder) {
  const box = h("input", {
    type: "checkbox",
    "aria-label": `Choose ${folder.name}`,
    "data-name": folder.name,
    checked: chosen.has(folder.name),
  });
  box.addEventListener("change", () => {
    if (!chosen.delete(folder.name)) chosen.add(folder.name);
    tellChosen();
  });
  const cells = [
    box,
    h("a", { href: address([folder.name]) }, folder.name),
    folder.kind,
    folder.model,
    [folder.progress, folder.finished ? null : h("small", {}, " not finished")],
    heldOut(folder),
    folder.date,
  ];
  return h(
    "tr",
    { class: "arm" },
    cells.map((cell, index) => h("td", { "data-label": COLUMNS[index] || null }, cell)),
  );
}

function heldOut({ figure, before, after }) {
  if (before === null) return show(null);
  return [`${show(before, "share")} → `, h("b", {}, show(after, "share")), h("small", {}, ` ${figure}`)];
}

function address(names) {
  return `open/${names.map(encodeURIComponent).join("+")}/`;
}
