// Figures on the page: made when they come near, drawn again when data, theme, width or the choice of experiments change.

import { drawPlot, HEIGHT } from "./charts.js";
import { byId, h, present, whenNear } from "./dom.js";
import { listed, plural, show, spelled } from "./format.js";
import { planFigures } from "./panels.js";
import { armColor } from "./theme.js";

const drawn = new Map();
let shownArms = new Set();

/** Puts every figure that has something to show into its section; figures that stand already are drawn again. */
export function drawFigures(head) {
  for (const panel of planFigures(head)) {
    const plots = panel.plots(head, shownArms);
    const standing = drawn.get(panel.id);
    if (standing) standing.update(plots);
    else if (plots.length) place(panel, plots);
  }
  for (const section of ["dynamics", "rest"]) {
    const count = byId(section).querySelectorAll(".figures > .figure").length;
    byId(section).hidden = count === 0;
    if (section === "rest")
      byId(section).querySelector("summary").textContent = `All other metrics (${plural(count, "group")})`;
    else document.querySelector(`nav a[href="#${section}"]`).hidden = count === 0;
  }
}

function place(panel, plots) {
  const box = h("div", { class: "plots" });
  const note = h("p", { class: "note" });
  const figure = h(
    "figure",
    { class: "figure", id: `figure-${panel.id}` },
    h("figcaption", {}, h("h3", {}, panel.title), panel.about ? h("p", {}, panel.about) : null),
    box,
    note,
  );
  figureHome(panel.section).append(figure);
  const update = (next) => {
    const moving = next.filter((plot) => !isZero(plot));
    figure.hidden = next.length === 0;
    note.textContent =
      moving.length < next.length ? `Zero throughout: ${listed(next.filter(isZero).map(titleOf))}.` : "";
    box.dataset.plots = Math.min(4, moving.length);
    whenNear(figure, () => redrawPlots(box, moving));
  };
  drawn.set(panel.id, { update });
  update(plots);
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
  const mean = plot.span > 1 ? `, mean of ${plot.span} steps` : "";
  const title = (plot.axis ? plot.title : titleOf(plot)) + mean;
  element.append(h("p", { class: "plot-title", title: plot.name }, title), readout, canvas);
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
      chart.setSize({ width: canvas.clientWidth, height: HEIGHT });
  });
  resize.observe(canvas);
  element.release = () => {
    resize.disconnect();
    chart.destroy();
  };
}

/** The values under the crosshair, else the last of each series. */
function readings(plot, labelled, index) {
  const at = index === null ? plot.x.length - 1 : index;
  const where = plot.axis ? plot.axis.at(plot.x[at]) : `step ${plot.x[at]}`;
  const values = labelled.map((each) => {
    const value = index === null ? lastOf(each.readings) : each.readings[index];
    if (plot.heat && !value) return null;
    const mark = h("i", { style: { background: `var(${each.color})` }, class: each.dash ? "dashed" : null });
    return h("span", { class: "reading" }, mark, `${each.label} `, h("b", {}, show(value, plot.unit)));
  });
  return present([h("span", { class: "where" }, where), ...values]);
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
    h("i", { style: { background: `var(${armColor(index)})` } }),
    arm.label,
    arm.runs.length > 1 ? h("small", {}, ` mean of ${arm.runs.length} seeds`) : null,
  );
}
