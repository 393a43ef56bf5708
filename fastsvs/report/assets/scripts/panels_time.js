// Figures of time and of machinery.

import { FROM_ZERO, stack } from "./kinds_of_figure.js";

export const TIME = [
  {
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
    id: "throughput",
    title: "Throughput",
    about: "Tokens a second: sampled, over the whole step; learned from, over the update.",
    names: ["throughput/*"],
    options: FROM_ZERO,
  },
  {
    id: "engine",
    title: "Rollout engine",
    about: "Share of the time without work; how many versions old the weights were that sampled what is learned from.",
    names: ["time/engine_idle", "rollout/version_lag", "rollout/mixed_versions"],
    options: FROM_ZERO,
  },
  {
    id: "weights",
    title: "Weights on their way to the engine",
    about: "Of the last update that sent anything.",
    names: ["sync/seconds", "sync/gigabytes_per_second", "sync/retries"],
    options: FROM_ZERO,
  },
];
