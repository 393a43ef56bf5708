"""The sections of model, data, self-play, checks and evaluation. Defaults are the constants of the SvS paper and its
code."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from fastsvs.config.azr import AzrConfig
from fastsvs.config.methods import BudgetConfig, RiseConfig, SelfVerificationConfig
from fastsvs.config.section import AnyPath, InputPath, Section, Text, Timeout

MATH_SUFFIX = " Please reason step by step, and put your final answer within \\boxed{}."


class ModelConfig(Section):
    """A model: a decoder of one of the families in docs/models.md."""

    path: InputPath
    """Hugging Face folder or hub id with config.json, weights and tokenizer."""
    tokenizer: InputPath | None = None
    """Folder or hub id of the tokenizer; null takes the one at `path`."""
    initialize: Literal["pretrained", "random"] = "pretrained"
    """Source of the weights: `pretrained` loads them from `path`; `random` needs only config.json there and draws them
    from the run's seed."""


class TrainedModelConfig(ModelConfig):
    """The policy that a run trains: a decoder of one of the families in docs/models.md."""

    from_run: InputPath | None = None
    """Run folder, for its newest checkpoint, or one checkpoint, of a model of the same shape: the run begins with its
    weights and optimizer moments, while schedule, data order and self-play begin anew. Null begins with the weights at
    `path`."""


class TemplateConfig(Section):
    """The use of the tokenizer's chat template."""

    template_name: str | None = None
    """Name of the chat template, for a tokenizer with several; null takes the one called `default`."""
    template_arguments: dict[str, Any] = {}  # noqa: RUF012 (pydantic copies it)
    """Variables of the chat template, by name, as in `{enable_thinking: false}`; one that the template does not read is
    an error."""

    @property
    def template(self) -> dict[str, Any]:
        """Return what `apply_chat_template` is called with, beside the messages."""
        named = {} if self.template_name is None else {"chat_template": self.template_name}
        return named | self.template_arguments


class DataConfig(TemplateConfig):
    """The problems: where they come from, how they become prompts, and which are left out. See docs/data.md."""

    path: AnyPath
    """Source of the problems: a file (parquet, json, jsonl, csv, Arrow), a folder of them or of `save_to_disk`, a hub
    id (`name` or `name:config`), `tiny:train`, `tiny:validation`, `tiny:heldout`, or `none` for a stage that makes its
    own tasks."""
    split: str = "train"
    """Split of a hub data set or of a folder whose files are named after splits; a single file and `tiny:` have
    none."""
    question_column: str | None = None
    """Column of the question, nested ones as `a.b`; null finds it by its usual names."""
    answer_column: str | None = None
    """Column of the answer, nested ones as `a.b`, whose values are answers as they stand; null finds it by its usual
    names."""
    prompt: str = "chat"
    """PromptFn that turns a problem into chat messages: `chat`, `merf` or `module:object`."""
    suffix: Text = MATH_SUFFIX
    """Text appended to every question, including those that the policy wrote; null or an empty text appends nothing."""
    system_prompt: str | None = None
    """System message before the question, in the place of those that the data set brings; null sends the data set's
    own, and an empty text none."""
    rules: str | None = None
    """Rules of the reward that `prompt: merf` tells the policy in training, and not in evaluation; null tells none,
    which is an error under `merf`."""
    rules_in: Literal["system", "user"] = "system"
    """Message that holds the rules: `system`, as in the MeRF paper, or `user` for chat templates without a system
    message."""
    max_prompt_tokens: int = Field(4096, ge=1)
    """Longest prompt, in tokens; problems with a longer one are left out, and their number is shown."""
    deduplicate: bool = True
    """Removal of problems whose question appeared in an earlier row; their number is shown."""
    limit: int | None = Field(None, ge=1)
    """Maximum number of problems to use, counted from the first; for `tiny:` the number to make. Null uses all, and for
    `tiny:` makes the built-in number."""


