// Figures on the page: made when they come near, drawn again when data, theme, width or the choice of experiments change.

import { axisName, placeInWords } from "./along.js";
import { drawPlot } from "./charts.js";
import { byId, h, present, s, whenNear } from "./dom.js";
import { csvOf, download, pngOf } from "./exports.js";
import { listed, plural, show, spelled } from "./format.js";
import { planFigures } from "./panels.js";
import { armColor } from "./theme.js";
import { wantedView } from "./view.js";

const drawn = new Map();
let shownArms = new Set();

/** Puts every figure that has something to show into its section; figures that stand already are drawn again. */
export function drawFigures(head) {
  const view = wantedView();
  for (const panel of planFigures(head)) {
    const plots = panel.plots(head, { arms: shownArms, ...view }).map((plot) => fitted(plot, view));
    if (!drawn.has(panel.id) && plots.length) drawn.set(panel.id, place(panel));
    drawn.get(panel.id)?.update(plots, view.words);
  }
  for (const section of ["dynamics", "rest"]) {
    const count = byId(section).querySelectorAll(".figures > .figure:not([hidden])").length;
    byId(section).hidden = count === 0;
    if (section === "rest")
      byId(section).querySelector("summary").textContent = `All other metrics (${plural(count, "group")})`;
    else document.querySelector(`nav a[href="#${section}"]`).hidden = count === 0;
  }
  if (view.words.length) byId("rest").open = true;
}

/** The plot as the reader wants it. What has values of 0 or below, or lies on top of one another, has no log scale. */
function fitted(plot, { axis, log }) {
  const positive = () => plot.series.every(({ values }) => values.every((value) => value === null || value > 0));
  return { ...plot, along: plot.axis ? undefined : axis, log: log && !plot.heat && !plot.stacked && positive() };
}

function place(panel) {
  const box = h("div", { class: "plots" });
  const note = h("p", { class: "note" });
  const tools = h("div", { class: "tools", role: "group", "aria-label": `Figure ${panel.title}` });
  const figure = h(
    "figure",
    { class: "figure", id: `figure-${panel.id}` },
    h("figcaption", {}, h("h3", {}, panel.title), tools, panel.about ? h("p", {}, panel.about) : null),
    box,
    note,
  );
  let plots = [];
  const redraw = () => whenNear(figure, () => redrawPlots(box, plots));
  const large = h("button", { type: "button", "aria-pressed": "false" }, "Enlarge");
  large.addEventListener("click", () => {
    large.setAttribute("aria-pressed", String(figure.classList.toggle("large")));
    redraw();
  });
  const file = (suffix) => `${panel.id.replaceAll("/", "_")}.${suffix}`;
  const save = async () => download(file("png"), await pngOf(figure), "image/png");
  tools.append(
    large,
    h("button", { type: "button", onclick: save }, "PNG"),
    h("button", { type: "button", onclick: () => download(file("csv"), csvOf(plots), "text/csv") }, "CSV"),
  );
  figureHome(panel.section).append(figure);
  return {
    update(next, words) {
      plots = next.filter((plot) => !isZero(plot));
      const zero = next.filter(isZero).map(titleOf);
      figure.hidden = next.length === 0 || !mentions(panel, next, words);
      note.textContent = zero.length ? `Zero throughout: ${listed(zero)}.` : "";
      tools.hidden = plots.length === 0;
      box.dataset.plots = Math.min(4, plots.length);
      redraw();
    },
  };
}

/** Whether all words are in what a figure says or in the names of its metrics. */
function mentions({ title, about, names = [] }, plots, words) {
  const text = [title, about, ...names, ...plots.map(({ name }) => name)].join(" ").toLowerCase();
  return words.every((word) => text.includes(word) || text.includes(word.replaceAll("_", " ")));
}

/** Nothing but zeros is said in words. */
function isZero({ series }) {
  return series.every(({ values }) => values.every((value) => !value));
}

function titleOf({ title, name }) {
  return title || spelled(name.split("/").pop());
}

function figureHome(section) {
  return byId(section).querySelector(".figures");
}

function redrawPlots(box, plots) {
  box.querySelectorAll(".plot").forEach((plot) => plot.release());
  box.replaceChildren(...plots.map(() => h("div", { class: "plot" })));
  [...box.children].forEach((element, index) => fillPlot(element, plots[index]));
}

