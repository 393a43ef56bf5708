"""The token loss that the policy minimises: surrogate x rollout correction + KL to the reference - entropy bonus."""

from __future__ import annotations

from dataclasses import dataclass

from fastsvs.algorithms.losses import LOSSES
from fastsvs.algorithms.metrics import joined
from fastsvs.algorithms.terms import PolicyLoss, TokenLoss, TokenTerms, is_token_level, loss_settings
from fastsvs.config import AlgorithmConfig
from fastsvs.errors import UserError
from fastsvs.kernels.token_loss import SURROGATES, with_terms


@dataclass(frozen=True, slots=True)
class CompleteLoss:
    """A `PolicyLoss` around the surrogate of this name."""

    name: str
    surrogate: PolicyLoss

    @property
    def token_level(self) -> bool:
        """Check whether the surrogate looks at each token alone."""
        return is_token_level(self.surrogate)

    @property
    def built_in(self) -> bool:
        """Check whether the kernels know the loss by its settings."""
        return self.name in SURROGATES

    def __call__(self, terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
        policy = self.surrogate(terms, config)
        if not isinstance(policy, TokenLoss) or policy.loss.shape != terms.logprobs.shape:
            raise UserError(f"policy loss {self.name!r} must return a TokenLoss with a loss for each token, [tokens]")
        loss, metrics = with_terms(
            policy.loss,
            {},
            loss_settings(config),
            terms.logprobs,
            terms.entropy,
            terms.old_logprobs,
            terms.rollout_logprobs,
            terms.reference_logprobs,
        )
        return TokenLoss(loss, joined(metrics, policy.metrics))

    def describe(self) -> str:
        """Describe in one line how the loss is computed."""
        if self.token_level:
            return f"policy loss {self.name}: in one pass with its gradient, three products with the output weight"
        return f"policy loss {self.name}: by way of log-probs, four products with the output weight"


def policy_loss(config: AlgorithmConfig) -> CompleteLoss:
    """Return the loss that `config` describes. Raises UserError for an unknown name or an empty range."""
    surrogate = LOSSES.get(config.loss)
    _check_ranges(config)
    return CompleteLoss(config.loss, surrogate)


def _check_ranges(config: AlgorithmConfig) -> None:
    ranges = {"ratio_min, ratio_max": (config.ratio_min, config.ratio_max), "icepop_range": config.icepop_range}
    for name, (low, high) in ranges.items():
        if not 0 <= low < high:
            raise UserError(f"algorithm.{name} must be 0 <= low < high, got {low} and {high}")
