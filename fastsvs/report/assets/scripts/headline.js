// The head of the page: one sentence, and the table whose cells show what they say.

import { byId, h, present, s } from "./dom.js";
import { listed, plural, show } from "./format.js";
import { average, byKindAndK } from "./series.js";
import { armColor } from "./theme.js";

export function drawHeadline(head) {
  const all = head.runs.flatMap((run) => Object.keys(run.headline.held_out));
  const names = [...new Set(all)].filter((name) => /^pass@/.test(name)).sort(byKindAndK);
  byId("lede").textContent = lede(head, names);
  byId("standfirst").textContent = standfirst(head);
  const shown = names.length > 3 ? [names[0], names[Math.floor(names.length / 2)], names[names.length - 1]] : names;
  const scales = new Map(shown.map((name) => [name, scaleOf(head, name)]));
  const columns = [
    "Experiment",
    "Steps",
    ...shown.map((name) => `Held-out ${name}`),
    "Entropy in nats, first → last",
    "Responses learned from",
    "Training time",
  ];
  const rows = head.arms.flatMap((arm, index) => {
    const one = arm.runs.length === 1;
    const seeds = arm.runs.map((run) => runRow(head.runs[run], index, scales, columns, one ? arm.label : null));
    return one ? seeds : [armRow(head, arm, index, scales, columns), ...seeds];
  });
  byId("headline").replaceChildren(
    h(
      "table",
      { class: "headline" },
      caption(head, names),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          columns.map((name) => h("th", { scope: "col" }, name)),
        ),
      ),
      h("tbody", {}, rows),
    ),
  );
}

/** What the cells mean, where it does not stand above them. */
function caption(head, names) {
  const parts = [
    names.length ? "before training → after, with 95% intervals over problems" : null,
    head.arms.some(({ runs }) => runs.length > 1) ? "an experiment with several seeds shows their mean" : null,
  ];
  const words = present(parts).join("; ");
  return words ? h("caption", {}, `${words[0].toUpperCase()}${words.slice(1)}.`) : null;
}

/** The result in words: nothing but the numbers of the table. */
function lede(head, names) {
  if (!names.length) {
    const steps = head.runs.map((run) => run.headline.steps);
    const upTo = steps.every((count) => count === steps[0]) ? "" : "up to ";
    const which =
      head.arms.length > MOST_NAMED ? `${head.arms.length} experiments` : listed(head.arms.map(({ label }) => label));
    return `${which}: ${upTo}${plural(Math.max(...steps), "step")}`;
  }
  if (head.arms.length > MOST_NAMED) return ledeOfMany(head, names[0]);
  const parts = head.arms.map((arm) => {
    const found = meanHeldOut(head, arm, names[0]);
    if (!found) return `${arm.label} not evaluated${ended(head, arm) ? "" : " yet"}`;
    const before = show(found.before, "share");
    return found.after === null
      ? `${arm.label} begins at ${before}`
      : `${arm.label} from ${before} to ${show(found.after, "share")}`;
  });
  return `Held-out ${names[0]}: ${listed(parts)}`;
}

const MOST_NAMED = 3;

function ended(head, arm) {
  return arm.runs.every((run) => head.runs[run].finished);
}

/** Of many experiments the best, and how many there are. */
function ledeOfMany(head, name) {
  const ends = head.arms
    .map((arm) => ({ label: arm.label, ...meanHeldOut(head, arm, name) }))
    .filter(({ after }) => typeof after === "number")
    .sort((a, b) => b.after - a.after);
  if (!ends.length) return `Held-out ${name} of ${head.arms.length} experiments: none has ended`;
  const [best] = ends;
  const range = `from ${show(best.before, "share")} to ${show(best.after, "share")}`;
  return `Held-out ${name} of ${head.arms.length} experiments: ${best.label} ends highest, ${range}`;
}

function standfirst(head) {
  const groups = head.arms.map((arm) => `${plural(arm.runs.length, "run")} of ${arm.label}`);
  const which = head.runs.length === 1 ? `Run ${head.runs[0].name}` : listed(groups);
  const underway = head.runs.filter((run) => !run.finished && run.planned_steps);
  const state = underway.map((run) => `${run.name} is at step ${run.headline.steps} of ${run.planned_steps}`);
  const what =
    head.arms.length > MOST_NAMED ? `${plural(head.runs.length, "run")} of ${head.arms.length} experiments` : which;
  return `${what}. ${state.length ? `${state.join("; ")}.` : ""}`;
}

function meanHeldOut(head, arm, name) {
  const found = arm.runs.map((run) => head.runs[run].headline.held_out[name]).filter(Boolean);
  if (!found.length) return null;
  const after = found.filter((each) => each.after).map((each) => each.after.mean);
  return {
    before: average(found.map((each) => each.before.mean)),
    after: after.length === found.length ? average(after) : null,
  };
}

