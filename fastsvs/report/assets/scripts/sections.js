// The way through the page: links above it, on a phone one choice; both say where the reader is.

import { byId, h } from "./dom.js";

const links = () => [...document.querySelectorAll("nav a")].filter((link) => !link.hidden);
const sectionOf = (link) => document.querySelector(link.getAttribute("href"));

/** Makes the choice out of the links, once, and follows the reader. */
export function startSections() {
  const choice = byId("sections");
  choice.addEventListener("change", () => goTo(sectionOf(links()[choice.selectedIndex])));
  document
    .querySelector("nav")
    .addEventListener("click", ({ target }) => target.matches("a") && goTo(sectionOf(target)));
  document.addEventListener("scroll", () => requestAnimationFrame(markSection), { passive: true });
}

const FRAMES = 15;

/** Goes to a section and stays there for a moment, in which figures on the way are drawn and move it. */
function goTo(section, frames = FRAMES) {
  section.scrollIntoView({ behavior: "instant" });
  if (frames) requestAnimationFrame(() => goTo(section, frames - 1));
}

/** Offers the sections that there are now. */
export function drawSections() {
  byId("sections").replaceChildren(...links().map((link) => h("option", {}, link.textContent)));
  markSection();
}

/** The last section that begins in the upper quarter of the window, or above it, is the current one; at the end of the
 * page it is the last that begins at all. */
function markSection() {
  const shown = links();
  const page = document.documentElement;
  const line = page.scrollTop + window.innerHeight > page.scrollHeight - 2 ? 1 : 1 / 4;
  const begun = shown.filter((link) => sectionOf(link).getBoundingClientRect().top < line * window.innerHeight);
  const current = begun[begun.length - 1] ?? shown[0];
  for (const link of shown) {
    if (link === current) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  byId("sections").selectedIndex = shown.indexOf(current);
}
