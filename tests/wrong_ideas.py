"""Plug-ins that are wrong in every way that a plug-in can be, for the tests of everyday mistakes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fastsvs.algorithms import Batch, Context, TokenLoss, TokenTerms, token_level
from fastsvs.config import AlgorithmConfig, DataConfig, MergingConfig
from fastsvs.rollout import EngineSpec, LocalEngine
from fastsvs.selfplay import Draw, Experience, Group, PlainStage, ShuffledEpochs

number = 5


def nothing(*_: object) -> None:
    """Return what is no plug-in's result."""


def lonely() -> None:
    """Take no arguments."""


def told_as_text(question: str, config: DataConfig, mode: str) -> str:
    return question


def told_to_nobody(question: str, config: DataConfig, mode: str) -> list[dict[str, str]]:
    return [{"content": question}]


def nan_rewards(batch: Batch, context: Context) -> Tensor:
    return torch.full((len(batch),), float("nan"))


def one_infinite_reward(batch: Batch, context: Context) -> Tensor:
    rewards = batch.response_lengths.float()
    rewards[1] = float("inf")
    return rewards


def one_reward(batch: Batch, context: Context) -> Tensor:
    return torch.ones(1)


def listed_rewards(batch: Batch, context: Context) -> list[float]:
    return [0.0] * len(batch)


def nan_metric(batch: Batch, context: Context) -> Tensor:
    context.metrics["surprise"] = float("nan")
    return batch.response_lengths.float()


def nan_advantages(batch: Batch, context: Context) -> Tensor:
    return batch.rewards * float("nan")


def wide_advantages(batch: Batch, context: Context) -> Tensor:
    return batch.rewards[:, None]


@token_level
def infinite_loss(terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
    return TokenLoss(terms.logprobs * float("inf"), {})


@token_level
def infinite_loss_metric(terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
    surprise = terms.logprobs.detach() * float("inf")
    return TokenLoss(-terms.advantages * terms.logprobs, {"surprise": surprise})


def bare_loss(terms: TokenTerms, config: AlgorithmConfig) -> Tensor:
    return -terms.logprobs


class NanStage(PlainStage):
    def finish(self, groups: list[Group]) -> Experience:
        experience = super().finish(groups)
        rewarded = [replace(group, rewards=(float("nan"),) * len(group.rollouts)) for group in experience.discarded]
        return replace(experience, groups=rewarded, discarded=experience.groups)


class FarSampler(ShuffledEpochs):
    def draw(self, step: int) -> list[Draw]:
        return [Draw(10**6, 4)]


def nan_hook(config: MergingConfig, seed: int):
    return lambda name, first, current: current * float("nan")


class SilentEngine(LocalEngine):
    """Says no experts, whatever it is told."""

    @classmethod
    def build(cls, spec: EngineSpec) -> LocalEngine:
        return super().build(replace(spec, tells_experts=False))
