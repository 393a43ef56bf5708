// Groups of all runs in one list, their families, and the filter. Pure functions.

import { average } from "./series.js";

/** The groups with what they lack in the file: run, step, the reward of the problem, and their children. */
export function linkGroups(perRun) {
  const all = [];
  perRun.forEach(({ steps }, run) =>
    steps.forEach(({ step, groups }) => {
      const byKey = new Map();
      for (const each of groups) {
        const group = { ...each, run, step, id: `${run}/${step}/${each.key}`, children: [] };
        group.above = byKey.get(each.parent) ?? null;
        group.above?.children.push(group);
        group.correct = tally(each.verdicts, "c");
        group.verified = each.verdicts.length - tally(each.verdicts, "u");
        group.reward = earned(group);
        group.haystack = `${each.question}\n${each.answer}\n${each.problem}`.toLowerCase();
        byKey.set(each.key, group);
        all.push(group);
      }
    }),
  );
  return all;
}

function tally(letters, letter) {
  return letters.split(letter).length - 1;
}

/** What writing a problem earned, for a problem that the policy wrote; else the mean over the responses. */
function earned(group) {
  const writing = group.above?.kind === "synthesis" ? group.above.rewards[group.sample] : undefined;
  if (writing !== undefined) return writing;
  return group.rewards.length ? average(group.rewards) : null;
}

const OUTCOMES = {
  solved: ({ correct, verified }) => verified > 0 && correct === verified,
  mixed: ({ correct, verified }) => correct > 0 && correct < verified,
  unsolved: ({ correct, verified }) => verified > 0 && correct === 0,
  unverified: ({ verdicts }) => verdicts.includes("u"),
};

const REWARDS = {
  positive: (reward) => reward !== null && reward > 0,
  zero: (reward) => reward === 0,
  negative: (reward) => reward !== null && reward < 0,
};

/** Whether a group passes: { words, run, from, to, kinds, outcome, reward, trained, responses, logged }. */
export function passes(group, wanted) {
  return (
    (wanted.run === null || group.run === wanted.run) &&
    group.step >= wanted.from &&
    group.step <= wanted.to &&
    (!wanted.kinds.size || wanted.kinds.has(group.kind)) &&
    (!wanted.outcome || OUTCOMES[wanted.outcome](group)) &&
    (!wanted.reward || REWARDS[wanted.reward](group.reward)) &&
    (wanted.trained === null || group.trained === wanted.trained) &&
    (!wanted.logged || group.logged) &&
    (wanted.words.every((word) => group.haystack.includes(word)) || Boolean(wanted.responses?.has(group.id)))
  );
}

export function rootOf(group) {
  return group.above ? rootOf(group.above) : group;
}
