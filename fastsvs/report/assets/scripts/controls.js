// The controls of the filter: search, run, steps, kind, outcome, reward, learned from or discarded, with tokens or not.

import { h } from "./dom.js";
import { byKind } from "./series.js";
import { kindColor } from "./theme.js";

export function filterControls() {
  const search = h("input", {
    type: "search",
    id: "search",
    placeholder: "Search problems",
    "aria-label": "Search problems",
    "aria-keyshortcuts": "/",
    autocomplete: "off",
  });
  const deep = h("input", { type: "checkbox", id: "deep" });
  const run = choice("run", "Run", []);
  const outcome = choice("outcome", "Verdicts", [
    ["", "any verdicts"],
    ["solved", "all correct"],
    ["mixed", "some correct"],
    ["unsolved", "none correct"],
    ["unverified", "some not verified"],
  ]);
  const reward = choice("reward", "Reward", [
    ["", "any reward"],
    ["positive", "rewarded"],
    ["zero", "reward 0"],
    ["negative", "negative reward"],
  ]);
  const trained = choice("trained", "Use", [
    ["", "learned from or not"],
    ["true", "learned from"],
    ["false", "discarded"],
  ]);
  const logged = h("input", { type: "checkbox", id: "logged" });
  const withTokens = h("label", { class: "check" }, logged, "with tokens");
  const from = h("input", { type: "number", id: "from", "aria-label": "From step", min: 0, inputmode: "numeric" });
  const to = h("input", { type: "number", id: "to", "aria-label": "To step", min: 0, inputmode: "numeric" });
  const kinds = h("span", { class: "kinds", role: "group", "aria-label": "Kinds" });
  const chosen = new Set();
  const element = h(
    "form",
    { class: "controls", role: "search", onsubmit: (event) => event.preventDefault() },
    h("span", { class: "search" }, search, h("label", { class: "check" }, deep, "in responses too")),
    kinds,
    run,
    outcome,
    reward,
    trained,
    h("span", { class: "range" }, "steps ", from, "–", to),
    withTokens,
  );
  const words = () => search.value.toLowerCase().split(/\s+/).filter(Boolean);

  function kindButton(kind) {
    const button = h(
      "button",
      { type: "button", "aria-pressed": String(chosen.has(kind)), style: { "--kind": `var(${kindColor(kind)})` } },
      kind,
    );
    button.addEventListener("click", () => {
      if (!chosen.delete(kind)) chosen.add(kind);
      button.setAttribute("aria-pressed", String(chosen.has(kind)));
      element.dispatchEvent(new Event("input"));
    });
    return button;
  }

  return {
    element,
    search,
    deep,
    words,
    count: h("p", { class: "count", role: "status", id: "count" }),
    /** What is wanted now; `searched` has the groups whose responses match. */
    read: (searched) => ({
      words: words(),
      run: run.value === "" ? null : Number(run.value),
      from: from.value === "" ? 0 : Number(from.value),
      to: to.value === "" ? Infinity : Number(to.value),
      kinds: chosen,
      outcome: outcome.value,
      reward: reward.value,
      trained: trained.value === "" ? null : trained.value === "true",
      responses: deep.checked ? searched.found : null,
      logged: logged.checked,
    }),
    /** Offers the runs, kinds and steps that there are; what is chosen stays. */
    fill: (head, groups) => {
      if (!run.childElementCount) run.append(...["all runs", ...head.runs.map(({ name }) => name)].map(runOption));
      run.hidden = head.runs.length < 2;
      withTokens.hidden = !groups.some((group) => group.logged);
      const found = [...new Set(groups.map(({ kind }) => kind))].sort(byKind);
      if (found.length !== kinds.childElementCount) kinds.replaceChildren(...found.map(kindButton));
      const steps = groups.map(({ step }) => step);
      from.placeholder = String(steps.reduce((low, step) => Math.min(low, step), Infinity));
      to.placeholder = String(steps.reduce((high, step) => Math.max(high, step), 0));
    },
  };
}

function runOption(name, index) {
  return h("option", { value: index ? String(index - 1) : "" }, name);
}

function choice(id, label, options) {
  return h(
    "select",
    { id, "aria-label": label },
    options.map(([value, text]) => h("option", { value }, text)),
  );
}