function armRow(head, arm, index, scales, columns) {
  const all = arm.runs.map((run) => head.runs[run].headline);
  const mean = (read) => (all.every((each) => read(each) !== null) ? average(all.map(read)) : null);
  const cells = [
    [nameCell(arm.label, index, `mean of ${arm.runs.length} seeds`)],
    [h("span", {}, show(Math.max(...all.map((each) => each.steps)), "count"))],
    ...[...scales].map(([name, scale]) => {
      const found = meanHeldOut(head, arm, name);
      return found
        ? change({ mean: found.before }, found.after === null ? null : { mean: found.after }, scale, armColor(index))
        : [show(null)];
    }),
    entropyCell(
      mean((each) => each.entropy_first),
      mean((each) => each.entropy_last),
    ),
    [
      show(
        mean((each) => each.learned_from),
        "count",
      ),
    ],
    [
      show(
        mean((each) => each.seconds),
        "seconds",
      ),
    ],
  ];
  return tableRow(cells, columns, "arm");
}

function runRow(run, index, scales, columns, label) {
  const { headline } = run;
  const steps =
    run.finished || !run.planned_steps ? show(headline.steps, "count") : `${headline.steps} of ${run.planned_steps}`;
  const cells = [
    [nameCell(label ?? run.name, index, label ? run.name : null, !label)],
    [steps],
    ...[...scales].map(([name, scale]) => {
      const found = headline.held_out[name];
      return found ? change(found.before, found.after, scale, armColor(index)) : [show(null)];
    }),
    entropyCell(headline.entropy_first, headline.entropy_last),
    [show(headline.learned_from, "count")],
    [show(headline.seconds, "seconds")],
  ];
  return tableRow(cells, columns, label ? "arm" : "seed");
}

function tableRow(cells, columns, kind) {
  return h(
    "tr",
    { class: kind },
    cells.map((cell, index) =>
      h(index ? "td" : "th", { "data-label": columns[index], scope: index ? null : "row" }, cell),
    ),
  );
}

function nameCell(name, arm, note, minor = false) {
  return h(
    "span",
    { class: "name" },
    minor ? null : h("i", { style: { background: `var(${armColor(arm)})` } }),
    name,
    note ? h("small", {}, note) : null,
  );
}

function entropyCell(first, last) {
  return [h("span", { class: "change" }, `${show(first, "nats")} → `, h("b", {}, show(last, "nats")))];
}

/** Before and after as numbers, with the newer interval, and as a drawing on the column's common scale. */
function change(before, after, scale, tint) {
  const numbers = h(
    "span",
    { class: "change" },
    `${show(before.mean, "share")} → `,
    h("b", {}, show(after?.mean, "share")),
  );
  const newest = after ?? before;
  const range = newest.low === undefined ? null : h("small", {}, `${percent(newest.low)}–${percent(newest.high)}%`);
  return [numbers, " ", range, dumbbell(before, after, scale, tint)];
}

function percent(value) {
  return (100 * value).toFixed(1);
}

const WIDE = 120;

function dumbbell(before, after, [low, high], tint) {
  const at = (value) => 4 + ((value - low) / (high - low || 1)) * (WIDE - 8);
  const span = ({ low: from, high: to }, y, alpha) =>
    from === undefined
      ? null
      : s("line", {
          x1: at(from),
          x2: at(to),
          y1: y,
          y2: y,
          stroke: `var(${tint})`,
          "stroke-width": 3,
          opacity: alpha,
          "stroke-linecap": "round",
        });
  return s(
    "svg",
    { class: "dumbbell", viewBox: `0 0 ${WIDE} 18`, width: WIDE, height: 18, "aria-hidden": "true" },
    s("line", { x1: 0, x2: WIDE, y1: 9, y2: 9, class: "track" }),
    span(before, 9, 0.18),
    after ? span(after, 9, 0.4) : null,
    after
      ? s("line", {
          x1: at(before.mean),
          x2: at(after.mean),
          y1: 9,
          y2: 9,
          stroke: `var(${tint})`,
          "stroke-width": 1.5,
        })
      : null,
    s("circle", { cx: at(before.mean), cy: 9, r: 3.25, class: "before", stroke: `var(${tint})` }),
    after ? s("circle", { cx: at(after.mean), cy: 9, r: 4, fill: `var(${tint})` }) : null,
  );
}

function scaleOf(head, name) {
  const ends = head.runs
    .map((run) => run.headline.held_out[name])
    .filter(Boolean)
    .flatMap(({ before, after }) => [before.low, before.high, ...(after ? [after.low, after.high] : [])]);
  return [Math.min(...ends), Math.max(...ends)];
}
