// Text of a policy: plain text, with formulas rendered as MathML. Markup in it stays text.

/* global temml */
import { h, whenNear } from "./dom.js";

const ENVIRONMENTS = String.raw`align\*?|aligned|equation\*?|gather\*?|cases|[bpvB]?matrix|array`;

// A dollar opens a formula when its partner can close one: "$5 and $x$" holds one formula, "$5 and $6" none. Lengths
// have a limit, so that a response of nothing but opening brackets takes no longer than any other.
const LONGEST = 2000;
const FORMULA = new RegExp(
  [
    String.raw`\$\$([^$]{1,${LONGEST}}?)\$\$`,
    String.raw`\\\[([^]{1,${LONGEST}}?)\\\]`,
    String.raw`\\\(([^]{1,${LONGEST}}?)\\\)`,
    String.raw`(?<!\\)\$(?![\s$])((?:\\[^]|[^$\\\n]){1,${LONGEST}}?)(?<!\s)\$(?!\d)`,
    String.raw`(?<!\\)\$(?=[\s\\])((?:\\[^]|[^$\\]){1,${LONGEST}}?)\$(?!\d)`,
    String.raw`(\\begin\{(${ENVIRONMENTS})\}[^]{1,${LONGEST}}?\\end\{\7\})`,
    String.raw`(\\boxed\s*\{)`,
  ].join("|"),
  "g",
);

/** The text's pieces in order: { text } or { tex, display, source }. */
export function pieces(text) {
  const found = [];
  let end = 0;
  FORMULA.lastIndex = 0;
  for (let match = FORMULA.exec(text); match; match = FORMULA.exec(text)) {
    const piece = formula(text, match);
    if (!piece) continue;
    if (match.index > end) found.push({ text: text.slice(end, match.index) });
    found.push(piece);
    end = match.index + piece.source.length;
    FORMULA.lastIndex = end;
  }
  if (end < text.length) found.push({ text: text.slice(end) });
  return found;
}

function formula(text, match) {
  const [source, dollars, brackets, parentheses, tight, spaced, environment, , boxed] = match;
  if (boxed) {
    const close = closing(text, match.index + source.length);
    return close < 0
      ? null
      : { tex: text.slice(match.index, close + 1), source: text.slice(match.index, close + 1), display: false };
  }
  const display = dollars ?? brackets ?? environment;
  return { tex: display ?? parentheses ?? tight ?? spaced, source, display: display !== undefined };
}

/** Where the brace that is open at `from` closes; -1 when it does not. */
function closing(text, from) {
  const end = Math.min(text.length, from + LONGEST);
  for (let depth = 1, at = from; at < end; at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === "{") depth += 1;
    else if (text[at] === "}") depth -= 1;
    if (depth === 0) return at;
  }
  return -1;
}

const CAREFUL = { throwOnError: true, trust: false, maxExpand: 200, maxSize: [10, 100] };

export function rendered({ text, tex, display, source }) {
  if (text !== undefined) return document.createTextNode(text);
  const box = h("span", { class: display ? "formula display" : "formula", title: source });
  try {
    temml.render(tex, box, { ...CAREFUL, macros: { "\\mbox": "\\text{#1}" }, displayMode: display });
  } catch {
    return h("code", { class: "formula-error" }, source);
  }
  return box;
}

/** An element with the text: plain at once, formulas as soon as it comes near the view. */
export function mathsText(name, attributes, text) {
  const element = h(name, attributes, text);
  if (/[\\$]/.test(text)) whenNear(element, () => element.replaceChildren(...pieces(text).map(rendered)));
  return element;
}
