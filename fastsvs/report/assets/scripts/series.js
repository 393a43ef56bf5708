// From the columns of runs to curves, one experiment beside another. Pure functions over the head of the document.
//
// A curve is { steps, values }, gaps left out. A figure holds plots, a plot series over common steps.

import { along } from "./along.js";

/** The curve of one metric of one run. */
export function curve(run, name, columns = run.metrics) {
  return dense(columns.step ?? [], columns[name] ?? []);
}

/** The curve of one held-out figure; `field` of its interval, or the plain number. */
export function heldOutCurve(run, name, field = "mean") {
  const steps = Object.keys(run.evaluations)
    .map(Number)
    .sort((a, b) => a - b);
  const at = (step) => {
    const value = run.evaluations[step][name];
    return typeof value === "object" && value !== null ? value[field] : value;
  };
  return dense(steps, steps.map(at));
}

export function dense(steps, values) {
  const kept = steps.map((_, index) => index).filter((index) => typeof values[index] === "number");
  return { steps: kept.map((index) => steps[index]), values: kept.map((index) => values[index]) };
}

/** The mean of curves, at the steps that all of them have. */
function meanCurve(curves) {
  const maps = curves.map(({ steps, values }) => new Map(steps.map((step, index) => [step, values[index]])));
  const steps = curves[0].steps.filter((step) => maps.every((map) => map.has(step)));
  return { steps, values: steps.map((step) => average(maps.map((map) => map.get(step)))) };
}

export function average(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

const POINTS_OF_A_LINE = 60;

/** Steps that a running mean goes over, so that a line has about as many points as can be told apart; 1 is none. */
export function spanOf({ steps }) {
  return steps.length > 2 * POINTS_OF_A_LINE ? 2 * Math.round(steps.length / POINTS_OF_A_LINE / 2) + 1 : 1;
}

/** The mean of each value and its neighbours, `span` in all, fewer at the ends: the value and the mean distance to them,
 * so that what is equal stays exactly so, and a high value leaves no rounding errors in those after it. */
export function runningMean({ steps, values }, span) {
  const reach = (span - 1) / 2;
  const around = (value, index) => {
    const near = values.slice(Math.max(0, index - reach), index + reach + 1);
    return value + near.reduce((sum, each) => sum + (each - value), 0) / near.length;
  };
  return { steps, values: span > 1 ? values.map(around) : values };
}

/** For each experiment of the choice that has any of it: { arm, label, seeds: curves of its runs, mean }, along the
 * axis of the choice. */
export function armCurves(head, { arms, axis }, read) {
  return head.arms
    .map(({ label, runs }, arm) => ({ arm, label, runs: runs.map((run) => head.runs[run]) }))
    .filter(({ arm }) => arms.has(arm))
    .map((found) => ({ ...found, ...seedsOf(found.runs, axis, read) }))
    .filter(({ seeds }) => seeds.length);
}

function seedsOf(runs, axis, read) {
  const found = runs.map((run) => ({ run, curve: read(run) })).filter(({ curve: { steps } }) => steps.length);
  const place = ({ run, curve: each }) => ({ ...along(each, [run], axis), name: run.name, run });
  const seeds = found.map(place).filter(({ steps }) => steps.length);
  if (seeds.length < 2) return { seeds, mean: seeds[0] };
  const mean = meanCurve(found.map((each) => each.curve));
  return {
    seeds,
    mean: along(
      mean,
      found.map(({ run }) => run),
      axis,
    ),
  };
}

/** Series over the union of their steps: what a plot draws. */
export function align(series) {
  const x = [...new Set(series.flatMap(({ curve: { steps } }) => steps))].sort((a, b) => a - b);
  const position = new Map(x.map((step, index) => [step, index]));
  return {
    x,
    series: series.map(({ curve: { steps, values }, ...rest }) => {
      const row = new Array(x.length).fill(null);
      steps.forEach((step, index) => (row[position.get(step)] = values[index]));
      return { ...rest, values: row };
    }),
  };
}

/** What stands for `*` in the names that match the pattern, known kinds first. */
export function matches(head, pattern) {
  const [start, end] = pattern.split("*");
  const names = metricNames(head).filter((name) => name.startsWith(start) && name.endsWith(end ?? ""));
  const found = names.map((name) => name.slice(start.length, name.length - (end ?? "").length));
  return found.filter((part) => part && !part.includes("/")).sort(byKind);
}

export const ORDER = ["all", "original", "synthesis", "variant"];

export function byKind(a, b) {
  const rank = (part) => (ORDER.includes(part) ? ORDER.indexOf(part) : ORDER.length);
  return rank(a) - rank(b) || a.localeCompare(b, "en", { numeric: true });
}

export function metricNames(head) {
  return [...new Set(head.runs.flatMap((run) => Object.keys(run.metrics)))];
}

export function heldOutNames(head) {
  const names = head.runs.flatMap((run) => Object.values(run.evaluations).flatMap((result) => Object.keys(result)));
  return [...new Set(names)].sort(byKindAndK);
}

/** pass@1, pass@2, pass@8, then maj@8: by what is counted, then by k. */
export function byKindAndK(a, b) {
  const late = (name) => Number(!name.startsWith("pass@"));
  return late(a) - late(b) || a.localeCompare(b, "en", { numeric: true });
}
