// What each run was planned to take, beside what it took.

import { byId, h } from "./dom.js";
import { show } from "./format.js";

const COLUMNS = ["Metric", "Planned", "Measured", "Plan over measured"];

export function drawPlanned(head) {
  const runs = head.runs.filter(({ plan }) => plan);
  byId("plan").hidden = !runs.length;
  document.querySelector('nav a[href="#plan"]').hidden = !runs.length;
  byId("plan-tables").replaceChildren(...runs.map((run) => table(run)));
}

function table({ name, plan }) {
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": `Plan of ${name}` },
    h(
      "table",
      { class: "planned" },
      h("caption", {}, `${name} on ${plan.machines}. Lengths: ${plan.lengths}.`),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          COLUMNS.map((column) => h("th", { scope: "col" }, column)),
        ),
      ),
      h("tbody", {}, plan.rows.map(row)),
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
