// What a page's only run or evaluation was: model, data, date, commit, hardware. Several are compared in the table below.

import { copyButton } from "./copy.js";
import { byId, h } from "./dom.js";

const COPIED = ["Commit", "Command"];

export function drawFacts(head) {
  const all = [...head.runs, ...head.evaluations];
  const facts = all.length === 1 ? Object.entries(all[0].facts) : [];
  byId("facts").hidden = !facts.length;
  byId("facts").replaceChildren(...facts.map(([name, value]) => fact(name, value)));
}

function fact(name, value) {
  const copy = COPIED.includes(name) ? copyButton(name.toLowerCase(), () => value) : null;
  return h(
    "div",
    { class: name === "Command" ? "wide" : null },
    h("dt", {}, name),
    h("dd", {}, shortened(name, value), " ", copy),
  );
}

/** A commit as it is mostly written; all of it is what is copied. */
function shortened(name, value) {
  return name === "Commit"
    ? h("code", { title: value }, value.slice(0, 12))
    : name === "Command"
      ? h("code", {}, value)
      : value;
}
