// What stands above the held-out answers: which two evaluations, their figures, and the filter.

import { h } from "./dom.js";
import { grouped, plural, show } from "./format.js";
import { difference, firstPair, hasTokens, TURNS } from "./pairs.js";

/** The choice of set, older and newer sheet, and the filter of their problems; `onPair` is called for another pair. */
export function pairControls(onPair) {
  const set = picker("answer-set", "Set", () => refill());
  const before = picker("answer-before", "Before", onPair);
  const after = picker("answer-after", "After", onPair);
  const search = h("input", {
    type: "search",
    id: "answer-search",
    placeholder: "Search held-out problems",
    "aria-label": "Search held-out problems",
    autocomplete: "off",
  });
  const order = h(
    "select",
    { id: "answer-order", "aria-label": "Order" },
    [
      ["set", "order of the set"],
      ["gained", "most gained first"],
      ["lost", "most lost first"],
    ].map(([value, text]) => h("option", { value }, text)),
  );
  const logged = h("input", { type: "checkbox", id: "answer-logged" });
  const withTokens = h("label", { class: "check" }, logged, "with tokens");
  const turns = h("span", { class: "turns", role: "group", "aria-label": "What became of them" });
  const wantedTurns = new Set();
  let head = null;

  const filter = h(
    "form",
    {
      class: "controls",
      role: "search",
      "aria-label": "Held-out problems",
      onsubmit: (event) => event.preventDefault(),
    },
    search,
    turns,
    order,
    withTokens,
  );

  function refill(keep = {}) {
    const of = [...head.sheets.keys()].filter((index) => head.sheets[index].set === set.select.value);
    const start = firstPair(head.sheets, set.select.value);
    const options = of.map((index) => [String(index), head.sheets[index].label]);
    before.offer([["", "nothing"], ...options], keep.before ?? String(start.before ?? ""));
    after.offer(options, keep.after ?? String(start.after));
    for (const element of [before.label, after.label, order]) element.hidden = of.length < 2;
    if (!keep.quiet) onPair();
  }

  return {
    choice: h("div", { class: "controls pair" }, set.label, before.label, after.label),
    filter,
    search,
    chosenSet: () => set.select.value,
    /** Takes another set, if there is one of this name, with the pair that it begins with. */
    chooseSet(name) {
      if (name === set.select.value || !head.sheets.some((sheet) => sheet.set === name)) return;
      set.select.value = name;
      refill({ quiet: true });
    },
    chosen: () => ({
      before: before.select.value === "" ? null : Number(before.select.value),
      after: Number(after.select.value),
    }),
    wanted: () => ({
      words: search.value.toLowerCase().split(/\s+/).filter(Boolean),
      turns: wantedTurns,
      order: order.value,
      logged: logged.checked && !withTokens.hidden,
    }),
    /** Offers the sets and sheets that there are; a pair that the reader chose stays. */
    fill(next) {
      const labels = (each) => each?.sheets.map((sheet) => `${sheet.set} ${sheet.label}`).join("\n");
      const same = labels(head) === labels(next);
      const keep = { quiet: true, ...(same ? { before: before.select.value, after: after.select.value } : {}) };
      head = next;
      const sets = [...new Set(head.sheets.map((sheet) => sheet.set))];
      set.offer(
        sets.map((name) => [name, name]),
        sets.includes(set.select.value) ? set.select.value : sets[0],
      );
      set.label.hidden = sets.length < 2;
      refill(keep);
    },
    /** A button for each turn that some problem took; pressed, only those stay in the list. The choice of those with
     * tokens is there where some have them. */
    count(pairs) {
      withTokens.hidden = !pairs.some(hasTokens);
      const there = Object.keys(TURNS).filter((turn) => pairs.some((one) => one.turn === turn));
      [...wantedTurns].filter((turn) => !there.includes(turn)).forEach((turn) => wantedTurns.delete(turn));
      turns.replaceChildren(...there.map((turn) => turnButton(turn, pairs, wantedTurns, filter)));
    },
  };
}

function turnButton(turn, pairs, wantedTurns, filter) {
  const count = pairs.filter((one) => one.turn === turn).length;
  const button = h(
    "button",
    { type: "button", class: `turn ${turn}`, "aria-pressed": String(wantedTurns.has(turn)) },
    `${TURNS[turn]} `,
    h("b", {}, grouped(count)),
  );
  button.addEventListener("click", () => {
    if (!wantedTurns.delete(turn)) wantedTurns.add(turn);
    button.setAttribute("aria-pressed", String(wantedTurns.has(turn)));
    filter.dispatchEvent(new Event("input"));
  });
  return button;
}

function picker(id, word, onChange) {
  const select = h("select", { id, onchange: onChange });
  return {
    select,
    label: h("label", {}, `${word} `, select),
    offer(options, chosen) {
      select.replaceChildren(...options.map(([value, text]) => h("option", { value }, text)));
      select.value = chosen;
    },
  };
}

/** The figures of the two sheets, and how they differ over the problems that both have. */
export function pairTable(before, after, pairs) {
  const names = Object.keys({ ...before?.rates, ...after.rates });
  const shared = pairs.filter((one) => one.before).length;
  const row = (name) => {
    const [, kind, k] = name.match(/^(\w+)@(\d+)$/) ?? [];
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, name),
      before ? h("td", { "data-label": "Before" }, share(before.rates[name])) : null,
      h("td", { "data-label": before ? "After" : "Share" }, share(after.rates[name])),
      before
        ? h("td", { "data-label": "Difference" }, points(difference(pairs, kind, Number(k))))
        : null,
    );
  };
  const columns = before ? ["Figure", "Before", "After", "Difference in points"] : ["Figure", "Share"];
  const about = before
    ? `${plural(shared, "problem")} in both. Difference: mean over them, with a 95% interval (1.96 standard errors of the paired differences).`
    : `${after.label}: ${plural(pairs.length, "problem")}.`;
  return h(
    "table",
    { class: "pair-table" },
    h("caption", {}, `${about} Shares are with 95% intervals over problems.`),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        columns.map((name) => h("th", { scope: "col" }, name)),
      ),
    ),
    h(
      "tbody",
      {},
      names.length
        ? names.map(row)
        : h("tr", {}, h("td", { colspan: columns.length }, "No figures yet: the set is not done.")),
    ),
  );
}

function share(rate) {
  if (!rate) return show(null);
  const [mean, low, high] = rate;
  return [h("b", {}, show(mean, "share")), h("small", {}, ` ${percent(low)}–${percent(high)}%`)];
}

function points(found) {
  if (!found) return show(null);
  const sign = (value) => `${value > 0 ? "+" : ""}${percent(value)}`.replace("-", "−");
  const clear = found.low > 0 ? "gain" : found.high < 0 ? "loss" : null;
  return [h("b", { class: clear }, sign(found.mean)), h("small", {}, ` ${sign(found.low)} to ${sign(found.high)}`)];
}

function percent(value) {
  return (100 * value).toFixed(1);
}
