"""The section of Absolute Zero self-play. Defaults are the constants of the paper and its code (arXiv 2505.03335)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fastsvs.config.section import AnyPath, Section

BANNED = (
    *("logging", "random", "multiprocessing", "pebble", "subprocess", "threading", "datetime", "time", "calendar"),
    *("hashlib", "hmac", "bcrypt", "os.sys", "os.path", "os.environ", "sys.exit", "input", "raise"),
)
"""Names that the AZR code bans: most of them make a program depend on more than its input."""


class TermConfig(Section):
    """One term of the proposer's reward, min(coefficient * measure, max)."""

    coefficient: float = Field(0.0, ge=0)
    """Weight of the measure in the proposer's reward; 0 turns the term off."""
    max: float = Field(0.5, ge=0)
    """Upper bound of the term."""


class IntrinsicConfig(Section):
    """The terms that are added to the reward of a proposer whose program is worth solving."""

    complexity: TermConfig = TermConfig()
    """Term of the complexity of the proposed program, as `complexity_measure` counts it."""
    complexity_measure: Literal["nodes", "cyclomatic"] = "nodes"
    """Measure of complexity: `nodes` counts the nodes of the syntax tree, `cyclomatic` is 1 + the number of branches
    (McCabe)."""
    edit_distance: TermConfig = TermConfig()
    """Term of the distance, 0 to 1, to the nearest of the programs that the proposer was shown."""
    halstead: TermConfig = TermConfig()
    """Term of the Halstead volume of the program, in bits."""
    input_types: TermConfig = TermConfig()
    """Term of rare input types: 1 - the share of the buffer whose inputs have the same types."""
    output_types: TermConfig = TermConfig()
    """Term of rare output types: 1 - the share of the buffer whose output has the same type."""


class AzrConfig(Section):
    """Absolute Zero self-play (`selfplay.stage: azr`): the policy writes programs and predicts their output
    (deduction), their input (abduction) or the program itself (induction). See docs/methods.md#azr."""

    tasks: tuple[Literal["deduction", "abduction", "induction"], ...] = ("deduction", "abduction", "induction")
    """Kinds of tasks, one or more of `deduction`, `abduction` and `induction`."""
    prompts_per_task: int = Field(64, ge=1)
    """Number of proposals of each kind of task in a step."""
    samples_per_proposal: int = Field(8, ge=1)
    """Number of answers to each valid proposal in the same step; they give its solve rate, and the solver learns from
    them."""
    solve_from_buffer: int = Field(0, ge=0)
    """Number of problems of each kind of task that a step adds from the buffer, those of the step before first; 0 adds
    none."""
    samples_from_buffer: int = Field(1, ge=1)
    """Number of answers to each problem from the buffer."""
    references: int = Field(6, ge=0)
    """Maximum number of programs from the buffer that a proposer is shown."""
    inputs_per_program: int = Field(10, ge=2)
    """Maximum number of inputs of one program in an induction task; the solver sees the first half of them."""
    proposer_reward: Literal["one_minus", "symmetric", "lilo", "band", "solvable"] = "one_minus"
    """Reward of a valid proposal with solve rate p: `one_minus` is 1 - p, and -0.5 at 0 and 1; `symmetric` is 1 - 2
    abs(p - 1/2); `lilo` is p (1 - p); `band` is 1 inside `band`; `solvable` is 1 above 0."""
    band: tuple[float, float] = (0.125, 0.625)
    """Range of solve rates, both ends included, that `proposer_reward: band` rewards."""
    intrinsic: IntrinsicConfig = IntrinsicConfig()
    freeze_proposer: bool = False
    """Training on solutions alone; proposals are made, but not learned from."""
    buffer_size: int = Field(16384, ge=1)
    """Maximum number of exercises in the buffer of each kind of task; the newest stay."""
    seed_file: AnyPath | None = None
    """jsonl file with `snippet`, `input` and `output`, which fills the buffers at the start; null begins with the
    identity function."""
    banned: tuple[str, ...] = BANNED
    """Names that a program must not use: modules, attributes, called functions, and the statement `raise`."""
    max_program_characters: int = Field(5600, ge=1)
    """Longest proposed program, in characters; longer ones are invalid."""
    max_value_characters: int = Field(400, ge=1)
    """Longest input or output of a proposal, in characters; proposals with a longer one are invalid."""
    templates: AnyPath = "azr"
    """Prompts of all tasks: `azr` for the paper's, `tiny` for the tiny task's, or a folder with files of the same
    names."""

    @model_validator(mode="after")
    def _band_and_tasks_make_sense(self) -> AzrConfig:
        low, high = self.band
        if not 0 <= low <= high <= 1:
            raise ValueError(f"band must be [low, high] with 0 <= low <= high <= 1, got [{low}, {high}]")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks must name each task once, and one at least, got {list(self.tasks)}")
        return self
