"""The sections of single methods. Defaults are the constants of their papers."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from fastsvs.config.section import AnyPath, InputPath, Section


class RiseConfig(Section):
    """RISE (`selfplay.stage: rise`): the policy judges its own answers as well. See docs/methods.md#rise."""

    critiques_per_problem: int = Field(1, ge=0)
    """Number of responses to each problem, drawn at random, that the policy is asked to judge; 0 asks for none."""
    samples_per_critique: int = Field(8, ge=1)
    """Number of judgements sampled for each of these responses."""
    template: InputPath | None = None
    """Text file with the question, `{question}` and `{response}` where they go; null takes the built-in one. It must
    ask for a box with 1 for a right answer and 0 for a wrong one."""


class MajorityConfig(Section):
    """Majority vote (`algorithm.reward: majority`): the most frequent answer of a group counts as right. See
    docs/methods.md#majority-vote."""

    threshold: float = Field(0.0, ge=0, lt=1)
    """Share of a group that its majority must exceed; groups with a smaller majority are not learned from. 0 accepts
    every majority."""
    soft: bool = False
    """Reward by degrees: every response earns the share of the group that gives the same answer, instead of 1 for the
    majority and 0 for the rest."""


class CovoConfig(Section):
    """CoVo (`algorithm.reward: covo`): an answer is worth as much as the steps of its responses lead to it steadily.
    See docs/methods.md#covo."""

    states: int = Field(15, ge=1)
    """Maximum number of steps that a response is cut into, at the ends of lines; before each step the answers of the
    group are scored."""
    lead_in: str = "The answer is: "
    """Text between the steps so far and the answer that is scored."""
    threshold: float | None = None
    """Score from which an answer earns 1, below it 0 (the released code has 0.5); null gives the score itself."""
    curiosity: float = Field(0.0, ge=0)
    """Weight of the bonus for steps that are surprising as a whole, rather than in a few tokens; 0 turns it off."""


class VerlConfig(Section):
    """VERL (`algorithm.advantage: verl`): another advantage, raised by the effective rank of hidden states. See
    docs/methods.md#verl."""

    base: str = "grpo"
    """AdvantageFn that is raised: `grpo`, `rloo`, `trr` or `module:object`."""
    gain: float = 2.0
    """Gain of the sigmoid that weighs exploration (effective rank) against exploitation (its velocity)."""
    kappa: float = Field(2.0, gt=0)
    """Divisor of the largest raise: an advantage grows by at most its own size / `kappa`."""
    momentum: float = Field(0.3, gt=0, le=1)
    """Weight of the newest step in the running means that ranks are compared with; 1 takes that step alone."""
    bias_correction: bool = False
    """Correction of the running means for their start at 0, as in Adam."""
    window: int = Field(512, ge=2)
    """Number of tokens at the end of a response whose hidden states are used."""
    stride: int = Field(40, ge=1)
    """Number of tokens between two prefixes whose ranks are compared."""


class BudgetConfig(Section):
    """Budgeted self-play (`selfplay.stage: svs`): variants are solved only as far as their answers promise to differ,
    and what that saves is spent on further contexts. See docs/svs.md#budgeted-self-play."""

    first_samples: int = Field(0, ge=0)
    """Number of solutions of a variant that are asked first, fewer than `selfplay.samples_per_variant`; 0 asks for all
    of them at once, and turns the budget off."""
    chance: float = Field(0.5, gt=0, le=1)
    """Least probability that all solutions of a variant will differ with which the others are asked, after the first
    have come out alike; 1 asks for them only after first ones that differ."""
    context_chance: float = Field(0.5, gt=0, le=1)
    """Least probability that a variant of a problem will earn the reward of writing, with which correct responses to
    the problem become further contexts although its accuracy lies outside `selfplay.context_range`. They are no more
    than saved solutions pay for."""


