// Held-out answers: two evaluations of one set side by side, what flipped, and every response.

import { pairControls, pairTable } from "./answer_parts.js";
import { copyButton } from "./copy.js";
import { byId, h } from "./dom.js";
import { inMaths, strip } from "./family.js";
import { grouped, plural } from "./format.js";
import { keyHint, startKeys } from "./keys.js";
import { virtualList } from "./list.js";
import { mathsText, pieces, rendered } from "./maths.js";
import { overSteps } from "./over_steps.js";
import { gainOf, hasPair, hasTokens, nameOf, pair, TURNS } from "./pairs.js";
import { addressed, missing, onAddress, setAddress } from "./permalink.js";
import { get } from "./source.js";
import { promptText } from "./tokens.js";

const ORDERS = {
  set: () => 0,
  gained: (a, b) => gainOf(b) - gainOf(a),
  lost: (a, b) => gainOf(a) - gainOf(b),
};

export function answerBrowser() {
  const controls = pairControls(() => choosePair());
  const list = h("div", { class: "list", role: "listbox", tabindex: 0, id: "answer-list" });
  const pane = h(
    "div",
    { class: "pane", id: "answer", tabindex: -1, role: "region", "aria-label": "Answers" },
    keyHint("Choose a problem to see its answers."),
  );
  const back = h("button", { type: "button", class: "back" }, "← Held-out problems");
  const count = h("p", { class: "count", role: "status", id: "answer-count" });
  const table = h("div", { class: "scroll" });
  const root = h(
    "div",
    { class: "browser" },
    controls.choice,
    table,
    controls.filter,
    h("div", { class: "panes" }, h("div", { class: "side" }, count, list), pane),
  );
  byId("answers-browser").replaceChildren(root);
  const rows = virtualList(list, { draw: rowOf, choose: open });
  const sheets = new Map();
  let head = null;
  let pairs = [];
  let opened = null;
  let rounds = 0;

  const answersOf = async (index) => {
    if (!sheets.has(index)) sheets.set(index, get(`answers/${index}`));
    return (await sheets.get(index)) ?? [];
  };

  /** Reads the chosen pair; the last choice counts, however long the ones before it take. */
  async function choosePair(stay = false) {
    const round = (rounds += 1);
    const { before, after } = controls.chosen();
    const [older, newer] = await Promise.all([before === null ? null : answersOf(before), answersOf(after)]);
    if (round !== rounds) return;
    pairs = pair(older, newer);
    const of = (index) => (index === null ? null : head.sheets[index]);
    table.replaceChildren(pairTable(of(before), of(after), pairs));
    controls.count(pairs);
    filter(stay);
    const again = pairs.find(({ id }) => id === opened?.id);
    if (again && !(stay && sameAnswers(again, opened))) await open(again, false, true);
  }

  function filter(stay = false) {
    const { words, turns, order, logged } = controls.wanted();
    const fits = (one) =>
      (!turns.size || turns.has(one.turn)) &&
      (!logged || hasTokens(one)) &&
      words.every((word) => one.haystack.includes(word));
    const found = pairs.filter(fits).sort(ORDERS[order]);
    rows.fill(found, opened?.id, stay);
    count.textContent = `${grouped(found.length)} of ${plural(pairs.length, "problem")}`;
    list.setAttribute("aria-label", plural(found.length, "held-out problem"));
    list.classList.toggle("empty", !found.length);
  }

  async function open(one, deliberately, stay = false) {
    opened = one;
    const { before, after } = controls.chosen();
    setAddress("answer", `${controls.chosenSet()}/${one.key}`);
    const parts = await Promise.all([
      one.older ? answered("Before", before, one.older) : null,
      answered(one.older ? "After" : "Answers", after, one),
      overTraining(after, one.id),
    ]);
    if (opened.id !== one.id) return;
    pane.replaceChildren(back, ...card(one), ...parts.filter(Boolean));
    if (!stay) pane.scrollTop = 0;
    pane.classList.add("filled");
    if (deliberately) {
      root.classList.add("open");
      pane.focus({ preventScroll: true });
    }
  }

  async function answered(word, sheet, problem) {
    const [texts, tokens] = await Promise.all([
      problem.block === null ? null : get(`responses/${sheet}/${problem.block}`),
      problem.logged ? get(`response_tokens/${sheet}/${problem.block}`) : null,
    ]);
    const correct = problem.verdicts.split("c").length - 1;
    return h(
      "section",
      { class: "answered", "aria-label": word },
      h(
        "h4",
        {},
        `${word}: ${head.sheets[sheet].label}`,
        h("span", { class: "rate" }, `${correct} of ${problem.verdicts.length} correct`),
      ),
      promptText(tokens?.[problem.key]),
      texts
        ? strip(problem, texts[problem.key] ?? [], new Set(), tokens?.[problem.key])
        : h(
            "p",
            { class: "note" },
            `Verdicts ${marks(problem)}; the page has no room for the responses (`,
            h("code", {}, "--samples"),
            ").",
          ),
    );
  }

  /** The problem in all evaluations of the run that the newer sheet belongs to. */
  async function overTraining(sheet, id) {
    const { run, set } = head.sheets[sheet];
    const own = [...head.sheets.keys()].filter(
      (index) => run !== null && head.sheets[index].run === run && head.sheets[index].set === set,
    );
    if (own.length < 3) return null;
    const points = await Promise.all(
      own.map(async (index) => ({
        step: head.sheets[index].step,
        problem: (await answersOf(index)).find((each) => nameOf(each) === id),
      })),
    );
    const found = points.filter(({ problem }) => problem);
    return overSteps(
      "Over the training",
      found.map(({ step, problem: { verdicts } }) => ({
        label: `step ${step}`,
        correct: verdicts.split("c").length - 1,
        samples: verdicts.length,
      })),
    );
  }

  const close = () => {
    root.classList.remove("open");
    list.focus({ preventScroll: true });
  };
  back.addEventListener("click", close);
  controls.filter.addEventListener("input", () => filter());
  onAddress("answer", openAddressed);
  startKeys({ root, search: controls.search, list, pane, rows, close });

  /** Opens what the address names, or says that it is not here. */
  async function openAddressed() {
    const wanted = addressed("answer");
    if (wanted === null) return;
    const [set, key] = [wanted.slice(0, wanted.lastIndexOf("/")), wanted.slice(wanted.lastIndexOf("/") + 1)];
    controls.chooseSet(set);
    await choosePair();
    const one = controls.chosenSet() === set && pairs.find((each) => each.key === key);
    if (one) {
      await open(one, true);
      filter();
    } else {
      pane.replaceChildren(
        back,
        missing("held-out problem", wanted, "another evaluation's, or of a set that is not here"),
      );
      pane.classList.add("filled");
      root.classList.add("open");
    }
    byId("answers").scrollIntoView({ behavior: "instant" });
  }

  return {
    /** A new state of the page: what is chosen stays where it can. */
    async fill(next) {
      const first = head === null;
      head = next;
      for (const element of [byId("answers"), document.querySelector('nav a[href="#answers"]')])
        element.hidden = !head.sheets.length;
      if (!head.sheets.length) return;
      const paired = hasPair(head.sheets);
      byId("answers-title").textContent = `Held-out problems${paired ? ", before and after" : ""}`;
      byId("answers-intro").hidden = !paired;
      sheets.clear();
      controls.fill(head);
      await choosePair(!first);
      if (first) await openAddressed();
    },
  };
}

