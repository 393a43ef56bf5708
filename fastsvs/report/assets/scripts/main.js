// Puts the page together: the document's head draws the article, the groups fill the browser of problems.

import { answerBrowser } from "./answers.js";
import { problemBrowser } from "./browser.js";
import { byId } from "./dom.js";
import { drawEvaluated } from "./evaluated.js";
import { drawFacts } from "./facts.js";
import { drawFolders } from "./folders.js";
import { drawFigures, drawLegend, showAllArms } from "./figures.js";
import { grouped, listed, plural } from "./format.js";
import { drawHeadline } from "./headline.js";
import { follow } from "./live.js";
import { drawNotices } from "./notices.js";
import { drawPlanned } from "./planned.js";
import { drawSections, startSections } from "./sections.js";
import { drawSettings } from "./settings.js";
import { asked, get, LIVE } from "./source.js";
import { onTheme, startTheme } from "./theme.js";
import { drawView } from "./view.js";

const state = { head: null };

async function start() {
  startTheme();
  startSections();
  const head = LIVE ? (await asked("head")).value : await get("head");
  const browsers = head.folders ? null : [problemBrowser(state), answerBrowser()];
  const redraw = head.folders ? drawFolders : (next) => draw(next, browsers);
  await redraw(head);
  if (!head.folders) onTheme(() => drawFigures(state.head));
  byId("home").hidden = !(LIVE && location.pathname.startsWith("/open/"));
  document.documentElement.dataset.ready = "true";
  if (LIVE) follow(redraw);
}

async function draw(head, [problems, answers]) {
  if (state.head?.arms.length !== head.arms.length) showAllArms(head);
  state.head = head;
  drawNotices(head);
  if (head.runs.length) drawHeadline(head);
  drawEvaluated(head);
  drawFacts(head);
  redrawFigures();
  drawPlanned(head);
  drawSettings(head);
  byId("included").textContent = included(head);
  byId("more").hidden = head.runs.every(({ samples }) => samples.responses === samples.of_responses);
  byId("footer").textContent =
    `FastSvS ${head.version}. Drawn from ${listed([...head.runs, ...head.evaluations].map(({ path }) => path))}.`;
  const perRun = await Promise.all(head.runs.map((_, index) => get(`groups/${index}`)));
  problems.fill(head, perRun);
  await answers.fill(head);
  drawSections();
}

function redrawFigures() {
  drawView(state.head, redrawFigures);
  drawLegend(state.head, redrawFigures);
  drawFigures(state.head);
  drawSections();
}

/** How many responses are here, how they were chosen when not all are, and how many have tokens. */
function included(head) {
  const samples = head.runs.map((run) => run.samples);
  const [shown, total, withTokens] = ["responses", "of_responses", "with_tokens"].map((field) =>
    samples.reduce((sum, each) => sum + each[field], 0),
  );
  if (!total) return `No responses of ${head.runs.length === 1 ? "this run" : "these runs"} are here.`;
  const tokens = withTokens ? ` Tokens of ${grouped(withTokens)} are here, too.` : "";
  if (shown === total) return `All ${plural(total, "response")} of ${plural(head.runs.length, "run")}.${tokens}`;
  const where = samples.some((each) => each.steps < each.of_steps) ? "steps at even distances" : "all steps";
  return `${grouped(shown)} of ${plural(total, "response")}: whole families, from ${where}.${tokens}`;
}

start();