class SamplerConfig(Section):
    """The sampler: which problems a step asks, and how often. See docs/methods.md#head-tail-re-balancing."""

    name: str = "epochs"
    """Sampler that draws the problems of a step: `epochs`, `threshold_clipping`, `repeat_padding`,
    `adaptive_resampling`, `guided_resampling`, `consensus_curriculum` or `module:object`."""
    refills: int = Field(0, ge=0, le=999)
    """Number of times that another problem is asked in the place of one whose answers teach nothing, because all are
    right, wrong or not verified (DAPO's dynamic sampling); 0 asks none. See docs/svs.md#dynamic-sampling."""
    most_correct: int = Field(4, ge=1)
    """Maximum number of correct responses to a problem that are learned from under `threshold_clipping` (L in the
    paper)."""
    padded_correct: int | None = Field(None, ge=1)
    """Minimum number of correct responses to a problem under `repeat_padding`, which repeats those that there are (K in
    the paper); null takes `rollout.samples_per_prompt`."""
    easiest_share: float = Field(1 / 3, gt=0, le=1)
    """Share of the problems, those with the largest majorities, that `consensus_curriculum` trains on."""


class MergingConfig(Section):
    """Iterative model merging: every few steps the weights are averaged with those that the run began with. See
    docs/methods.md#iterative-model-merging."""

    hook: str = "none"
    """CheckpointHook that changes the weights: `none`, `merge` or `module:object`."""
    every: int = Field(10, ge=1)
    """Number of steps between two merges."""
    weight: float = Field(0.5, ge=0, le=1)
    """Weight of the trained weights in the average: 0 gives the first weights, 1 the trained ones."""
    drop: float = Field(0.0, ge=0, lt=1)
    """Share of the changes that DARE sets to 0, at random, while it divides the others by 1 - `drop`; 0 keeps all
    changes, and the DARE paper drops 0.2."""
    keep_moments: bool = False
    """Reuse of Adam's moments after a merge; without it they begin at 0."""


class SelfVerificationConfig(Section):
    """Votes of a model on its own responses, in `fastsvs eval`."""

    samples: int = Field(8, ge=1)
    """Number of votes on each response."""
    template: InputPath | None = None
    """Text file with the question, as in `selfplay.rise.template`; null takes the built-in one."""
    max_prompt_tokens: int | None = Field(None, ge=1)
    """Longest prompt that asks for a vote, in tokens; responses with a longer one get no votes and count as `unjudged`.
    Null takes the sum of the set's prompt and response limits."""
    max_response_tokens: int | None = Field(None, ge=1)
    """Longest vote, in tokens; null takes the set's response limit."""


class SelfConfig(Section):
    """The rounds of SELF: responses, feedback and refinement, then fine-tuning on what the model approved. See
    docs/methods.md#self."""

    rounds: int = Field(3, ge=1)
    """Number of rounds."""
    feedback_template: InputPath | None = None
    """Text file with the prompt for feedback, `{question}` and `{response}` where they go; null takes the built-in
    one."""
    refinement_template: InputPath | None = None
    """Text file with the prompt for a refinement, `{question}`, `{response}` and `{feedback}` where they go; null takes
    the built-in one."""
    approval: str = r"\\boxed\{1\}"
    """Regular expression that is found in feedback that calls a response right, and in no other feedback."""
    replay: AnyPath | None = None
    """Source of dialogues that every round is trained on as well, in any form of `data.path` of `fastsvs sft`, so that
    the model does not forget how to judge and refine; null adds none."""
    replay_share: float = Field(0.5, gt=0, lt=1)
    """Share of replayed dialogues among the examples of a round, as far as there are enough of them."""
    max_prompt_tokens: int | None = Field(None, ge=1)
    """Longest prompt for feedback or a refinement, in tokens; longer ones are left out and counted. Null takes
    `data.max_prompt_tokens` plus twice `rollout.max_response_tokens`."""
    max_example_tokens: int = Field(4096, ge=2)
    """Longest example, in tokens; longer ones are left out of fine-tuning and counted."""

    @field_validator("approval")
    @classmethod
    def _approval_is_an_expression(cls, approval: str) -> str:
        try:
            re.compile(approval)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return approval
