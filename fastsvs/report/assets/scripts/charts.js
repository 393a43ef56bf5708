// One plot on a canvas, with uPlot: quiet axes, a crosshair that all plots over steps share.

/* global uPlot */
import { placeTick } from "./along.js";
import { tick } from "./format.js";
import { color } from "./theme.js";

const FONT = "11px system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
const WHOLE = [1, 2, 5]
  .flatMap((digit) => Array.from({ length: 9 }, (_, power) => digit * 10 ** power))
  .sort((a, b) => a - b);
/** Distances of marks in seconds that are whole in the unit they are written in. */
const DURATIONS = [
  ...[-4, -3, -2, -1].flatMap((power) => [1, 2, 5].map((digit) => Number(`${digit}e${power}`))),
  ...[1, 60].flatMap((unit) => [1, 2, 5, 10, 20, 30].map((count) => count * unit)),
  ...WHOLE.map((count) => 3600 * count),
];
/** Pixels between two marks at the least: so few that even the lowest plot has two. */
const CLOSEST = 30;
/** Relative differences up to this are no change of a value. */
const ROUNDING = 1e-9;

/**
 * Draws into `box`, in its size. A plot is { x, series, unit, zero, top, bands, heat, log } and an axis of its own, or
 * what it lies `along`; a series is { label, color, values } and width, dash, alpha, dots, fill. Colours are names of
 * custom properties. `onHover(index or null)` follows the crosshair.
 */
export function drawPlot(box, plot, onHover) {
  const options = {
    width: Math.max(120, box.clientWidth),
    height: box.clientHeight,
    legend: { show: false },
    padding: [8, 20, 0, 0],
    cursor: cursor(plot),
    scales: {
      x: { time: false, range: xRange(plot) },
      y: { distr: plot.log ? 3 : 1, range: (_, low, high) => yRange(plot, low, high) },
    },
    axes: [xAxis(plot), yAxis(plot)],
    series: [{}, ...plot.series.map(stroke)],
    bands: (plot.bands ?? []).map(({ upper, lower, color: name, alpha }) => ({
      series: [upper + 1, lower + 1],
      fill: faded(color(name), alpha),
    })),
    hooks: {
      setCursor: [(chart) => onHover(chart.cursor.idx ?? null)],
      drawClear: plot.heat ? [(chart) => drawCells(chart, plot.heat)] : [],
    },
  };
  return new uPlot(options, [plot.x, ...plot.series.map(({ values }) => values)], box);
}

function stroke({ color: name, width = 2, dash, alpha = 1, dots = false, fill }) {
  return {
    stroke: width ? faded(color(name), alpha) : "transparent",
    width,
    dash,
    spanGaps: true,
    fill: fill ? faded(color(name), fill) : undefined,
    points: { show: dots, size: 6, fill: color("--paper"), width: 1.5 },
  };
}

function cursor(plot) {
  return {
    y: false,
    drag: { x: false, y: false },
    points: { show: !plot.heat, size: 7, width: 1.5 },
    ...(plot.axis ? {} : { sync: { key: "step", scales: ["x", null] } }),
  };
}

function xAxis({ axis, along }) {
  return {
    stroke: color("--muted"),
    font: FONT,
    size: 26,
    gap: 6,
    incrs: along === "hours" ? undefined : WHOLE,
    values: (_, splits) => splits.map((value) => placeTick(tidy(value), along)),
    grid: { show: false },
    ticks: { show: true, stroke: color("--hair"), size: 4, width: 1 },
    border: { show: true, stroke: color("--hair"), width: 1 },
    ...(axis ? { splits: axis.splits, values: () => axis.labels } : {}),
  };
}

