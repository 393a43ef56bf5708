// What the runs were planned to take, beside what they took.

import { byId, h } from "./dom.js";
import { show } from "./format.js";

const COLUMNS = ["Metric", "Planned", "Measured", "Plan over measured"];

export function drawPlanned(head) {
  const { plans } = head;
  byId("plan").hidden = !plans.length;
  document.querySelector('nav a[href="#plan"]').hidden = !plans.length;
  byId("plan-tables").replaceChildren(...plans.map((plan) => table(plan)));
}

function table({ name, machines, lengths, rows }) {
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": `Plan of ${name}` },
    h(
      "table",
      { class: "planned" },
      h("caption", {}, `${name} on ${machines}. Lengths: ${lengths}.`),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          COLUMNS.map((column) => h("th", { scope: "col" }, column)),
        ),
      ),
      h("tbody", {}, rows.map(row)),
    ),
  );
}

function row({ metric, planned, measured, unit, error }) {
  const cells = [amount(planned, unit), amount(measured, unit), difference(error)];
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, metric),
    cells.map((text, index) => h("td", { "data-label": COLUMNS[index + 1] }, text)),
  );
}

function amount(value, unit) {
  return unit === "s" ? show(value, "seconds") : `${show(value)} ${unit}`;
}

/** "+12%": by how much the plan is above what was measured. */
function difference(error) {
  if (error === null) return "\u2013";
  const percent = Math.round(100 * error);
  return `${percent > 0 ? "+" : ""}${show(percent)}%`;
}
