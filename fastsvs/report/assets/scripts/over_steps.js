// One problem at several steps: a bar as high as the share of its correct samples for each.

import { h } from "./dom.js";
import { show } from "./format.js";

/** Points are { label, correct, samples } and `open`, for those that can be opened, and whether it is `current`. */
export function overSteps(title, points) {
  return h("section", { class: "answered" }, h("h4", {}, title), h("ol", { class: "over-steps" }, points.map(stepOf)));
}

function stepOf({ label, correct, samples, open, current }) {
  const share = samples ? correct / samples : 0;
  const parts = [
    h("span", { class: "column", style: { "--share": share } }, h("i", {})),
    h("b", {}, show(share, "share")),
    h("small", {}, label),
  ];
  const about = `${label}: ${correct} of ${samples} correct`;
  if (!open) return h("li", { title: about }, parts);
  return h(
    "li",
    {},
    h("button", { type: "button", title: about, "aria-current": current ? "true" : null, onclick: open }, parts),
  );
}