/** Whether two states of a problem show the same: answers are written once. */
function sameAnswers(one, other) {
  return one.verdicts === other.verdicts && one.older?.verdicts === other.older?.verdicts;
}

function card(one) {
  return [
    h(
      "p",
      { class: "trail" },
      one.source,
      " ",
      copyButton("address", () => location.href, "Copy address"),
    ),
    h(
      "p",
      { class: "flow" },
      one.turn
        ? `${sentence(TURNS[one.turn])}: ${fraction(one.before)} → ${fraction(one.after)}`
        : `${fraction(one.after)} correct`,
    ),
    mathsText("div", { class: "question text" }, one.question),
    h("p", { class: "answer" }, "Answer ", mathsText("b", {}, inMaths(one.answer))),
  ];
}

function rowOf(one) {
  const change = one.before ? `${fraction(one.before)} → ${fraction(one.after)}` : fraction(one.after);
  return [
    h(
      "p",
      { class: "tags" },
      one.turn ? h("span", { class: `turn ${one.turn}` }, TURNS[one.turn]) : null,
      h("span", { class: "of" }, one.source),
      hasTokens(one) ? h("span", { title: "with the tokens of its responses" }, "tokens") : null,
      h("span", { class: "dots" }, change),
    ),
    h("p", { class: "snippet" }, pieces(one.question).map(rendered)),
  ];
}

function fraction({ correct, samples }) {
  return `${correct}/${samples}`;
}

function sentence(words) {
  return words[0].toUpperCase() + words.slice(1);
}

function marks({ verdicts }) {
  return [...verdicts].map((letter) => ({ c: "✓", w: "✗", u: "?" })[letter]).join("");
}
