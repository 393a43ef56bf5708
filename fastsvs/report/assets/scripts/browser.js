// The browser of problems: filter, list, and the family of what is chosen.

import { filterControls } from "./controls.js";
import { byId, h } from "./dom.js";
import { badge, descendants, familyView, VERDICT } from "./family.js";
import { linkGroups, passes, rootOf } from "./filter.js";
import { grouped, plural } from "./format.js";
import { keyHint, startKeys } from "./keys.js";
import { virtualList } from "./list.js";
import { pieces, rendered } from "./maths.js";
import { overSteps } from "./over_steps.js";
import { addressed, missing, onAddress, setAddress } from "./permalink.js";
import { get } from "./source.js";

const STEP_CACHE = 24;

export function problemBrowser(state) {
  const parts = browserParts();
  const { controls, list, pane } = parts;
  byId("browser").replaceChildren(
    h(
      "div",
      { class: "browser" },
      controls.element,
      h("div", { class: "panes" }, h("div", { class: "side" }, controls.count, list), pane),
    ),
  );
  let groups = [];
  const searched = { words: "", found: new Set(), round: 0 };
  let opened = null;
  const rows = virtualList(list, {
    draw: (group) => rowOf(state.head, group),
    choose: (group, deliberately) => open(group, deliberately),
  });

  const texts = cached(STEP_CACHE, (run, step) => get(`texts/${run}/${step}`));
  const tokens = cached(STEP_CACHE, (run, step) => get(`tokens/${run}/${step}`));

  function refresh(stay = false) {
    const wanted = controls.read(searched);
    const found = groups.filter((group) => passes(group, wanted));
    rows.fill(found, opened?.id ?? null, stay);
    controls.count.textContent = `${grouped(found.length)} of ${plural(groups.length, "problem")}`;
    list.setAttribute("aria-label", `${plural(found.length, "problem")}`);
    list.classList.toggle("empty", found.length === 0);
  }

  async function open(group, deliberately, stay = false) {
    opened = group;
    setAddress("problem", group.id);
    const root = rootOf(group);
    const logged = familyOf(group).some((each) => each.logged);
    const found = await Promise.all([
      texts(group.run, group.step),
      logged ? tokens(group.run, group.step) : null,
    ]);
    if (opened !== group) return;
    const scroll = pane.scrollTop;
    pane.replaceChildren(
      parts.back,
      familyView(state.head, root, group, { texts: found[0] ?? {}, tokens: found[1] ?? {} }, followed(root)),
    );
    pane.classList.add("filled");
    if (stay) pane.scrollTop = scroll;
    else revealIn(pane, pane.querySelector("[data-focus]"));
    if (deliberately) {
      parts.root().classList.add("open");
      pane.querySelector("[data-focus]")?.focus({ preventScroll: true });
    }
  }

  /** The problem of `root` at all steps that asked it, of all runs; nothing when there is but one. */
  function followed(root) {
    const same = groups.filter(({ kind, problem }) => kind === root.kind && problem && problem === root.problem);
    if (same.length < 2 || root.kind !== "original") return null;
    const several = new Set(same.map(({ run }) => run)).size > 1;
    const point = (each) => ({
      label: several ? `${state.head.runs[each.run].name}, step ${each.step}` : `step ${each.step}`,
      correct: each.correct,
      samples: each.verified,
      current: each === root,
      open: () => open(each, true).then(() => refresh(true)),
    });
    return overSteps("This problem over the steps", same.sort((a, b) => a.run - b.run || a.step - b.step).map(point));
  }

  /** Opens what the address names, or says that it is not here. */
  function openAddressed() {
    const wanted = addressed("problem");
    const group = groups.find(({ id }) => id === wanted);
    if (group) open(group, true).then(() => refresh());
    else if (wanted !== null) {
      pane.replaceChildren(
        parts.back,
        missing("problem", wanted, "another run's, or not among those that it has room for"),
      );
      pane.classList.add("filled");
      parts.root().classList.add("open");
    }
    if (wanted !== null) byId("problems").scrollIntoView({ behavior: "instant" });
  }

  function close() {
    parts.root().classList.remove("open");
    list.focus({ preventScroll: true });
  }

  /** Also looks through the responses, step by step, when asked to; each search ends the one before. */
  async function searchResponses() {
    const round = (searched.round += 1);
    const words = controls.words();
    searched.found = new Set();
    if (!controls.deep.checked || !words.length) return refresh();
    for (const [run, step] of stepsOf(groups)) {
      const found = await texts(run, step);
      if (searched.round !== round) return;
      for (const [key, responses] of Object.entries(found ?? {})) {
        const text = responses.join("\n").toLowerCase();
        if (words.every((word) => text.includes(word))) searched.found.add(`${run}/${step}/${key}`);
      }
    }
    refresh();
  }

  controls.element.addEventListener("input", (event) => {
    refresh();
    if (event.target === controls.search || event.target === controls.deep) searchResponses();
  });
  parts.back.addEventListener("click", close);
  onAddress("problem", openAddressed);
  startKeys({ root: parts.root(), search: controls.search, list, pane, rows, close });

  return {
    /** New groups: filter, selection and scroll stay as they are. */
    fill(head, perRun) {
      const first = groups.length === 0;
      groups = linkGroups(perRun);
      controls.fill(head, groups);
      texts.clear();
      tokens.clear();
      const again = groups.find(({ id }) => id === opened?.id);
      if (again && contentsOf(again) !== contentsOf(opened)) open(again, false, true);
      else opened = again ?? opened;
      refresh(!first);
      if (first) openAddressed();
    },
  };
}

