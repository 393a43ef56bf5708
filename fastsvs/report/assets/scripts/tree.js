// The tree of a family: what was made from what, with the solve rate of each; a click goes there.

import { h } from "./dom.js";
import { plural, show } from "./format.js";
import { kindColor } from "./theme.js";

/** The tree of `root`, or nothing for a problem from which nothing was made. `go(group)` shows a group of it. */
export function treeOf(root, focus, go) {
  if (!root.children.length) return null;
  return h("nav", { class: "tree", "aria-label": "Tree of the family" }, h("ul", {}, node(root, focus, go)));
}

function node(group, focus, go) {
  const children = [...group.children].sort((a, b) => (a.sample ?? -1) - (b.sample ?? -1));
  const button = h(
    "button",
    { type: "button", "aria-current": group === focus ? "true" : null, onclick: () => go(group) },
    h("i", { style: { color: `var(${kindColor(group.kind)})` } }),
    h("span", {}, nameOf(group)),
    outcome(group),
  );
  return h(
    "li",
    {},
    button,
    children.length
      ? h(
          "ul",
          {},
          children.map((child) => node(child, focus, go)),
        )
      : null,
  );
}

function nameOf({ kind, sample, above, question }) {
  if (kind === "synthesis") return `written from response ${sample + 1}`;
  const number = above && sample !== null ? ` ${sample + 1}` : "";
  return `${kind}${number}: ${question.replace(/\s+/g, " ").slice(0, 60)}`;
}

/** How often it was solved; of problems that were written, how many were taken and rewarded. */
function outcome({ kind, correct, verified, verdicts, rewards, children }) {
  if (kind === "synthesis") {
    const rewarded = rewards.filter((reward) => reward > 0).length;
    return h("small", {}, `${plural(rewards.length, "problem")}, ${children.length} valid, ${rewarded} rewarded`);
  }
  if (!verdicts.length) return null;
  const share = verified ? correct / verified : 0;
  return [
    h("span", { class: "gauge", style: { "--share": share } }, h("i", {})),
    h("small", {}, `${correct}/${verified}, ${show(share, "share")}`),
  ];
}
