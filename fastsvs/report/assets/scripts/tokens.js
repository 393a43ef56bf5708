// The tokens of a response, coloured by what engine and policy say of each. One choice holds for all of them.

import { copyButton } from "./copy.js";
import { h, whenNear } from "./dom.js";
import { grouped, show } from "./format.js";
import { mathsText } from "./maths.js";

/** What tokens are coloured by: `level` of the figure `of` a token is 0 for no colour, and 1 or more for all of it. The
 * legend has the `marks`, and `about` under them. */
const SCALES = {
  logprob: {
    label: "tokens by log-prob",
    of: "engine",
    level: (logprob) => -logprob / 4,
    marks: [[0], [-1], [-2], [-3], [-4, "or less"]],
    about: "Log-prob that the engine sampled the token with, in nats: −1 is a chance of 37%, −4 one of 2%.",
  },
  entropy: {
    label: "tokens by entropy",
    of: "entropy",
    level: (entropy) => entropy / 2,
    marks: [[0], [0.5], [1], [1.5], [2, "or more"]],
    about: "Entropy of the policy at the token, in nats, before the update: 0.69 are two equal choices.",
  },
  ratio: {
    label: "tokens by ratio",
    of: "ratio",
    level: (ratio) => Math.abs(Math.log(ratio)) / Math.log(1.25),
    marks: [[0.8, "or less"], [0.9], [1], [1.1], [1.25, "or more"]],
    about: "Chance of the token under the policy, before the update, over that under the engine.",
  },
};
const CHOICES = [["", "text"], ...Object.entries(SCALES).map(([name, { label }]) => [name, label])];

/** An element with the response; with a choice of its tokens where `logged`, those of its group, has them. */
export function responseText(text, logged, sample) {
  const plain = mathsText("div", { class: "text as-text" }, text);
  if (!logged?.texts[sample]) return plain;
  const readout = h("p", { class: "readout", role: "status" });
  const tokens = h("div", {
    class: "text tokens",
    tabindex: 0,
    role: "group",
    "aria-label": "Tokens; the arrow keys go from one to the next",
  });
  whenNear(tokens, () => fill(tokens, tokensOf(logged, sample), readout)); // it is near once it is shown
  return h(
    "div",
    { class: "response-text" },
    h("p", { class: "token-choice" }, h("label", {}, "Response as ", picker())),
    h("div", { class: "scales" }, Object.entries(SCALES).map(legend(logged.policy_logprobs[sample] === null)), readout),
    plain,
    tokens,
  );
}

/** The prompt as the policy read it, behind a disclosure; nothing where it was not kept. */
export function promptText(logged) {
  if (!logged) return null;
  const { prompt } = logged;
  return h(
    "details",
    { class: "prompt" },
    h("summary", {}, `rendered prompt, ${grouped(prompt.length)} characters`),
    copyButton("prompt", () => prompt),
    h("pre", { class: "text" }, prompt),
  );
}

function picker() {
  const options = CHOICES.map(([value, label]) => h("option", { value }, label));
  const select = h("select", { onchange: () => choose(select.value) }, options);
  select.value = chosen();
  return select;
}

function chosen() {
  return document.documentElement.dataset.tokens ?? "";
}

/** Takes a scale for all responses, shown now or later; the style sheet does the rest. */
function choose(name) {
  if (name) document.documentElement.dataset.tokens = name;
  else delete document.documentElement.dataset.tokens;
  for (const select of document.querySelectorAll(".token-choice select")) select.value = name;
}

function legend(unlearned) {
  return ([name, { of, marks, about }]) =>
    h(
      "div",
      { class: "scale", "data-scale": name },
      h(
        "ul",
        { "aria-label": "Colours" },
        marks.map(([value, more]) =>
          h(
            "li",
            {},
            h("i", { class: sideOf(of, value), style: { "--level": levelOf(name, value) } }),
            more ? `${show(value)} ${more}` : show(value),
          ),
        ),
      ),
      h(
        "p",
        { class: "note" },
        unlearned && of !== "engine"
          ? "No update learned from this response, so there are no figures of the policy for it."
          : about,
      ),
    );
}

/** The tokens of a response: { text, engine, policy, entropy, ratio }, with null for what is not known. */
function tokensOf(logged, sample) {
  return logged.texts[sample].map((text, place) => {
    const engine = logged.engine_logprobs[sample][place];
    const policy = logged.policy_logprobs[sample]?.[place] ?? null;
    const entropy = logged.entropies[sample]?.[place] ?? null;
    return { text, engine, policy, entropy, ratio: policy === null || engine === null ? null : Math.exp(policy - engine) };
  });
}

function fill(element, tokens, readout) {
  const spans = tokens.map(drawn);
  element.replaceChildren(...spans);
  if (!spans.length) return;
  let at = 0;

  function go(place, scroll = false) {
    spans[at]?.classList.remove("at");
    at = Math.max(0, Math.min(place, spans.length - 1));
    spans[at].classList.add("at");
    spans[at].title = readout.textContent = said(tokens[at], at, tokens.length);
    if (scroll) spans[at].scrollIntoView({ block: "nearest" });
  }

  const moves = { ArrowRight: () => at + 1, ArrowLeft: () => at - 1, Home: () => 0, End: () => spans.length - 1 };
  element.addEventListener("keydown", (event) => {
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    go(moves[event.key](), true);
  });
  element.addEventListener("pointerover", ({ target }) => target !== element && go(spans.indexOf(target)));
  element.addEventListener("focus", () => go(at));
}

/** A token with its levels. White space that would not be seen, and parts of a character, get a mark. */
function drawn(token) {
  const known = Object.entries(SCALES).filter(([, { of }]) => token[of] !== null);
  const levels = known.map(([name, { of }]) => [`--${name}`, levelOf(name, token[of])]);
  const names = [
    sideOf("ratio", token.ratio),
    token.text.includes("\n") ? "line" : null,
    token.text === "" ? "part" : null,
  ];
  return h(
    "i",
    { class: names.filter(Boolean).join(" ") || null, style: Object.fromEntries(levels) },
    token.text,
  );
}

function levelOf(name, value) {
  return Math.max(0, Math.min(1, SCALES[name].level(value))).toFixed(3);
}

/** A ratio below 1 has a colour of its own. */
function sideOf(of, value) {
  return of === "ratio" && value !== null && value < 1 ? "less" : null;
}

function said({ text, engine, policy, entropy, ratio }, place, count) {
  const parts = [
    `“${text.replaceAll("\n", "↵")}”, token ${grouped(place + 1)} of ${grouped(count)}`,
    `log-prob ${show(engine, "nats")} of the engine`,
    policy === null ? null : `${show(policy, "nats")} of the policy`,
    ratio === null ? null : `ratio ${ratio.toPrecision(4)}`,
    entropy === null ? null : `entropy ${show(entropy, "nats")}`,
  ];
  return parts.filter(Boolean).join(", ");
}
