// Which figures there are, and where. A figure whose names no run has is left out; names of no figure go to the rest.
//
// A figure is { id, title, about, names }: `names` are the metrics that it shows, where `*` stands for any part of a name.
// It has a line for each of them, drawn with its `options`, unless it says itself what it draws with `plots`.

import { lines } from "./kinds_of_figure.js";
import { DYNAMICS } from "./panels_dynamics.js";
import { LEARNING } from "./panels_learning.js";
import { TIME } from "./panels_time.js";
import { metricNames } from "./series.js";

const PANELS = Object.entries({ learning: LEARNING, dynamics: DYNAMICS, time: TIME }).flatMap(([section, panels]) =>
  panels.map((panel) => ({ ...panel, section })),
);

/** Every panel with its plots; then the names that no panel takes, by the part before their last slash. */
export function planFigures(head) {
  const taken = PANELS.flatMap(({ names = [] }) => names);
  const left = metricNames(head).filter((name) => name !== "step" && !taken.some((pattern) => covers(pattern, name)));
  const groups = Map.groupBy(left.sort(), (name) => name.split("/").slice(0, -1).join("/") || "other");
  const home = (prefix) => (prefix.startsWith("dynamics") ? "dynamics" : "rest");
  const rest = [...groups].map(([title, names]) => ({ section: home(title), id: `rest-${title}`, title, names }));
  return [...PANELS, ...rest].map((panel) => ({ ...panel, plots: panel.plots ?? lines(panel.names, panel.options) }));
}

function covers(pattern, name) {
  const [start, end] = pattern.split("*");
  return end === undefined
    ? name === pattern
    : name.startsWith(start) && name.endsWith(end) && name.length > pattern.length - 1;
}
