// Figures of what happens to the policy underneath.

import { byLayer, histogram } from "./heat_maps.js";
import { COMPARED, FROM_ZERO, profile, quantiles } from "./kinds_of_figure.js";

export const DYNAMICS = [
  {
    id: "token-entropy",
    title: "Entropy of single tokens",
    about: "Few tokens carry the choices. Line: median; band: 10th to 90th percentile; dotted: 99th.",
    names: ["dynamics/entropy/*/p10", "dynamics/entropy/*/p50", "dynamics/entropy/*/p90", "dynamics/entropy/*/p99"],
    plots: quantiles("dynamics/entropy"),
  },
  {
    id: "entropy-at",
    title: "Entropy along the response",
    about: "Mean by position, in tenths of the response. Dashed: first measurement. Solid: the newest.",
    names: ["dynamics/entropy_at/*"],
    plots: profile("dynamics/entropy_at", { unit: "nats", title: "position" }),
  },
  {
    id: "solved",
    title: "How often problems are solved",
    about:
      "Groups by their number of correct samples: the stronger the colour, the more. What lies between none and all is what can be learned from.",
    names: ["dynamics/solved/*"],
    plots: histogram("dynamics/solved"),
  },
  {
    id: "effective-rank",
    title: "Effective rank of hidden states",
    about: "How many directions the final hidden states of a response use.",
    names: ["dynamics/effective_rank/*"],
    options: { common: true },
  },
  {
    id: "rank-velocity",
    title: "Velocity of the rank",
    about: "How the effective rank grows along a response.",
    names: ["dynamics/rank_velocity/*"],
    options: { common: true },
  },
  {
    id: "rank-acceleration",
    title: "Acceleration of the rank",
    about: "How that growth changes along a response.",
    names: ["dynamics/rank_acceleration/*"],
    options: { common: true },
  },
  {
    id: "diversity",
    title: "Diversity of answers",
    about: "Different final answers among the samples of a group, as a share.",
    names: ["dynamics/distinct_answers/*"],
    options: COMPARED,
  },
  {
    id: "wording",
    title: "Diversity of wording",
    about: "Different 4-grams of words among the responses of a group, as a share.",
    names: ["dynamics/distinct_text/*"],
    options: COMPARED,
  },
  {
    id: "answer-entropy",
    title: "Entropy of answers",
    about: "Of the final answers in a group: zero when all agree.",
    names: ["dynamics/answer_entropy/*"],
    options: COMPARED,
  },
  {
    id: "novelty",
    title: "Validity and novelty of the policy's problems",
    about:
      "Shares of what it wrote: problems that were valid, of these the rewarded and those unlike all others of the step; and how many of its word 3-grams the source lacks.",
    names: ["dynamics/variants_*", "dynamics/variant_novelty"],
    options: FROM_ZERO,
  },
  {
    id: "question-words",
    title: "Length of problems",
    about: "In words.",
    names: ["dynamics/question_words/*"],
    options: COMPARED,
  },
  {
    id: "experts",
    title: "Load of the experts",
    about:
      "Entropy of the experts' shares of the tokens, 1 when all have as many, mean over the layers; the largest share of any expert; the loss that evens them out.",
    names: ["policy/experts/entropy", "policy/experts/largest_share", "policy/experts/aux_loss"],
    options: FROM_ZERO,
  },
  {
    id: "experts-by-layer",
    title: "Load of the experts by layer",
    about: "The same of each layer, the first at the bottom: the stronger the colour, the larger.",
    names: ["policy/experts/entropy/*", "policy/experts/largest_share/*"],
    plots: byLayer(["policy/experts/entropy", "policy/experts/largest_share"]),
  },
  {
    id: "sparsity",
    title: "Sparsity of the update",
    about:
      "Share of parameters that are what they were when the run began: bit for bit, as bf16 numbers, and within a tolerance.",
    names: ["dynamics/sparsity/*"],
  },
  {
    id: "relative-change",
    title: "How far the weights have moved",
    about: "Norm of the change since the run began, over that of the weights.",
    names: ["dynamics/relative_change"],
    options: FROM_ZERO,
  },
];
