"""The sections of single methods: what their papers leave open, with the papers' constants as defaults."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from fastsvs.config.section import InputPath, Section


class RiseConfig(Section):
    """`selfplay.stage: rise`: the policy judges its own answers as well."""

    critiques_per_problem: int = Field(1, ge=0)
    """Responses of each problem, drawn at random, that it is asked about."""
    samples_per_critique: int = Field(8, ge=1)
    template: InputPath | None = None
    """Text file with the question, `{question}` and `{response}` where they go; the built-in one when not set. What it
    asks for is a box with 1 for a right answer and 0 for a wrong one."""


class MajorityConfig(Section):
    """`algorithm.reward: majority`: the group's most frequent answer counts as right."""

    threshold: float = Field(0.0, ge=0, lt=1)
    """Groups whose majority is not above this share teach nothing."""
    soft: bool = False
    """The reward is the share of the group that gives the same answer, not 1 for the majority's alone."""


class CovoConfig(Section):
    """`algorithm.reward: covo`: answers are worth as much as the way to them was steady."""

    states: int = Field(15, ge=1)
    """Steps that a response is cut into at most, at the ends of lines; before each of them the answers are weighed."""
    lead_in: str = "The answer is: "
    """Between what is written so far and an answer that is weighed."""
    threshold: float | None = None
    """When set, an answer earns 1 from here on and 0 below, as in the released code with 0.5; otherwise the score."""
    curiosity: float = Field(0.0, ge=0)
    """Weight of the bonus for steps that are surprising as a whole, rather than in a few tokens."""


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
    """Sampler: `epochs`, `threshold_clipping`, `repeat_padding`, `adaptive_resampling`, `guided_resampling`,
    `consensus_curriculum`."""
    most_correct: int = Field(4, ge=1)
    """`threshold_clipping`: correct responses of a problem that are learned from, at most (the paper's L)."""
    padded_correct: int | None = Field(None, ge=1)
    """`repeat_padding`: correct responses of a problem after repetition, at least (the paper's K);
    `rollout.samples_per_prompt` when not set."""
    easiest_share: float = Field(1 / 3, gt=0, le=1)
    """`consensus_curriculum`: of the problems the share that is trained on, by the size of their majority."""


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


class SelfVerificationConfig(Section):
    """`sets.<name>.verify` of `fastsvs eval`: the model votes on its own responses."""

    samples: int = Field(8, ge=1)
    """Votes on each response."""
    template: InputPath | None = None
    """Text file with the question, like `selfplay.rise.template`; the built-in one when not set."""
    max_prompt_tokens: int | None = Field(None, ge=1)
    """Longer questions are not put, and counted as `unjudged`; prompt and response limit together when not set."""
    max_response_tokens: int | None = Field(None, ge=1)
    """Of a vote; the set's limit when not set."""


class SelfConfig(Section):
    """`fastsvs self`: rounds of feedback and refinement, after each of which the model learns what it approved."""

    rounds: int = Field(3, ge=1)
    feedback_template: InputPath | None = None
    """Text file, `{question}` and `{response}` where they go; the built-in one when not set."""
    refinement_template: InputPath | None = None
    """Text file, `{question}`, `{response}` and `{feedback}` where they go; the built-in one when not set."""
    approval: str = r"\\boxed\{1\}"
    """Regular expression that is found in a feedback that calls a response right, and in no other."""
    replay: str | None = None
    """Dialogues that taught the model to judge and to mend (like `data.path` of `fastsvs sft`), learned from in every
    round as well, lest it forgets."""
    replay_share: float = Field(0.5, gt=0, lt=1)
    """Of a round's examples."""
    max_prompt_tokens: int | None = Field(None, ge=1)
    """Longer questions for feedback or refinement are not put, and counted; the prompt limit and twice the response
    limit when not set."""
    max_example_tokens: int = Field(4096, ge=2)
    """Longer examples are not learned from, and counted."""

    @field_validator("approval")
    @classmethod
    def _approval_is_an_expression(cls, approval: str) -> str:
        try:
            re.compile(approval)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return approval
