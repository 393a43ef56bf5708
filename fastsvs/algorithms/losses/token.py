"""PPO (GRPO, DAPO, Dr.GRPO), CISPO and SAPO by the names of the configuration."""

from __future__ import annotations

from fastsvs.algorithms.losses.registry import LOSSES
from fastsvs.algorithms.terms import PolicyLoss, TokenLoss, TokenTerms, loss_settings, token_level
from fastsvs.config import AlgorithmConfig
from fastsvs.kernels.token_loss import SURROGATES


def _by_name(name: str) -> PolicyLoss:
    def surrogate(terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
        formula = SURROGATES[name]
        return TokenLoss(*formula(terms.logprobs, terms.old_logprobs, terms.advantages, loss_settings(config)))

    return token_level(surrogate)


for _name in SURROGATES:
    LOSSES.register(_name)(_by_name(_name))
