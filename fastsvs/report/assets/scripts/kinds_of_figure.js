// The few kinds of figure. Each takes names and gives (head, choice) -> plots, empty when no run has the figures.

import { along } from "./along.js";
import { spelled } from "./format.js";
import {
  align,
  armCurves,
  curve,
  dense,
  heldOutCurve,
  heldOutNames,
  matches,
  ORDER,
  runningMean,
  spanOf,
} from "./series.js";
import { armColor, kindColor } from "./theme.js";
import { unitOf } from "./units.js";

/** Options of lines from zero, and of lines that are also compared with one another. */
export const FROM_ZERO = { zero: true };
export const COMPARED = { ...FROM_ZERO, common: true };

/** One plot for each name, the experiments as lines; in a name `*` makes one plot for each that matches. */
export function lines(patterns, { zero = false, top, titles = {}, common = false } = {}) {
  return (head, choice) => {
    const plots = [...named(head, patterns, titles)].flatMap(([name, title]) => {
      const plot = overlay(
        armCurves(head, choice, (run) => curve(run, name)),
        choice.span,
      );
      return plot ? [{ ...plot, title, name, unit: unitOf(name), zero, top }] : [];
    });
    return common ? onOneScale(plots) : plots;
  };
}

/** Plots of one unit that are to be compared with one another. */
function onOneScale(plots) {
  const values = plots.flatMap(({ series }) => series.flatMap((each) => each.values)).filter((value) => value !== null);
  const extent = values.reduce(
    ([low, high], value) => [Math.min(low, value), Math.max(high, value)],
    [Infinity, -Infinity],
  );
  return plots.map((plot) => ({ ...plot, extent: values.length ? extent : undefined }));
}

/** Name -> title: what stands for `*`, with the name before it where several patterns have one. */
function named(head, patterns, titles) {
  const several = patterns.filter((pattern) => pattern.includes("*")).length > 1;
  const pairs = patterns.flatMap((pattern) => {
    if (!pattern.includes("*")) return [[pattern, titles[pattern] ?? ""]];
    const before = several ? `${spelled(pattern.split("/*")[0].split("/").pop())}: ` : "";
    return matches(head, pattern).map((part) => [
      pattern.replace("*", part),
      titles[pattern] ?? `${before}${spelled(part)}`,
    ]);
  });
  return new Map(pairs);
}

/** The experiments over one another: a line each, over thin ones for its seeds. Of long runs the lines are running
 * means, over their steps in a faint line; what is read off is always the step's own value. */
function overlay(found, wanted, dots = false) {
  if (!found.length) return null;
  const span = wanted ?? Math.max(...found.map(({ mean }) => spanOf(mean)));
  const seeds = found.flatMap(({ arm, seeds: curves, mean }) => {
    const line = { color: armColor(arm), width: 1, alpha: 0.35 };
    if (curves.length > 1)
      return curves.map((each) => ({ ...line, curve: runningMean(each, span), own: each, name: each.name }));
    return span > 1 ? [{ ...line, curve: mean, width: 0.75, alpha: 0.22 }] : [];
  });
  const main = found.map(({ arm, label, mean }) => ({ curve: mean, color: armColor(arm), label, width: 2.25, dots }));
  const calm = main.map((each) => ({ ...each, curve: runningMean(each.curve, span) }));
  const own = [...seeds, ...main].map((each) => ({ curve: each.own ?? each.curve }));
  const readings = align(own).series.map(({ values }) => values);
  return { ...align([...seeds, ...calm]), readings, span };
}

/** Held-out figures against steps, with the 95% interval where an experiment is a single run. */
export function heldOut(wanted) {
  return (head, choice) =>
    heldOutNames(head)
      .filter(wanted)
      .flatMap((name) => {
        const found = armCurves(head, choice, (run) => heldOutCurve(run, name));
        const plot = overlay(found, 1, true);
        if (!plot) return [];
        const single = found.filter(({ seeds }) => seeds.length === 1);
        const edges = single.flatMap(({ arm, seeds: [{ run }] }) =>
          ["high", "low"].map((field) => ({
            curve: along(heldOutCurve(run, name, field), [run], choice.axis),
            color: armColor(arm),
            width: 0,
          })),
        );
        const whole = align([...edges, ...plot.series.map((each) => ({ ...each, curve: dense(plot.x, each.values) }))]);
        const bands = single.map(({ arm }, index) => ({
          upper: 2 * index,
          lower: 2 * index + 1,
          color: armColor(arm),
          alpha: 0.13,
        }));
        const unit = unitOf(name);
        return [{ ...whole, bands, title: spelled(name), name, unit, zero: unit !== "share" }];
      });
}

/** pass@k against k, first (dashed) and last evaluation. */
export function passAgainstK(head, { arms }) {
  const names = heldOutNames(head).filter((name) => /^pass@\d+$/.test(name));
  if (names.length < 3) return [];
  const ks = names.map((name) => Number(name.slice(5)));
  const at = (which) => (run) => {
    const values = names.map((name) => which(heldOutCurve(run, name).values));
    return dense(ks.map(Math.log2), values);
  };
  const [first, last] = [(values) => values[0], (values) => values[values.length - 1]].map((which) =>
    armCurves(head, { arms, axis: "step" }, at(which)),
  );
  if (!last.length) return [];
  const line = (found, word, dash) =>
    found.map(({ arm, label, mean }) => ({
      curve: mean,
      color: armColor(arm),
      label: `${label}, ${word}`,
      dash,
      dots: true,
      alpha: dash ? 0.6 : 1,
    }));
  const plot = align([...line(first, "before", [4, 4]), ...line(last, "after")]);
  const axis = { splits: () => plot.x, labels: ks.map(String), name: "k", at: (x) => `k = ${2 ** x}` };
  return [{ ...plot, axis, title: "", name: "pass@k", unit: "share", zero: false }];
}