class ShapingConfig(Section):
    """The reward of writing a synthetic problem, from the mean accuracy of its solutions."""

    rule: Literal["band", "solvable"] = "band"
    """Rule of the reward: `band` gives 1 inside `selfplay.positive_range`; `solvable` gives 1 for any accuracy above 0
    (appendix G of the paper), which invites problems that leak their answer."""
    negative: bool = False
    """Reward of -1 instead of 0 for problems that earn nothing: the paper's text says -1, its algorithm box 0."""


class SelfPlayConfig(Section):
    """The self-play of a step: SvS, another stage, or none for plain RLVR. See docs/svs.md."""

    stage: str = "svs"
    """ExperienceStage that makes the tasks of a step: `svs`; `upsampled`, which asks half-solved problems again instead
    of variants; `rise`, `azr`, `none` for plain RLVR, or `module:object`."""
    schedule: Literal["streaming", "phased"] = "streaming"
    """Order of the work in a step: with `streaming` a group goes on as soon as it is complete; with `phased` solving,
    synthesis and solving of synthetic problems wait for one another. Both give the same experience."""
    context_range: tuple[float, float] = (0.125, 0.5)
    """Range of mean accuracy, both ends included, of the problems whose correct responses become contexts for
    synthesis."""
    variants_per_context: int = Field(8, ge=1)
    """Number of problems written from each context."""
    samples_per_variant: int = Field(8, ge=1)
    """Number of solutions sampled for each valid variant."""
    positive_range: tuple[float, float] = (0.125, 0.625)
    """Range of mean accuracy, both ends included, of the variants whose synthesis is rewarded."""
    shaping: ShapingConfig = ShapingConfig()
    context: Literal["answer", "whole"] = "answer"
    """Part of a response that its synthesis or verification prompt shows: `answer` is what follows the last
    `thoughts_end`, or all of a response without one; `whole` is all of it, thoughts included."""
    thoughts_end: str = Field("</think>", min_length=1)
    """Text that ends the thoughts of a response."""
    template: InputPath | None = None
    """Text file with the synthesis prompt, `{response}` where the context goes; null takes the built-in one."""
    max_synthesis_tokens: int | None = Field(None, ge=1)
    """Longest response to a synthesis prompt, in tokens; null takes `rollout.max_response_tokens`."""
    budget: BudgetConfig = BudgetConfig()
    rise: RiseConfig = RiseConfig()
    azr: AzrConfig = AzrConfig()

    @model_validator(mode="after")
    def _first_samples_leave_some(self) -> SelfPlayConfig:
        first, all_of_them = self.budget.first_samples, self.samples_per_variant
        if first and first >= all_of_them:
            raise ValueError(
                f"budget.first_samples ({first}) must leave some of samples_per_variant ({all_of_them}) to be asked "
                "later: lower the former, or set it to 0 to ask for all at once"
            )
        return self

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> SelfPlayConfig:
        for name in ("context_range", "positive_range"):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= 1:
                raise ValueError(f"{name} must be [low, high] with 0 <= low <= high <= 1, got [{low}, {high}]")
        return self


class VerifierConfig(Section):
    """The verifier: it judges responses, in processes of its own. See docs/reward.md."""

    name: str = "math"
    """Verifier: `math` compares a response's answer with the data's, `module:object` is a function of your own that
    takes a response and its problem."""
    workers: int | None = Field(None, ge=1)
    """Number of verifier processes of each rank; null for half of the rank's cores, at least 2 and at most 16."""
    timeout_seconds: Timeout = 10.0
    """CPU time that checking one answer may take, in seconds; its process is then ended and replaced, and the answer
    counts as unverified. A check of over one second waits until all others are done. Ten times as much wall time is a
    second limit, for a process that does not compute."""


