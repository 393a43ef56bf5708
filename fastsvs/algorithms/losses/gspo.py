"""GSPO (arXiv 2507.18071), in its token form (section 4.3): one ratio for a whole sequence."""

from __future__ import annotations

from fastsvs.algorithms.losses.registry import LOSSES
from fastsvs.algorithms.terms import TokenLoss, TokenTerms, loss_settings
from fastsvs.config import AlgorithmConfig
from fastsvs.kernels.token_loss import LOG_RATIO_LIMIT, clipped_surrogate


@LOSSES.register("gspo")
def gspo(terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
    """Return PPO's clipped loss of the ratio `s_t = sg(s) p_t / sg(p_t)`; s is the geometric mean of the sequence's
    token ratios.

    With `sequence_mean` aggregation its gradient is that of the mean over sequences of the loss in s itself. The
    paper's range is far narrower than PPO's: clip_low 3e-4, clip_high 4e-4, no dual clip.
    """
    logprobs = terms.logprobs
    now = logprobs.detach()
    zeros = now.new_zeros(terms.sequences)
    lengths = zeros.index_add(0, terms.sequence, now.new_ones(len(now)))
    mean = zeros.index_add(0, terms.sequence, now - terms.old_logprobs) / lengths
    log_ratio = mean[terms.sequence] + (logprobs - now)
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    return TokenLoss(*clipped_surrogate(ratio, terms.advantages, loss_settings(config)))
