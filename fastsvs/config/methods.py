"""The sections of single methods: what their papers leave open, with the papers' constants as defaults."""

from __future__ import annotations

from pydantic import Field

from fastsvs.config.section import Section


class RiseConfig(Section):
    """`selfplay.stage: rise`: the policy judges its own answers as well."""

    critiques_per_problem: int = Field(1, ge=0)
    """Responses of each problem, drawn at random, that it is asked about."""
    samples_per_critique: int = Field(8, ge=1)
    template: str | None = None
    """Text file with the question, `{question}` and `{response}` where they go; the built-in one when not set. What it
    asks for is a box with 1 for a right answer and 0 for a wrong one."""


class MajorityConfig(Section):
    """`algorithm.reward: majority`: the group's most frequent answer counts as right."""

    threshold: float = Field(0.0, ge=0, lt=1)
    """Groups whose majority is not above this share teach nothing."""
    soft: bool = False
    """The reward is the share of the group that gives the same answer, not 1 for the majority's alone."""


class VerlConfig(Section):
    """`algorithm.advantage: verl`: the advantage of `base`, raised where the hidden states' rank says so."""

    base: str = "grpo"
    """The AdvantageFn that is shaped."""
    gain: float = 2.0
    """Of the sigmoid that weighs exploration (effective rank) against exploitation (its velocity)."""
    kappa: float = Field(2.0, gt=0)
    """An advantage grows by no more than its own size / kappa."""
    momentum: float = Field(0.3, gt=0, le=1)
    """Weight of a step's mean in the running mean that the ranks are compared with."""
    bias_correction: bool = False
    """Divide the running mean, which begins at 0, by the weight that it has gathered (as Adam does)."""
    window: int = Field(512, ge=2)
    """Only so many last tokens of a response."""
    stride: int = Field(40, ge=1)
    """Tokens between two prefixes whose ranks are compared."""


class SamplerConfig(Section):
    """Which problems a step asks, and how often."""

    name: str = "epochs"
    """Sampler: `epochs`."""


class MergingConfig(Section):
    """Iterative model merging: from time to time back towards the weights that the run began with."""

    hook: str = "none"
    """CheckpointHook: `none`, `merge`."""
    every: int = Field(10, ge=1)
    """Steps between two merges."""
    weight: float = Field(0.5, ge=0, le=1)
    """Of the trained weights; 0 is the start, 1 changes nothing."""
    drop: float = Field(0.0, ge=0, lt=1)
    """Share of the changes that DARE sets to 0; the others grow by 1 / (1 - drop). The paper's is 0.2."""
    keep_moments: bool = False
    """Go on with Adam's moments instead of none."""