function familyOf(group) {
  const root = rootOf(group);
  return [root, ...descendants(root)];
}

/** A family that has as many groups and tokens as before is the same: a step's samples are written once, and its tokens
 * once after them. */
function contentsOf(group) {
  const all = familyOf(group);
  return `${all.length} groups, ${all.filter(({ logged }) => logged).length} with tokens`;
}

function browserParts() {
  const list = h("div", { class: "list", role: "listbox", tabindex: 0, id: "list" });
  const pane = h(
    "div",
    { class: "pane", id: "family", tabindex: -1, role: "region", "aria-label": "Family" },
    keyHint("Choose a problem to see its family."),
  );
  return {
    controls: filterControls(),
    list,
    pane,
    back: h("button", { type: "button", class: "back" }, "← Problems"),
    root: () => byId("browser").firstElementChild,
  };
}

/** One line for a group: what it is, how it went, how the problem begins. */
function rowOf(head, group) {
  const letters = [...group.verdicts.slice(0, 32)].map((letter) => h("i", { class: VERDICT[letter].class }));
  const dots = letters.length
    ? letters
    : group.rewards.slice(0, 32).map((reward) => h("i", { class: reward > 0 ? "rewarded" : "unchecked" }));
  return [
    h(
      "p",
      { class: "tags" },
      badge(group.kind),
      h("span", {}, `step ${group.step}`),
      head.runs.length > 1 ? h("span", { class: "of" }, head.runs[group.run].name) : null,
      group.logged ? h("span", { title: "with the tokens of its responses" }, "tokens") : null,
      h("span", { class: "dots", "aria-label": `${group.correct} of ${group.verified} correct` }, dots),
    ),
    h("p", { class: "snippet" }, pieces(group.question).map(rendered)),
  ];
}

function revealIn(pane, element) {
  pane.scrollTop = 0;
  if (element && !element.matches(".family > .card"))
    pane.scrollTop = Math.max(0, element.getBoundingClientRect().top - pane.getBoundingClientRect().top - 48);
}

function stepsOf(groups) {
  const seen = new Map(groups.map(({ run, step }) => [`${run}/${step}`, [run, step]]));
  return [...seen.values()];
}

/** Remembers the last `size` answers of an asynchronous function. */
function cached(size, read) {
  const known = new Map();
  const ask = (...key) => {
    const name = key.join("/");
    if (!known.has(name)) known.set(name, read(...key));
    if (known.size > size) known.delete(known.keys().next().value);
    return known.get(name);
  };
  ask.clear = () => known.clear();
  return ask;
}
