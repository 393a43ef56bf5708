// How the reader wants all figures: along which axis, how smooth, on a log scale, and which of them.

import { axesOf } from "./along.js";
import { byId, h } from "./dom.js";

const SMOOTH = [
  ["", "smooth long runs"],
  ["1", "every step"],
  ["5", "mean of 5 steps"],
  ["11", "mean of 11 steps"],
  ["25", "mean of 25 steps"],
  ["51", "mean of 51 steps"],
];

const axis = h("select", { id: "axis", "aria-label": "Figures along" });
const smooth = h(
  "select",
  { id: "smooth", "aria-label": "Smoothing" },
  SMOOTH.map(([value, text]) => h("option", { value }, text)),
);
const log = h("input", { type: "checkbox", id: "log" });
const search = h("input", {
  type: "search",
  id: "figure-search",
  placeholder: "Find a metric",
  "aria-label": "Find a metric",
  autocomplete: "off",
});

/** Puts the controls up, once, and offers the axes that there are. `onView` is called for another view. */
export function drawView(head, onView) {
  const offered = axesOf(head);
  if (axis.childElementCount !== offered.length) {
    const chosen = axis.value;
    axis.replaceChildren(...offered.map(([value, text]) => h("option", { value }, `by ${text}`)));
    if (offered.some(([value]) => value === chosen)) axis.value = chosen;
  }
  if (byId("view").childElementCount) return;
  byId("view").append(search, axis, smooth, h("label", { class: "check" }, log, "log scale"));
  byId("view").addEventListener("submit", (event) => event.preventDefault());
  byId("view").addEventListener("input", onView);
}

/** What is wanted now: { axis, span, log, words }; a `span` of null is what suits the length of the run. */
export function wantedView() {
  return {
    axis: axis.value || "step",
    span: smooth.value ? Number(smooth.value) : null,
    log: log.checked,
    words: search.value.toLowerCase().split(/\s+/).filter(Boolean),
  };
}
