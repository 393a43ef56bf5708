// Which figures there are, and where. A figure whose names no run has is left out; names of no figure go to the rest.

import { heldOut, histogram, lines, passAgainstK, profile, quantiles, stack } from "./kinds_of_figure.js";
import { metricNames } from "./series.js";

const PANELS = [
  {
    section: "learning",
    id: "held-out",
    title: "Held-out problems",
    about:
      "pass@k: at least one of k responses is correct, the unbiased estimate. maj@k: the most frequent answer of k is. Bands are 95% intervals over problems, of experiments with a single run.",
    plots: heldOut((name) => /^(pass|maj)@/.test(name)),
  },
  {
    section: "learning",
    id: "held-out-responses",
    title: "Held-out responses",
    about:
      "Their length in tokens; the shares of those that hit the token limit and of those whose check failed; and minus the mean log-prob of their tokens, an estimate of the entropy.",
    plots: heldOut((name) => ["response_tokens", "truncated", "unverified", "entropy_estimate"].includes(name)),
  },
  {
    section: "learning",
    id: "pass-at-k",
    title: "pass@k against k",
    about: "Where more samples stop helping. Dashed: before training. Solid: the newest evaluation.",
    plots: passAgainstK,
  },
  {
    section: "learning",
    id: "solve-rate",
    title: "Solve rate in training",
    about:
      "Correct among verified responses, before the filters: on problems of the data set, and on those that the policy wrote.",
    names: ["solve_rate/*"],
    options: { unit: "share", zero: true, top: 1, common: true },
  },
  {
    section: "learning",
    id: "entropy",
    title: "Entropy of the policy",
    about:
      "Of the next-token distribution at the sampling temperature, mean over response tokens. Collapse means that exploration ends.",
    names: ["policy/entropy", "policy/entropy/*"],
    options: { unit: "nats", zero: true, common: true, titles: { "policy/entropy": "all" } },
  },
  {
    section: "learning",
    id: "responses",
    title: "Responses learned from",
    about: "Of each kind, after the filters.",
    names: ["kept_samples/*"],
    plots: stack("kept_samples/*"),
  },
  {
    section: "learning",
    id: "variants",
    title: "From asked to rewarded",
    about:
      "Problems that the policy was asked to write; those that its responses contained; those that were solved; those of the right difficulty.",
    names: ["variants_asked", "variants_extracted", "variants_valid", "variants_positive"],
    plots: stack("variants_*", { order: ["asked", "extracted", "valid", "positive"], accumulate: false }),
  },
  {
    section: "learning",
    id: "rejections",
    title: "Why problems were rejected",
    about: "Responses that gave no problem to solve.",
    names: ["rejected/*"],
    plots: stack("rejected/*"),
  },
  {
    section: "learning",
    id: "contexts",
    title: "Where new problems come from",
    about: "Half-solved problems of the step, and the correct responses to them, from which the policy writes.",
    names: ["underperforming", "contexts", "contexts_too_long"],
    options: { unit: "count", zero: true },
  },
  {
    section: "learning",
    id: "budget",
    title: "What the budget saves and spends",
    about:
      "Responses that were not asked, because the answers before them came out alike; those to further contexts; and what is left, below 0 a debt.",
    names: ["budget/saved", "budget/spent", "budget/left"],
    options: { unit: "count", zero: true },
  },
  {
    section: "learning",
    id: "reward",
    title: "Reward",
    about: "Mean over responses, before the filters.",
    names: ["reward/mean", "reward/*"],
    options: { zero: true, common: true },
  },
  {
    section: "learning",
    id: "gradient",
    title: "Optimization",
    about: "Global norm of the gradient before clipping, the objective, and the learning rate.",
    names: ["policy/grad_norm", "policy/loss", "policy/learning_rate"],
    options: {},
  },
  {
    section: "learning",
    id: "mismatch",
    title: "How far sampling and training are apart",
    about:
      "Log-probs of the rollout engine against those of the policy before the update; and of the policy before and after it.",
    names: ["policy/rollout_mismatch", "policy/rollout_mismatch_max", "policy/rollout_kl", "policy/approx_kl"],
    options: { unit: "nats", zero: true },
  },
  {
    section: "learning",
    id: "clipping",
    title: "Tokens whose gradient is cut",
    about: "Share of response tokens beyond the limits of the loss and of the corrections.",
    names: ["policy/clip_fraction_*", "policy/ratio_cut", "policy/correction_limited"],
    options: { unit: "share", zero: true },
  },
  {
    section: "learning",
    id: "troubles",
    title: "Truncated and unverified",
    about: "Responses that hit the token limit, and those whose check failed.",
    names: ["truncated/*", "unverified/*"],
    options: { unit: "count", zero: true },
  },
  {
    section: "dynamics",
    id: "token-entropy",
    title: "Entropy of single tokens",
    about: "Few tokens carry the choices. Line: median; band: 10th to 90th percentile; dotted: 99th.",
    names: ["dynamics/entropy/*/p10", "dynamics/entropy/*/p50", "dynamics/entropy/*/p90", "dynamics/entropy/*/p99"],
    plots: quantiles("dynamics/entropy"),
  },
  {
    section: "dynamics",
    id: "entropy-at",
    title: "Entropy along the response",
    about: "Mean by position, in tenths of the response. Dashed: first measurement. Solid: the newest.",
    names: ["dynamics/entropy_at/*"],
    plots: profile("dynamics/entropy_at", { unit: "nats", title: "position" }),
  },
  {
    section: "dynamics",
    id: "solved",
    title: "How often problems are solved",
    about:
      "Groups by their number of correct samples: the stronger the colour, the more. What lies between none and all is what can be learned from.",
    names: ["dynamics/solved/*"],
    plots: histogram("dynamics/solved"),
  },
  {
    section: "dynamics",
    id: "effective-rank",
    title: "Effective rank of hidden states",
    about: "How many directions the final hidden states of a response use.",
    names: ["dynamics/effective_rank/*"],
    options: { common: true },
  },
  {
    section: "dynamics",
    id: "rank-velocity",
    title: "Velocity of the rank",
    about: "How the effective rank grows along a response.",
    names: ["dynamics/rank_velocity/*"],
    options: { common: true },
  },
  {
    section: "dynamics",
    id: "rank-acceleration",
    title: "Acceleration of the rank",
    about: "How that growth changes along a response.",
    names: ["dynamics/rank_acceleration/*"],
    options: { common: true },
  },
  {
    section: "dynamics",
    id: "diversity",
    title: "Diversity of answers",
    about: "Different final answers among the samples of a group, as a share.",
    names: ["dynamics/distinct_answers/*"],
    options: { unit: "share", zero: true, common: true },
  },
  {
    section: "dynamics",
    id: "wording",
    title: "Diversity of wording",
    about: "Different 4-grams of words among the responses of a group, as a share.",
    names: ["dynamics/distinct_text/*"],
    options: { unit: "share", zero: true, common: true },
  },
  {
    section: "dynamics",
    id: "answer-entropy",
    title: "Entropy of answers",
    about: "Of the final answers in a group: zero when all agree.",
    names: ["dynamics/answer_entropy/*"],
    options: { unit: "nats", zero: true, common: true },
  },
  {
    section: "dynamics",
    id: "novelty",
    title: "Validity and novelty of the policy's problems",
    about:
      "Shares of what it wrote: problems that were valid, of these the rewarded and those unlike all others of the step; and how many of its word 3-grams the source lacks.",
    names: ["dynamics/variants_*", "dynamics/variant_novelty"],
    options: { unit: "share", zero: true },
  },
  {
    section: "dynamics",
    id: "question-words",
    title: "Length of problems",
    about: "In words.",
    names: ["dynamics/question_words/*"],
    options: { zero: true, common: true },
  },
  {
    section: "dynamics",
    id: "sparsity",
    title: "Sparsity of the update",
    about:
      "Share of parameters that are what they were when the run began: bit for bit, as bf16 numbers, and within a tolerance.",
    names: ["dynamics/sparsity/*"],
    options: { unit: "share" },
  },
  {
    section: "dynamics",
    id: "relative-change",
    title: "How far the weights have moved",
    about: "Norm of the change since the run began, over that of the weights.",
    names: ["dynamics/relative_change"],
    options: { zero: true },
  },
  {
    section: "time",
    id: "time-split",
    title: "Where a step's time goes",
    about: "Seconds of a step, mean over seeds. Verification stands for itself where nothing else went on meanwhile.",
    names: [
      "time/save",
      "time/checkpoint_write",
      "time/offload",
      "time/sync",
      "time/rollout",
      "time/update",
      "time/verification",
      "time/diagnostics",
      "time/step",
      "time/generation",
    ],
    plots: stack("*", {
      unit: "seconds",
      order: ["save", "sync", "rollout", "verification", "update", "diagnostics", "rest"],
      read: (run) => run.time,
    }),
  },
  {
    section: "time",
    id: "throughput",
    title: "Throughput",
    about: "Tokens a second: sampled, over the whole step; learned from, over the update.",
    names: ["throughput/*"],
    options: { zero: true },
  },
  {
    section: "time",
    id: "engine",
    title: "Rollout engine",
    about: "Share of the time without work; how many versions old the weights were that sampled what is learned from.",
    names: ["time/engine_idle", "rollout/version_lag", "rollout/mixed_versions"],
    options: { zero: true },
  },
  {
    section: "time",
    id: "weights",
    title: "Weights on their way to the engine",
    about: "Of the last update that sent anything.",
    names: ["sync/seconds", "sync/gigabytes_per_second", "sync/retries"],
    options: { zero: true },
  },
];

/** Every panel with its plots; then the names that no panel takes, by the part before their last slash. */
export function planFigures(head) {
  const taken = PANELS.flatMap(({ names = [] }) => names);
  const left = metricNames(head).filter((name) => name !== "step" && !taken.some((pattern) => covers(pattern, name)));
  const groups = Map.groupBy(left.sort(), (name) => name.split("/").slice(0, -1).join("/") || "other");
  const home = (prefix) => (prefix.startsWith("dynamics") ? "dynamics" : "rest");
  const rest = [...groups].map(([prefix, names]) => ({
    section: home(prefix),
    id: `rest-${prefix}`,
    title: prefix,
    names,
    options: {},
  }));
  return [...PANELS, ...rest].map((panel) => ({ ...panel, plots: panel.plots ?? lines(panel.names, panel.options) }));
}

function covers(pattern, name) {
  const [start, end] = pattern.split("*");
  return end === undefined
    ? name === pattern
    : name.startsWith(start) && name.endsWith(end) && name.length > pattern.length - 1;
}
