// Figures of what is learned, and of what it is learned from.

import { COMPARED, FROM_ZERO, heldOut, passAgainstK, stack } from "./kinds_of_figure.js";

export const LEARNING = [
  {
    id: "held-out",
    title: "Held-out problems",
    about:
      "pass@k: at least one of k responses is correct, the unbiased estimate. maj@k: the most frequent answer of k is. Bands are 95% intervals over problems, of experiments with a single run.",
    plots: heldOut((name) => /^(pass|maj)@/.test(name)),
  },
  {
    id: "held-out-responses",
    title: "Held-out responses",
    about:
      "Their length in tokens; the shares of those that hit the token limit and of those whose check failed; and minus the mean log-prob of their tokens, an estimate of the entropy.",
    plots: heldOut((name) => ["response_tokens", "truncated", "unverified", "entropy_estimate"].includes(name)),
  },
  {
    id: "pass-at-k",
    title: "pass@k against k",
    about: "Where more samples stop helping. Dashed: before training. Solid: the newest evaluation.",
    plots: passAgainstK,
  },
  {
    id: "solve-rate",
    title: "Solve rate in training",
    about:
      "Correct among verified responses, before the filters: on problems of the data set, and on those that the policy wrote.",
    names: ["solve_rate/*"],
    options: { ...COMPARED, top: 1 },
  },
  {
    id: "entropy",
    title: "Entropy of the policy",
    about:
      "Of the next-token distribution at the sampling temperature, mean over response tokens. Collapse means that exploration ends.",
    names: ["policy/entropy", "policy/entropy/*"],
    options: { ...COMPARED, titles: { "policy/entropy": "all" } },
  },
  {
    id: "responses",
    title: "Responses learned from",
    about: "Of each kind, after the filters.",
    names: ["kept_samples/*"],
    plots: stack("kept_samples/*"),
  },
  {
    id: "variants",
    title: "From asked to rewarded",
    about:
      "Problems that the policy was asked to write; those that its responses contained; those that were solved; those of the right difficulty.",
    names: ["variants_asked", "variants_extracted", "variants_valid", "variants_positive"],
    plots: stack("variants_*", { order: ["asked", "extracted", "valid", "positive"], accumulate: false }),
  },
  {
    id: "rejections",
    title: "Why problems were rejected",
    about: "Responses that gave no problem to solve.",
    names: ["rejected/*"],
    plots: stack("rejected/*"),
  },
  {
    id: "contexts",
    title: "Where new problems come from",
    about: "Half-solved problems of the step, and the correct responses to them, from which the policy writes.",
    names: ["underperforming", "contexts", "contexts_too_long"],
    options: FROM_ZERO,
  },
  {
    id: "budget",
    title: "What the budget saves and spends",
    about:
      "Responses that were not asked, because the answers before them came out alike; those to further contexts; and what is left, below 0 a debt.",
    names: ["budget/saved", "budget/spent", "budget/left"],
    options: FROM_ZERO,
  },
  {
    id: "reward",
    title: "Reward",
    about: "Mean over responses, before the filters.",
    names: ["reward/mean", "reward/*"],
    options: COMPARED,
  },
  {
    id: "gradient",
    title: "Optimization",
    about: "Global norm of the gradient before clipping, the objective, and the learning rate.",
    names: ["policy/grad_norm", "policy/loss", "policy/learning_rate"],
  },
  {
    id: "mismatch",
    title: "How far sampling and training are apart",
    about:
      "Log-probs of the rollout engine against those of the policy before the update; and of the policy before and after it.",
    names: ["policy/rollout_mismatch", "policy/rollout_mismatch_max", "policy/rollout_kl", "policy/approx_kl"],
    options: FROM_ZERO,
  },
  {
    id: "clipping",
    title: "Tokens whose gradient is cut",
    about: "Share of response tokens beyond the limits of the loss and of the corrections.",
    names: ["policy/clip_fraction_*", "policy/ratio_cut", "policy/correction_limited"],
    options: FROM_ZERO,
  },
  {
    id: "troubles",
    title: "Truncated and unverified",
    about: "Responses that hit the token limit, and those whose check failed.",
    names: ["truncated/*", "unverified/*"],
    options: FROM_ZERO,
  },
];
