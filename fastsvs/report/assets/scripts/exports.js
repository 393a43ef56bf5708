// A figure as files: its numbers as CSV, its drawing as PNG.

import { byId, h } from "./dom.js";
import { color } from "./theme.js";

/** The figure's own values, one a line: plot, place on the axis, line, value. */
export function csvOf(plots) {
  const rows = plots.flatMap((plot) =>
    plot.series.flatMap((each, index) => {
      const values = plot.readings?.[index] ?? each.values;
      const name = each.label ?? each.name;
      if (name === undefined) return [];
      return values.flatMap((value, at) => (value === null ? [] : [[plot.name, plot.x[at], name, value]]));
    }),
  );
  const head = ["metric", plots[0]?.axis?.name ?? plots[0]?.along ?? "step", "line", "value"];
  return [head, ...rows].map((row) => `${row.map(cell).join(",")}\n`).join("");
}

/** Text in quotes where it needs them; spreadsheets take no name for a formula. */
function cell(value) {
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const MARGIN = 16;
const LINE = 18;
const SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";

/** A figure as it stands on the page, on paper of the page's colour, with its title and what the lines are. */
export async function pngOf(figure) {
  const scale = window.devicePixelRatio;
  const box = figure.querySelector(".plots").getBoundingClientRect();
  const head = 2 * LINE;
  const canvas = h("canvas", {
    width: scale * (box.width + 2 * MARGIN),
    height: scale * (box.height + head + 2 * MARGIN),
  });
  const paint = canvas.getContext("2d");
  paint.scale(scale, scale);
  paint.fillStyle = color("--paper");
  paint.fillRect(0, 0, canvas.width, canvas.height);
  paint.font = `650 16px ${SANS}`;
  paint.fillStyle = color("--ink");
  paint.fillText(figure.querySelector("h3").textContent, MARGIN, MARGIN + LINE);
  const at = (shown) => {
    const { left, top } = shown.getBoundingClientRect();
    return [left - box.left + MARGIN, top - box.top + head + MARGIN];
  };
  for (const text of figure.querySelectorAll(".plot-title, .readout")) writeAsShown(paint, text, at);
  for (const mark of figure.querySelectorAll(".readout i, .readout svg")) drawMark(paint, mark, at(mark));
  for (const plot of figure.querySelectorAll(".uplot canvas")) {
    const { width, height } = plot.getBoundingClientRect();
    paint.drawImage(plot, ...at(plot), width, height);
  }
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** Writes the words of an element where and as they stand on the page: a title may go over several lines. */
function writeAsShown(paint, element, at) {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const style = getComputedStyle(node.parentElement);
    paint.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    paint.fillStyle = style.color;
    for (const { 0: word, index } of node.data.matchAll(/\S+/g)) {
      const range = document.createRange();
      range.setStart(node, index);
      range.setEnd(node, index + word.length);
      const [left, top] = at(range);
      paint.fillText(word, left, top + paint.measureText(word).fontBoundingBoxAscent);
    }
  }
}

/** The dot or the dashes before a line's name. */
function drawMark(paint, mark, [left, top]) {
  const { width, height } = mark.getBoundingClientRect();
  paint.fillStyle = paint.strokeStyle = getComputedStyle(mark).color;
  if (!mark.dataset.dash) return paint.fillRect(left, top, width, height);
  paint.lineWidth = 2;
  paint.setLineDash(mark.dataset.dash.split(" ").map(Number));
  paint.stroke(new Path2D(`M ${left} ${top + height / 2} h ${width}`));
  return paint.setLineDash([]);
}

/** Gives the reader a file. */
export function download(name, content, type) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = h("a", { href: address, download: name });
  byId("footer").append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
