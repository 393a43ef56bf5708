// Figures of cells: rows over the steps, the stronger the colour, the larger the number.

import { spelled } from "./format.js";
import { zerosFor } from "./kinds_of_figure.js";
import { align, armCurves, byKind, curve, matches } from "./series.js";
import { armColor } from "./theme.js";
import { unitOf } from "./units.js";

/** How many groups have so many correct samples, step by step: one plot for each experiment and kind. */
export function histogram(prefix) {
  return (head, choice) =>
    [...choice.arms].flatMap((arm) => {
      const names = [...new Set(head.arms[arm].runs.flatMap((run) => Object.keys(head.runs[run].metrics)))];
      const found = names
        .filter((name) => name.startsWith(`${prefix}/`))
        .map((name) => name.slice(prefix.length + 1).split("/"));
      const kinds = [...new Set(found.map(([kind]) => kind))].sort(byKind);
      return kinds.flatMap((kind) => {
        const rows = 1 + Math.max(...found.filter(([each]) => each === kind).map(([, count]) => Number(count)));
        const all = Array.from({ length: rows }, (_, count) => `${prefix}/${kind}/${count}`);
        const counts = all.map((name, count) => [
          `${count} correct`,
          curveOf(head, choice, arm, (run) => zerosFor(run.metrics, all, name)),
        ]);
        const about = { title: `${head.arms[arm].label}, ${kind}`, name: `${prefix}/${kind}`, unit: "count" };
        return cells(counts, arm, about);
      });
    });
}

/** Numbers of each layer, step by step, the first layer at the bottom: one plot for each experiment and number. */
export function byLayer(prefixes) {
  return (head, choice) =>
    [...choice.arms].flatMap((arm) =>
      prefixes.flatMap((prefix) => {
        const layers = matches(head, `${prefix}/layer_*`).map((layer) => [
          `layer ${layer}`,
          curveOf(head, choice, arm, (run) => curve(run, `${prefix}/layer_${layer}`)),
        ]);
        const title = `${head.arms[arm].label}, ${spelled(prefix.split("/").pop())}`;
        return layers.length ? cells(layers, arm, { title, name: prefix, unit: unitOf(prefix) }) : [];
      }),
    );
}

function curveOf(head, choice, arm, read) {
  return armCurves(head, { ...choice, arms: new Set([arm]) }, read)[0]?.mean;
}

/** The plot of the rows, [label, curve] from the bottom; none where one of them has no curve. */
function cells(rows, arm, about) {
  if (rows.some(([, each]) => each === undefined)) return [];
  const color = armColor(arm);
  const { x, series } = align(rows.map(([label, each]) => ({ curve: each, label, color, width: 0 })));
  const values = series.map((each) => each.values);
  const largest = Math.max(1e-9, ...values.flat().map((value) => value ?? 0));
  return [{ x, series, heat: { rows: rows.length, cells: values, largest, color }, ...about }];
}
