// Elements out of plain values. Text becomes text nodes and attributes attributes: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element: h("p", { class: "x", onclick: f }, "text", child). Null and undefined are left out. */
export function h(name, attributes = {}, ...children) {
  return furnish(document.createElement(name), attributes, children);
}

/** An SVG element, likewise. */
export function s(name, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, name), attributes, children);
}

function furnish(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach(([key, to]) => element.style.setProperty(key, to));
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...present(children));
  return element;
}

export function present(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

export function byId(id) {
  return document.getElementById(id);
}

const awaited = new Map();
const watcher = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => arrive(entry.target)),
  { rootMargin: "400px" },
);

/** Calls `act` once, when the element comes near the view. */
export function whenNear(element, act) {
  awaited.set(element, act);
  watcher.observe(element);
}

function arrive(element) {
  const act = awaited.get(element);
  awaited.delete(element);
  watcher.unobserve(element);
  act?.();
}

/** Calls at once all that waits inside `root`: printing shows everything. */
export function arriveEverywhere(root) {
  [...awaited.keys()].filter((element) => root.contains(element)).forEach(arrive);
}
