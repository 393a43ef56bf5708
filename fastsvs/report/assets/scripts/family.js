// One family: an original problem, its responses, the correct ones used as contexts, the problems written from each,
// and their solutions.

import { copyButton } from "./copy.js";
import { h } from "./dom.js";
import { grouped, plural, show } from "./format.js";
import { mathsText } from "./maths.js";
import { kindColor } from "./theme.js";
import { promptText, responseText } from "./tokens.js";
import { treeOf } from "./tree.js";

export const VERDICT = {
  c: { mark: "✓", word: "correct", class: "correct" },
  w: { mark: "✗", word: "wrong", class: "wrong" },
  u: { mark: "?", word: "not verified", class: "unverified" },
};
const NOT_CHECKED = { mark: "·", word: "written", class: "unchecked" };
const REJECTIONS = {
  no_marker: "offers no problem",
  unclosed: "cut off before its end",
  empty: "empty",
  placeholder: "a placeholder",
  copy: "a copy of the original",
  duplicate: "a duplicate",
  too_long: "too long",
};

/** The family of `root`; `found` gives the responses (`texts`) and the tokens of a group by its key, `focus` is the group
 * that was chosen, and `again` what shows the same problem at other steps. */
export function familyView(head, root, focus, found, again) {
  const element = h(
    "article",
    { class: "family", "aria-label": "Family of the problem" },
    h(
      "p",
      { class: "trail" },
      `${head.runs[root.run].name} · step ${root.step} · ${root.problem}`,
      " ",
      copyButton("address", () => location.href, "Copy address"),
    ),
    h("p", { class: "flow" }, flow(root)),
    treeOf(root, focus, (group) => {
      const card = element.querySelector(`[data-group="${CSS.escape(group.id)}"]`);
      card.scrollIntoView({ block: "start" });
      card.focus({ preventScroll: true });
    }),
    again,
    problemCard(root, found, focus),
  );
  return element;
}

/** What came of the problem, in one line. */
function flow(root) {
  const all = descendants(root);
  const contexts = all.filter(({ kind }) => kind === "synthesis");
  if (!contexts.length)
    return all.length ? plural(all.length, "group") + " made from it" : "Nothing was written from it.";
  const written = contexts.flatMap(({ rewards }) => rewards);
  const solved = all.filter(({ kind }) => kind === "variant");
  const parts = [
    plural(contexts.length, "context"),
    `${plural(written.length, "problem")} written`,
    `${grouped(solved.length)} valid`,
    `${grouped(written.filter((reward) => reward > 0).length)} rewarded`,
  ];
  return parts.join(" → ");
}

export function descendants(group) {
  return group.children.flatMap((child) => [child, ...descendants(child)]);
}

/** A problem that was solved: original, variant, or of a kind of one's own. */
function problemCard(group, found, focus, note = null) {
  const followed = new Set(group.children.map(({ sample }) => sample));
  return h(
    "section",
    {
      class: `card ${group.kind}`,
      "data-group": group.id,
      "data-focus": group === focus ? "true" : null,
      tabindex: -1,
    },
    h("p", { class: "tags" }, badge(group.kind), rate(group), note, useOf(group)),
    mathsText("div", { class: "question text" }, group.question),
    h(
      "p",
      { class: "answer" },
      group.kind === "variant" ? "Inherited answer " : "Answer ",
      mathsText("b", {}, inMaths(group.answer)),
    ),
    promptText(found.tokens[group.key]),
    strip(group, found.texts[group.key] ?? [], followed, found.tokens[group.key]),
    group.children.filter(({ sample }) => sample === null).map((child) => problemCard(child, found, focus)),
    group.children
      .filter(({ sample }) => sample !== null)
      .map((child) =>
        child.kind === "synthesis" ? contextCard(group, child, found, focus) : problemCard(child, found, focus),
      ),
  );
}