class SandboxConfig(Section):
    """The sandbox: it runs programs that a model wrote, for `selfplay.stage: azr`. See docs/sandbox.md."""

    workers: int = Field(2, ge=2)
    """Number of sandbox processes of each rank; half of them use another hash seed, to find programs that depend on
    it."""
    timeout_seconds: Timeout = 5.0
    """Longest run of one program with all its inputs, in seconds."""
    memory_bytes: int = Field(256 << 20, ge=128 << 20)
    """Address space of a program, in bytes, Python's own included."""
    output_characters: int = Field(10_000, ge=1)
    """Longest result of one call, in characters; a program with a longer one fails with status `output`. Printed text
    is cut to this length, and its full length is counted."""
    allow_unisolated: bool = False
    """Permission to run programs where the system cannot isolate them."""


class ScheduleConfig(Section):
    """The order of rollouts and updates. See docs/train.md#rollouts-beside-the-update."""

    staleness: int = Field(0, ge=0)
    """Largest age of the weights that make the rollouts, in steps: 0 waits for every update; k lets the rollouts of up
    to k steps run beside the update of the step before them, wherever engines have room."""
    waves: int = Field(1, ge=1)
    """Number of parts of a step, each of which is learned from as soon as it is complete, while later ones are still
    played with the weights that the step began with; 1 learns from all at once. More need
    `algorithm.old_logprobs: engine`."""
    wave_order: Literal["random", "completed"] = "random"
    """Way in which families (a problem, its variants and their solutions) come into waves: `random` draws them from the
    seed beforehand; `completed` takes what is complete first, which favours short answers and depends on timing."""


class SamplingPlan(Section):
    """How often and how every problem of a set is answered."""

    samples: int = Field(8, ge=1)
    """Number of responses to each problem."""
    k: tuple[int, ...] = Field((1, 8), min_length=1)
    """Values of k in pass@k (and in maj@k of `fastsvs eval`); none may exceed `samples`."""
    temperature: float = Field(1.0, ge=0)
    """Sampling temperature; 0 is greedy decoding, under which all responses to a problem are the same."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Probability mass of nucleus sampling; 1 keeps the whole vocabulary."""
    max_response_tokens: int | None = Field(None, ge=1)
    """Longest response, in tokens; null takes `rollout.max_response_tokens`."""

    @model_validator(mode="after")
    def _k_within_samples(self) -> SamplingPlan:
        if max(self.k) > self.samples or min(self.k) < 1:
            raise ValueError(f"every k of pass@k must lie in 1..samples ({self.samples}), got {list(self.k)}")
        return self


class EvaluationConfig(SamplingPlan):
    """The evaluation of a run on held-out problems, as pass@k."""

    path: AnyPath | None = None
    """Source of the held-out problems, in any form of `data.path`; null turns evaluation off."""
    split: str | None = None
    """Split of the held-out problems; null takes `data.split`."""
    limit: int | None = Field(None, ge=1)
    """Maximum number of held-out problems to use, counted from the first; null uses all."""
    every: int = Field(0, ge=0)
    """Number of steps between evaluations; 0 evaluates before and after training only."""


class EvaluationSet(SamplingPlan):
    """One problem set of `fastsvs eval`."""

    data: DataConfig
    verify: SelfVerificationConfig | None = None
    """Votes of the model on its own responses, which measure the generation-verification gap
    (docs/methods.md#generation-verification-gap); null asks for none. A mapping of the keys below turns them on."""


class SftDataConfig(TemplateConfig):
    """The examples to learn from. See docs/data.md#dialogues-for-fastsvs-sft."""

    path: AnyPath
    """Source of the examples: a file or folder, as `data.path` of `fastsvs train`, with `messages`, or with `prompt`
    and `completion`; a hub id; or `tiny:sft`, `tiny:misled_sft`, `tiny:skills`, `tiny:azr_sft`, `tiny:train`."""
    split: str = "train"
    """Split of a hub data set or of a folder whose files are named after splits; a single file and `tiny:` have
    none."""
    limit: int | None = Field(None, ge=1)
    """Maximum number of examples to use, counted from the first; for `tiny:` the number to make. Null uses all, and for
    `tiny:` makes the built-in number."""
    max_tokens: int = Field(4096, ge=2)
    """Longest example, in tokens; longer ones are left out, and their number is shown."""
