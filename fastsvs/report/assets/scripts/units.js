// Units of metrics by their names; tests hold them against the documentation. Own metrics have none.

const UNITS = [
  ["tokens/s", /tokens_per_second$/],
  ["GB/s", /gigabytes_per_second$/],
  ["seconds", /^time\/(?!engine_idle)|seconds$/],
  ["bytes", /^sync\/bytes$/],
  ["GiB", /^system\/peak/],
  ["share", /^policy\/experts\/(entropy|largest_share)/],
  ["nats", /entropy|_kl$|mismatch/],
  ["share", /(^|\/)(solve_rate|proposal_solve_rate|distinct_\w+)\/|_share$|^(pass|maj)@/],
  ["share", /^credit\/(covo_(consistency|volatility)|verl_raised)$|^policy\/(tokens_saved|ratio_cut|gradient_kept)$/],
  ["share", /^policy\/(clip_fraction_|correction_limited)|^dynamics\/(variant|sparsity)|mixed_versions$|engine_idle$/],
  ["share", /^(truncated|unverified|distinct_answers|gap|gap_filtered|relative_gap|verification_accuracy)$/],
  ["share", /^(called_right|unread_votes|unjudged)$|^sync\/changed$/],
  ["tokens", /response_tokens|generated_tokens/],
  ["reward", /^reward\/|^overlong_penalty\//],
  ["advantage", /^credit\/verl_bonus$/],
  ["loss", /^policy\/(loss|experts\/aux_loss)$/],
  ["norm", /^policy\/grad_norm$/],
  ["rate", /^policy\/learning_rate$/],
  ["ratio", /^policy\/(ratio|correction_weight)$|^dynamics\/relative_change$/],
  ["rank", /^dynamics\/(effective_rank|rank_\w+)\//],
  ["words", /^dynamics\/question_words\//],
  ["versions", /^rollout\/version_lag$/],
  ["count", /^(samples|groups|kept_\w+|truncated|unverified|all_\w+|overlong|rejected|valid|learnable|repeated)\//],
  ["count", /^(buffer|from_buffer|frozen|prompts_too_long|program_nodes|sampler|refill|budget|credit|rollout|sync)\//],
  [
    "count",
    /^(underperforming|contexts|critiques|variants)(_\w+)?$|^policy\/(updates|idle_samples)$|^dynamics\/solved\//,
  ],
  ["count", /^(problems|samples_per_problem|step)$/],
];

/** The unit of a metric, or an empty string for one that is not known. */
export function unitOf(name) {
  return UNITS.find(([, pattern]) => pattern.test(name))?.[0] ?? "";
}
