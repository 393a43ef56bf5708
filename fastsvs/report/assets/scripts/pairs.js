// Two sheets of answers to one set, problem by problem. Pure functions.

/** What stands for a problem in every evaluation of its set: its id with its text, as ids need not be unique. */
export function nameOf({ id, question }) {
  return `${id}\n${question}`;
}

/** Problems of the newer sheet, with those of the older beside them where it has them too. Their `id` is what stands for
 * them in every evaluation; the one of the data set is their `source`. */
export function pair(before, after) {
  const known = new Map((before ?? []).map((problem) => [nameOf(problem), problem]));
  return after.map((problem) => {
    const id = nameOf(problem);
    const older = known.get(id) ?? null;
    const one = {
      ...problem,
      id,
      source: problem.id,
      before: older ? tally(older) : null,
      after: tally(problem),
      older,
    };
    return { ...one, turn: older ? turnOf(one) : null, haystack: haystackOf(problem) };
  });
}

/** Whether the page has tokens of the responses to the problem, of either sheet. */
export function hasTokens({ logged, older }) {
  return logged || Boolean(older?.logged);
}

function haystackOf({ id, question, answer }) {
  return `${id}\n${question}\n${answer}`.toLowerCase();
}

function tally({ verdicts, majority }) {
  return { correct: verdicts.split("c").length - 1, samples: verdicts.length, majority };
}

/** Words for what became of a problem, best first. */
export const TURNS = {
  right: "newly solved",
  better: "solved more often",
  same: "as before",
  worse: "solved less often",
  wrong: "no longer solved",
};

/** One of TURNS: 0 correct before and some after is "right", the reverse is "wrong". */
function turnOf({ before, after }) {
  if (!before.correct && after.correct) return "right";
  if (before.correct && !after.correct) return "wrong";
  const gain = gainOf({ before, after });
  return gain > 0 ? "better" : gain < 0 ? "worse" : "same";
}

/** By how much the share of correct samples rose. */
export function gainOf({ before, after }) {
  return before ? rate(after) - rate(before) : 0;
}

function rate({ correct, samples }) {
  return samples ? correct / samples : 0;
}

/** The unbiased estimate of pass@k (Chen et al. 2021): 1 - C(n - c, k) / C(n, k). */
function passAtK({ correct, samples }, k) {
  if (samples - correct < k) return 1;
  let miss = 1;
  for (let i = 0; i < k; i += 1) miss *= (samples - correct - i) / (samples - i);
  return 1 - miss;
}

const TWO_SIDED = 1.96;
const MEASURES = {
  pass: (tally, k) => (tally.samples < k ? null : passAtK(tally, k)),
  maj: ({ majority }, k) => majority[k] ?? null,
};

/** By how much `kind`@k rose over the problems that both sheets have, with its 95% interval: the mean of the problems'
 * differences, give or take 1.96 standard errors. Null where a problem has no such figure, as with fewer than k
 * samples. */
export function difference(pairs, kind, k) {
  const measure = MEASURES[kind];
  const both = pairs.filter(({ before }) => before);
  const ends = measure ? both.map(({ before, after }) => [measure(before, k), measure(after, k)]) : [];
  if (ends.length < 2 || ends.flat().includes(null)) return null;
  const gains = ends.map(([before, after]) => after - before);
  const mean = gains.reduce((sum, gain) => sum + gain, 0) / gains.length;
  const spread = gains.reduce((sum, gain) => sum + (gain - mean) ** 2, 0) / (gains.length - 1);
  const reach = TWO_SIDED * Math.sqrt(spread / gains.length);
  return { mean, low: mean - reach, high: mean + reach };
}

/** Whether some set was answered twice. */
export function hasPair(sheets) {
  return new Set(sheets.map(({ set }) => set)).size < sheets.length;
}

/** Which two sheets to begin with: the first of a set, and the newest of the same run, or the last evaluation. */
export function firstPair(sheets, set) {
  const of = sheets.map((sheet, index) => ({ ...sheet, index })).filter((sheet) => sheet.set === set);
  const own = of.filter(({ run }) => run === of[0].run);
  const after = own[own.length - 1];
  return { before: own.length > 1 ? own[0].index : null, after: after.index };
}
