// What of the runs' files could not be read, and is therefore not on the page.

import { byId, h } from "./dom.js";
import { plural } from "./format.js";

const SHOWN = 20;

export function drawNotices(head) {
  const lines = [...head.runs, ...head.evaluations, ...head.sheets].flatMap(({ notices }) => notices);
  const rest = lines.length - SHOWN;
  byId("notices").hidden = !lines.length;
  byId("notices").replaceChildren(
    h("p", {}, "Some of what these runs wrote is spoiled, and left out:"),
    h(
      "ul",
      {},
      lines.slice(0, SHOWN).map((line) => h("li", {}, line)),
      rest > 0 ? h("li", {}, `and ${plural(rest, "more notice")}`) : null,
    ),
  );
}
