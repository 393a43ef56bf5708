// Folders of `fastsvs eval`: their sets and figures, and the head of a page that has no run.

import { byId, h } from "./dom.js";
import { listed, plural, show } from "./format.js";
import { byKindAndK } from "./series.js";

const SECTIONS_OF_RUNS = ["learning", "time", "problems"];

/** The table of the evaluations' sets; where there is no run also the title, and no empty sections. */
export function drawEvaluated(head) {
  const sheets = bySet(head.sheets.filter(({ run }) => run === null));
  byId("evaluated").replaceChildren(...(sheets.length ? tables(sheets) : []));
  const alone = !head.runs.length;
  byId("figures").hidden = alone;
  for (const id of SECTIONS_OF_RUNS) {
    byId(id).hidden = alone;
    document.querySelector(`nav a[href="#${id}"]`).hidden = alone;
  }
  if (!alone) return;
  byId("lede").textContent = lede(head, sheets);
  byId("standfirst").textContent = `${plural(head.evaluations.length, "evaluation")} of ${plural(
    new Set(sheets.map(({ set }) => set)).size,
    "set",
  )}: ${listed(head.evaluations.map(({ name, model }) => (model ? `${name} asked ${model}` : name)))}.`;
}

/** The sheets of a set after one another, sets in the order in which they first come. */
function bySet(sheets) {
  return [...Map.groupBy(sheets, ({ set }) => set).values()].flat();
}

function lede(head, sheets) {
  const done = sheets.filter(({ rates }) => Object.keys(rates).length);
  if (!done.length) return `${listed(head.evaluations.map(({ name }) => name))}: no set is done yet`;
  const [{ set, rates }] = done;
  const [name] = Object.keys(rates);
  const parts = done
    .filter((each) => each.set === set && each.rates[name])
    .map((each) => `${each.label} ${show(each.rates[name][0], "share")}`);
  return `${name} on ${set}: ${listed(parts)}`;
}

const MOST_FIGURES = 8;

/** One table; one of each kind of figure where they are more than a page is wide. */
function tables(sheets) {
  const names = [...new Set(sheets.flatMap(({ rates }) => Object.keys(rates)))].sort(byKindAndK);
  if (names.length <= MOST_FIGURES) return [table(sheets, names, "Evaluations")];
  const kinds = Map.groupBy(names, (name) => name.split("@")[0]);
  return [...kinds].map(([kind, own]) => table(sheets, own, `${kind}@k of the evaluations`));
}

function table(sheets, names, about) {
  const columns = ["Set", "Evaluation", "Problems", "Samples", ...names];
  const cells = (sheet) => [
    sheet.set,
    sheet.label,
    show(sheet.problems, "count"),
    show(sheet.samples, "count"),
    ...names.map((name) => rate(sheet.rates[name])),
  ];
  const row = (sheet) =>
    h(
      "tr",
      { class: "arm" },
      cells(sheet).map((cell, index) =>
        h(index ? "td" : "th", { "data-label": columns[index], scope: index ? null : "row" }, cell),
      ),
    );
  return h(
    "div",
    { class: "scroll of-evaluations", tabindex: 0, role: "region", "aria-label": about },
    h(
      "table",
      { class: "headline" },
      h("caption", {}, `${about}, with 95% intervals over problems.`),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          columns.map((name) => h("th", { scope: "col" }, name)),
        ),
      ),
      h("tbody", {}, sheets.map(row)),
    ),
  );
}

function rate(found) {
  if (!found) return show(null);
  const [mean, low, high] = found;
  return [h("b", {}, show(mean, "share")), h("small", {}, `${(100 * low).toFixed(1)}–${(100 * high).toFixed(1)}%`)];
}