function fillPlot(element, plot) {
  const labelled = plot.series.flatMap((each, index) =>
    each.label ? [{ ...each, readings: plot.readings?.[index] ?? each.values }] : [],
  );
  const readout = h("p", { class: "readout" });
  const canvas = h("div", { class: "canvas", role: "img" });
  const title = h(
    "p",
    { class: "plot-title", title: plot.name },
    plot.axis ? plot.title : titleOf(plot),
    h("small", {}, ` ${scaleOf(plot)}`),
  );
  element.append(title, readout, canvas);
  element.dataset.name = plot.name;
  element.dataset.points = plot.x.length;
  element.dataset.series = plot.series.length;
  const read = (index) => readout.replaceChildren(...readings(plot, labelled, index));
  read(null);
  canvas.setAttribute(
    "aria-label",
    `${plot.name}: ${[...readout.children].map(({ textContent }) => textContent).join(", ")}`,
  );
  const chart = drawPlot(canvas, plot, read);
  const resize = new ResizeObserver(() => {
    if (canvas.clientWidth && Math.abs(canvas.clientWidth - chart.width) > 1)
      chart.setSize({ width: canvas.clientWidth, height: canvas.clientHeight });
  });
  resize.observe(canvas);
  element.release = () => {
    resize.disconnect();
    chart.destroy();
  };
}

/** What is drawn against what: "nats by hours, log scale, mean of 5 steps". */
function scaleOf({ unit, axis, along, log, span }) {
  const against = axis ? axis.name : axisName(along);
  const parts = [
    `${unit || "value"} by ${against}`,
    log ? "log scale" : null,
    span > 1 ? `mean of ${span} steps` : null,
  ];
  return present(parts).join(", ");
}

/** The values under the crosshair, else the last of each series. */
function readings(plot, labelled, index) {
  const at = index === null ? plot.x.length - 1 : index;
  const where = plot.axis ? plot.axis.at(plot.x[at]) : placeInWords(plot.x[at], plot.along);
  const values = labelled.map((each) => {
    const value = index === null ? lastOf(each.readings) : each.readings[index];
    if (plot.heat && !value) return null;
    return h("span", { class: "reading" }, markOf(each), `${each.label} `, h("b", {}, show(value, plot.unit)));
  });
  return present([h("span", { class: "where" }, where), ...values]);
}

/** A dot in the line's colour, or a piece of a line with its dashes. */
function markOf({ color, dash }) {
  const style = { color: `var(${color})` };
  if (!dash) return h("i", { style });
  const line = s("line", { x1: 0, x2: 22, y1: 4, y2: 4, "stroke-dasharray": dash.join(" ") });
  return s("svg", { style, width: 22, height: 8, "data-dash": dash.join(" "), "aria-hidden": "true" }, line);
}

function lastOf(values) {
  return values.findLast((value) => value !== null) ?? null;
}

/** Takes every experiment of the document into the figures. */
export function showAllArms(head) {
  shownArms = new Set(head.arms.keys());
}

/** Buttons that take experiments out of all figures and put them back; made once for the same experiments. */
export function drawLegend(head, redrawAll) {
  const legend = byId("legend");
  const labels = head.arms.map(({ label, runs }) => `${label} ${runs.length}`).join("\n");
  if (legend.dataset.labels !== labels) {
    legend.dataset.labels = labels;
    legend.replaceChildren(...head.arms.map((arm, index) => legendButton(arm, index, redrawAll)));
  }
  [...legend.children].forEach((button, index) => button.setAttribute("aria-pressed", String(shownArms.has(index))));
}

function legendButton(arm, index, redrawAll) {
  const toggle = () => {
    const others = [...shownArms].filter((each) => each !== index);
    shownArms = new Set(shownArms.has(index) ? others : [...others, index].sort((a, b) => a - b));
    redrawAll();
  };
  return h(
    "button",
    { type: "button", onclick: toggle },
    h("i", { style: { color: `var(${armColor(index)})` } }),
    arm.label,
    arm.runs.length > 1 ? h("small", {}, ` mean of ${arm.runs.length} seeds`) : null,
  );
}
