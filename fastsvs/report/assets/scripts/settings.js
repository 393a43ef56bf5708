// Configuration and environment, one column for each experiment: what differs; all keys when one searches.

import { byId, h } from "./dom.js";

export function drawSettings(head) {
  const box = byId("settings-table");
  if (box.childElementCount) return fillSettings(head);
  const search = h("input", {
    type: "search",
    id: "settings-search",
    placeholder: "Find a key or a value",
    "aria-label": "Find a key or a value",
  });
  const all = h("input", { type: "checkbox", id: "settings-all" });
  box.append(
    h("div", { class: "controls" }, search, h("label", { class: "check" }, all, "also what is equal")),
    h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Configuration" },
      h("table", { class: "settings" }),
    ),
  );
  [search, all].forEach((control) => control.addEventListener("input", () => fillSettings(settingsHead)));
  return fillSettings(head);
}

let settingsHead = null;

function fillSettings(head) {
  settingsHead = head;
  const words = byId("settings-search").value.trim().toLowerCase();
  const alone = head.runs.length + head.evaluations.length === 1;
  byId("settings-all").parentElement.hidden = alone;
  const everything = alone || byId("settings-all").checked || words !== "";
  const rows = head.settings
    .filter(({ differs }) => everything || differs)
    .filter(({ key, values }) => [key, ...values].join(" ").toLowerCase().includes(words));
  const columns = columnsOf(head);
  const cell = ({ label, at }, values) =>
    h("td", { "data-label": columns.length > 1 ? label : null }, distinct(at.map((index) => values[index])));
  const cells = ({ values }) => columns.map((column) => cell(column, values));
  const body = rows.map((setting) =>
    h("tr", { class: setting.differs ? "differs" : null }, h("th", { scope: "row" }, setting.key), cells(setting)),
  );
  const nothing = h(
    "tr",
    {},
    h("td", { colspan: columns.length + 1 }, words ? "Nothing matches." : "Nothing differs."),
  );
  byId("settings-table")
    .querySelector("table")
    .replaceChildren(
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, "Key"),
          columns.map(({ label }) => h("th", { scope: "col" }, label)),
        ),
      ),
      h("tbody", {}, body.length ? body : nothing),
    );
}

/** A column for each experiment, then for each evaluation: its label, and the positions of its values. */
function columnsOf({ arms, runs, evaluations }) {
  return [
    ...arms.map(({ label, runs: at }) => ({ label, at })),
    ...evaluations.map(({ name }, index) => ({ label: name, at: [runs.length + index] })),
  ];
}

/** The values of an experiment's runs: one if they agree. */
function distinct(values) {
  return [...new Set(values)].map((value) => h("div", {}, value ?? "–"));
}
