// What of the page an address opens: `#problem=RUN/STEP/KEY`, or `#answer=SET/KEY`.

import { h } from "./dom.js";

/** What the page's address names, or null. */
export function addressed(name) {
  return new URLSearchParams(location.hash.slice(1)).get(name);
}

/** Makes the address one that opens this. */
export function setAddress(name, value) {
  history.replaceState(null, "", `#${name}=${encodeURIComponent(value)}`);
}

/** Calls `open` when the reader puts another such address into the bar. */
export function onAddress(name, open) {
  window.addEventListener("hashchange", () => addressed(name) !== null && open());
}

/** What stands in place of something that the page does not have. */
export function missing(noun, value, reason) {
  return h(
    "p",
    { class: "note missing", role: "alert" },
    `This page has no ${noun} `,
    h("code", {}, value),
    `: ${reason}.`,
  );
}