function yAxis({ unit, heat, log }) {
  return {
    stroke: color("--muted"),
    font: FONT,
    space: heat ? 20 : CLOSEST,
    incrs: heat ? WHOLE : unit === "seconds" ? DURATIONS : undefined,
    ...(log ? { splits: (_, __, low, high) => logMarks(low, high), filter: (_, splits) => splits } : {}),
    gap: 6,
    grid: { show: !heat, stroke: color("--hair"), width: 1 },
    ticks: { show: false },
    size: (_, labels) => 14 + 6.4 * Math.max(2, ...(labels ?? []).map((label) => label.length)),
    values: (_, splits) => splits.map((value) => (value === null ? "" : tick(tidy(value), unit))),
  };
}

const DIGITS = [[1], [1, 2, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9]];
const MOST_MARKS = 5;

/** Marks of a log scale: powers of ten, with as few other digits between them as make two marks. */
function logMarks(low, high) {
  const first = Math.floor(Math.log10(low));
  const powers = Array.from({ length: Math.ceil(Math.log10(high)) - first + 1 }, (_, index) => first + index);
  const inside = (digits) =>
    powers
      .flatMap((power) => digits.map((digit) => Number(`${digit}e${power}`)))
      .filter((value) => value >= low && value <= high);
  const marks = DIGITS.map(inside).find((found) => found.length > 1) ?? evenMarks(low, high);
  return marks.filter((_, index) => index % Math.ceil(marks.length / MOST_MARKS) === 0);
}

/** Marks at whole multiples of a power of ten, between two values that lie close together. */
function evenMarks(low, high) {
  const step = 10 ** Math.floor(Math.log10((high - low) / 2));
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, index) => (first + index) * step);
}

/** Splits carry rounding errors: 0.30000000000000004. */
function tidy(value) {
  return Number(value.toPrecision(10));
}

function xRange({ x, heat }) {
  const edge = heat ? halfStep(x) : 0;
  const [low, high] = [x[0] ?? 0, x[x.length - 1] ?? 1];
  return low === high ? [low - 0.5, high + 0.5] : [low - edge, high + edge];
}

/** Half the distance of the first two places: how far a column of cells reaches to each side. */
function halfStep(x) {
  return x.length > 1 ? (x[1] - x[0]) / 2 : 0.5;
}

function yRange({ zero, top, heat, extent, log }, ownLow, ownHigh) {
  if (heat) return [-0.5, heat.rows - 0.5];
  const [low, high] = extent ?? [ownLow, ownHigh];
  if (low === null) return log ? [1, 10] : [0, 1];
  if (log) return [low / 1.2, high * 1.2];
  const from = zero ? Math.min(0, low) : low;
  const to = top === undefined ? high : Math.min(top, high + 0.08 * (high - from));
  if (to - from > ROUNDING * Math.max(Math.abs(from), Math.abs(to))) {
    const room = 0.08 * (to - from);
    return [zero && low >= 0 ? 0 : from - room, top === undefined ? to + room : to];
  }
  const around = Math.abs(to) || 1;
  return zero && to >= 0 ? [0, 1.2 * around] : [from - around / 10, to + around / 10];
}

/** A cell for every (step, row): the darker the larger its value. */
function drawCells(chart, { rows, cells, color: name, largest }) {
  const { ctx } = chart;
  const shade = color(name);
  const steps = chart.data[0];
  const half = halfStep(steps);
  ctx.save();
  steps.forEach((step, index) => {
    const left = chart.valToPos(index ? (steps[index - 1] + step) / 2 : step - half, "x", true);
    const right = chart.valToPos(index + 1 < steps.length ? (step + steps[index + 1]) / 2 : step + half, "x", true);
    for (let row = 0; row < rows; row += 1) {
      const value = cells[row]?.[index];
      if (!value) continue;
      const [above, below] = [row + 0.46, row - 0.46].map((at) => chart.valToPos(at, "y", true));
      ctx.fillStyle = faded(shade, 0.08 + 0.92 * (value / largest));
      ctx.fillRect(left, above, Math.max(1, right - left - 0.5), below - above);
    }
  });
  ctx.restore();
}

/** A colour rgb(...) with an opacity. */
function faded(rgb, alpha) {
  return `rgba(${rgb.match(/\d+/g).slice(0, 3).join(", ")}, ${alpha})`;
}
