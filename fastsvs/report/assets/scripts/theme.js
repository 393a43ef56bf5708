// Light or dark: as the system says, until the reader chooses. Canvas drawings ask here for their colours.

import { arriveEverywhere, byId } from "./dom.js";

const DARK = window.matchMedia("(prefers-color-scheme: dark)");
const redraws = [];

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : DARK.matches;
}

/** What a custom property of the style sheet says now, as rgb(...). */
export function color(name) {
  document.body.style.outlineColor = `var(${name})`; // of an outline that is not drawn
  return getComputedStyle(document.body).outlineColor;
}

/** The colour of an experiment, by its position. */
export function armColor(arm) {
  return `--arm-${arm % 8}`;
}

export function kindColor(kind) {
  return ["original", "synthesis", "variant"].includes(kind) ? `--kind-${kind}` : "--kind-other";
}

export function onTheme(redraw) {
  redraws.push(redraw);
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  redraws.forEach((redraw) => redraw());
}

export function startTheme() {
  const label = () => (byId("theme").textContent = isDark() ? "Light" : "Dark");
  label();
  byId("theme").addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
  DARK.addEventListener("change", () => {
    label();
    redraws.forEach((redraw) => redraw());
  });
  let before;
  window.addEventListener("beforeprint", () => {
    before = document.documentElement.dataset.theme;
    setTheme("light");
    arriveEverywhere(document.body);
  });
  window.addEventListener("afterprint", () => {
    if (before) setTheme(before);
    else delete document.documentElement.dataset.theme;
    redraws.forEach((redraw) => redraw());
  });
}