const MARKS = [[2, 3], [6, 3], [10, 3, 2, 3], undefined];

/** Parts on top of one another, or each a line with a mark of its own; one plot for each experiment. `read` gives the
 * columns of a run. */
export function stack(pattern, { unit = "count", order, read = (run) => run.metrics, accumulate = true } = {}) {
  return (head, choice) => {
    const parts = order ?? matches(head, pattern);
    const name = (part) => pattern.replace("*", part);
    return [...choice.arms].flatMap((arm) => {
      const only = { ...choice, arms: new Set([arm]) };
      const found = parts.map((part) => [
        part,
        armCurves(head, only, (run) => zerosFor(read(run), parts.map(name), name(part)))[0]?.mean,
      ]);
      const there = found.filter(([, mean]) => mean?.values.some((value) => value));
      if (!there.length) return [];
      const flat = align(
        there.map(([part, mean]) => ({ curve: mean, label: part, color: partColor(part, parts.indexOf(part)) })),
      );
      const about = { title: head.arms[arm].label, name: pattern, unit, zero: true };
      if (!accumulate) return [{ ...flat, ...about, series: marked(flat.series, parts) }];
      const piled = pile(flat);
      const series = piled.series.map((each, index) => ({ ...each, width: 0, fill: index ? undefined : 0.8 }));
      const readings = flat.series.map((each) => each.values);
      return [{ ...piled, ...about, series, bands: layers(series), readings, stacked: true }];
    });
  };
}

/** Lines that can be told apart without their colours. */
function marked(series, parts) {
  return series.map((each) => ({ ...each, width: 2, dash: MARKS[parts.indexOf(each.label) % MARKS.length] }));
}

function partColor(part, index) {
  return ORDER.includes(part) ? kindColor(part) : `--part-${index % 8}`;
}

/** The curve of one of several names that belong together: zero at steps that have others of them, but not this one. */
export function zerosFor(columns, names, name) {
  const there = (index) => names.some((each) => typeof columns[each]?.[index] === "number");
  const rows = (columns.step ?? []).map((_, index) => index).filter(there);
  return { steps: rows.map((index) => columns.step[index]), values: rows.map((index) => columns[name]?.[index] ?? 0) };
}

/** Each series on top of those before it. */
function pile({ x, series }) {
  const level = x.map(() => 0);
  return {
    x,
    series: series.map((each) => ({
      ...each,
      values: each.values.map((value, index) => (level[index] += value ?? 0)),
    })),
  };
}

function layers(series) {
  return series.slice(1).map((each, index) => ({ upper: index + 1, lower: index, color: each.color, alpha: 0.8 }));
}

/** Quantiles over tokens: from the 10th to the 90th as a band, the median as a line, the 99th dotted. */
export function quantiles(prefix) {
  return (head, choice) => {
    const plots = matches(head, `${prefix}/*/p50`).map((kind) => {
      const read = (quantile) => armCurves(head, choice, (run) => curve(run, `${prefix}/${kind}/${quantile}`));
      const medians = read("p50");
      const edges = [read("p90"), read("p10")];
      const series = [
        ...edges.flatMap((found) =>
          found.map(({ arm, mean }) => ({ curve: mean, color: armColor(arm), width: 0.75, alpha: 0.5 })),
        ),
        ...read("p99").map(({ arm, label, mean }) => ({
          curve: mean,
          color: armColor(arm),
          width: 1,
          dash: [2, 3],
          label: `${label} p99`,
        })),
        ...medians.map(({ arm, label, mean }) => ({ curve: mean, color: armColor(arm), label: `${label} median` })),
      ];
      const [upper, lower] = edges.map((found) => found.map(({ arm }) => arm));
      const bands = upper.flatMap((arm, index) =>
        lower.includes(arm)
          ? [{ upper: index, lower: upper.length + lower.indexOf(arm), color: armColor(arm), alpha: 0.14 }]
          : [],
      );
      return { ...align(series), bands, title: kind, name: `${prefix}/${kind}`, unit: "nats", zero: true };
    });
    return onOneScale(plots);
  };
}

/** Means by position: the first measured step (dashed) and the last. */
export function profile(prefix, { unit, title }) {
  return (head, { arms }) => {
    const buckets = matches(head, `${prefix}/*`)
      .map(Number)
      .sort((a, b) => a - b);
    if (!buckets.length) return [];
    const names = buckets.map((bucket) => [`${prefix}/${bucket.toFixed(1)}`, `${prefix}/${bucket}`]);
    const at = (which) => (run) =>
      dense(
        buckets,
        names.map(([long, short]) => which((long in run.metrics ? curve(run, long) : curve(run, short)).values)),
      );
    const [first, last] = [(values) => values[0], (values) => values[values.length - 1]].map((which) =>
      armCurves(head, { arms, axis: "step" }, at(which)),
    );
    const line = (found, word, dash) =>
      found.map(({ arm, label, mean }) => ({
        curve: mean,
        color: armColor(arm),
        label: `${label}, ${word}`,
        dash,
        alpha: dash ? 0.6 : 1,
      }));
    const plot = align([...line(first, "first", [4, 4]), ...line(last, "last")]);
    const axis = { splits: () => plot.x, labels: plot.x.map(String), name: title, at: (x) => `${title} ${x}` };
    return [{ ...plot, axis, title, name: prefix, unit, zero: true }];
  };
}