/** A correct response, and every problem that was written from it. */
function contextCard(group, synthesis, found, focus) {
  const response = found.texts[group.key]?.[synthesis.sample] ?? "";
  const written = found.texts[synthesis.key] ?? [];
  return h(
    "section",
    { class: "context", "data-group": synthesis.id, "data-focus": synthesis === focus ? "true" : null, tabindex: -1 },
    h("h4", {}, `Context: response ${synthesis.sample + 1}, correct`, useOf(synthesis)),
    mathsText("blockquote", { class: "text" }, response),
    promptText(found.tokens[synthesis.key]),
    h("h4", {}, `${plural(written.length, "problem")} written from it`),
    h(
      "ol",
      { class: "written" },
      written.map((text, sample) => h("li", {}, writtenCard(synthesis, sample, text, found, focus))),
    ),
  );
}

function writtenCard(synthesis, sample, text, found, focus) {
  const variant = synthesis.children.find((child) => child.sample === sample);
  const reward = synthesis.rewards[sample];
  const pill = h("span", { class: reward > 0 ? "pill good" : "pill" }, `reward ${show(reward ?? null)}`);
  const whole = () => responseText(text, found.tokens[synthesis.key], sample);
  if (variant) {
    const card = problemCard(variant, found, focus, pill);
    card.append(disclosure("whole response", () => h("div", { class: "response" }, whole())));
    return card;
  }
  const reason = synthesis.rejections.length ? (synthesis.rejections[sample] ?? "too_long") : null;
  const words = reason ? `rejected: ${REJECTIONS[reason] ?? reason}` : "rejected";
  return h(
    "section",
    { class: "card rejected" },
    h("p", { class: "tags" }, badge("synthesis"), pill, h("span", { class: "pill bad" }, words)),
    h("div", { class: "question" }, whole()),
  );
}

/** A button for each response; pressed, it shows the text. Responses that were used as contexts are `followed`; `logged`
 * has the tokens, where they were kept. */
export function strip(group, texts, followed = new Set(), logged = null) {
  const panel = h("div", { class: "opened" });
  const buttons = texts.map((text, sample) => {
    const { mark, word, class: name } = VERDICT[group.verdicts[sample]] ?? NOT_CHECKED;
    const facts = responseFacts(group, sample, word);
    const button = h(
      "button",
      {
        type: "button",
        class: `sample ${name}${followed.has(sample) ? " followed" : ""}`,
        "aria-expanded": "false",
        title: facts,
        "aria-label": `Response ${sample + 1}: ${facts}`,
      },
      mark,
    );
    let opened = null;
    button.addEventListener("click", () => {
      if (opened) {
        opened.remove();
        opened = null;
      } else {
        opened = h(
          "div",
          { class: `response ${name}` },
          h(
            "p",
            { class: "about" },
            `Response ${sample + 1}: ${facts}`,
            " ",
            copyButton("response", () => text),
          ),
          responseText(text, logged, sample),
        );
        panel.append(opened);
      }
      button.setAttribute("aria-expanded", String(opened !== null));
    });
    return button;
  });
  return [h("div", { class: "strip", role: "group", "aria-label": "Responses" }, buttons), panel];
}

function responseFacts(group, sample, word) {
  const tokens = group.tokens[sample];
  return [
    word,
    group.rewards?.[sample] === undefined ? null : `reward ${show(group.rewards[sample])}`,
    tokens === undefined ? null : plural(tokens, "token"),
    group.cut.includes(sample) ? "cut at the token limit" : null,
  ]
    .filter(Boolean)
    .join(", ");
}

function disclosure(label, make) {
  const details = h("details", {}, h("summary", {}, label));
  details.addEventListener("toggle", () => details.append(make()), { once: true });
  return details;
}

export function badge(kind) {
  return h("span", { class: "badge", style: { "--kind": `var(${kindColor(kind)})` } }, kind);
}

function rate({ correct, verified, verdicts }) {
  return verdicts.length ? h("span", { class: "rate" }, `${correct} of ${verified} correct`) : null;
}

function useOf({ trained }) {
  return h("span", { class: trained ? "pill" : "pill quiet" }, trained ? "learned from" : "discarded");
}

/** Reference answers are maths, mostly without its delimiters. */
export function inMaths(answer) {
  return /\\[a-zA-Z]/.test(answer) && !answer.includes("$") ? `$${answer}$` : answer;
}
