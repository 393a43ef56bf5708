// What figures lie along: steps, or what a run had taken by each of them. Pure functions over a run of the head.

import { compact, show } from "./format.js";

const NAMES = { step: "steps", responses: "responses", tokens: "response tokens", hours: "hours" };

/** What all steps took, by axis: the amount of the step at `index` of a run's columns, or null. */
const AMOUNTS = {
  responses: (columns, index) => total(kinds(columns).map((kind) => columns[`samples/${kind}`][index])),
  tokens: (columns, index) =>
    total(
      kinds(columns).map(
        (kind) => columns[`samples/${kind}`][index] * (columns[`response_tokens/${kind}`]?.[index] ?? 0),
      ),
    ),
  hours: (columns, index) => total([columns["time/step"]?.[index]].map((seconds) => seconds / 3600)),
};

function kinds(columns) {
  return Object.keys(columns)
    .filter((name) => name.startsWith("samples/"))
    .map((name) => name.slice("samples/".length));
}

function total(parts) {
  const there = parts.filter(Number.isFinite);
  return there.length ? there.reduce((sum, part) => sum + part, 0) : null;
}

const sums = new WeakMap();

/** Where a step lies for a run: what it and all steps before it took; null for a run that does not say. */
function place(run, axis, step) {
  if (!sums.has(run)) sums.set(run, {});
  const known = (sums.get(run)[axis] ??= runningSums(run.metrics, axis));
  if (!known.totals.length) return null;
  const after = known.steps.findIndex((each) => each > step);
  return after === 0 ? 0 : known.totals[after < 0 ? known.totals.length - 1 : after - 1];
}

function runningSums(columns, axis) {
  const steps = columns.step ?? [];
  const amounts = steps.map((_, index) => AMOUNTS[axis](columns, index));
  if (!amounts.some((amount) => amount)) return { steps, totals: [] };
  let sum = 0;
  return { steps, totals: amounts.map((amount) => (sum += amount ?? 0)) };
}

/** A curve of steps along another axis, at the mean over the runs that it is of. */
export function along(curve, runs, axis) {
  if (axis === "step") return curve;
  const places = curve.steps.map((step) => {
    const all = runs.map((run) => place(run, axis, step));
    return all.includes(null) ? null : all.reduce((sum, each) => sum + each, 0) / all.length;
  });
  const kept = places.map((_, index) => index).filter((index) => places[index] !== null);
  return { steps: kept.map((index) => places[index]), values: kept.map((index) => curve.values[index]) };
}

/** The axes that some run has, with their names. */
export function axesOf(head) {
  const there = (axis) => axis === "step" || head.runs.some((run) => place(run, axis, Infinity) !== null);
  return Object.entries(NAMES).filter(([axis]) => there(axis));
}

export function axisName(axis) {
  return NAMES[axis];
}

/** A place on an axis in words: "step 4", "1,024 responses". */
export function placeInWords(value, axis) {
  if (axis === "step") return `step ${value}`;
  return axis === "hours" ? show(3600 * value, "seconds") : `${show(Math.round(value), "count")} ${NAMES[axis]}`;
}

/** The same under an axis. */
export function placeTick(value, axis) {
  return axis === "step" ? String(value) : axis === "hours" ? `${compact(value)} h` : compact(value);
}
