"""The section of Absolute Zero self-play; defaults are the constants of the paper and its code (arXiv 2505.03335)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fastsvs.config.section import Section

BANNED = (
    *("logging", "random", "multiprocessing", "pebble", "subprocess", "threading", "datetime", "time", "calendar"),
    *("hashlib", "hmac", "bcrypt", "os.sys", "os.path", "os.environ", "sys.exit", "input", "raise"),
)
"""The AZR code's list: most of it makes a program depend on more than its input."""


class TermConfig(Section):
    """min(coefficient * x, max); nothing with a coefficient of 0."""

    coefficient: float = Field(0.0, ge=0)
    max: float = Field(0.5, ge=0)


class IntrinsicConfig(Section):
    """What a program that is worth solving earns its proposer beside that, summed up."""

    complexity: TermConfig = TermConfig()
    """Of the program, by `complexity_measure`."""
    complexity_measure: Literal["nodes", "cyclomatic"] = "nodes"
    """Nodes of its syntax tree, or 1 + its branches (McCabe)."""
    edit_distance: TermConfig = TermConfig()
    """To the nearest of the programs that were shown, 0 to 1."""
    halstead: TermConfig = TermConfig()
    """Halstead volume, in bits."""
    input_types: TermConfig = TermConfig()
    """1 - share of the buffer whose inputs have the same types."""
    output_types: TermConfig = TermConfig()
    """1 - share of the buffer whose output has the same type."""


class AzrConfig(Section):
    """`selfplay.stage: azr`: the policy writes programs, and says what they give, what they took, what they were."""

    tasks: tuple[Literal["deduction", "abduction", "induction"], ...] = ("deduction", "abduction", "induction")
    prompts_per_task: int = Field(64, ge=1)
    """Proposals of each task in a step."""
    samples_per_proposal: int = Field(8, ge=1)
    """Answers to each valid proposal, in the same step: its solve rate, and what the solver learns from."""
    solve_from_buffer: int = Field(0, ge=0)
    """Problems of each task in a step that come from the buffer as it was before: those of the step before first."""
    samples_from_buffer: int = Field(1, ge=1)
    """Answers to each of them."""
    references: int = Field(6, ge=0)
    """Most programs from the buffer that a proposer is shown."""
    inputs_per_program: int = Field(10, ge=2)
    """Induction: most inputs to a program, of which the solver sees the first half."""
    proposer_reward: Literal["one_minus", "symmetric", "lilo", "band", "solvable"] = "one_minus"
    """Of a solve rate p: 1 - p, and -0.5 at 0 and 1; 1 - 2 |p - 1/2|; p (1 - p); 1 in `band`; 1 above 0."""
    band: tuple[float, float] = (0.125, 0.625)
    """`proposer_reward: band`, both ends included."""
    intrinsic: IntrinsicConfig = IntrinsicConfig()
    freeze_proposer: bool = False
    """Learn to solve only."""
    buffer_size: int = Field(16384, ge=1)
    """Of each task; the newest stay."""
    seed_file: str | None = None
    """jsonl with `snippet`, `input` and `output`: what the buffers begin with; the identity function when not set."""
    banned: tuple[str, ...] = BANNED
    """Modules, attributes and called functions that programs must not use, and `raise`."""
    max_program_characters: int = Field(5600, ge=1)
    max_value_characters: int = Field(400, ge=1)
    """Of an input or an output that is proposed."""
    templates: str = "azr"
    """Prompts: `azr`, `tiny`, or a folder with files of the same names."""

    @model_validator(mode="after")
    def _band_and_tasks_make_sense(self) -> AzrConfig:
        low, high = self.band
        if not 0 <= low <= high <= 1:
            raise ValueError(f"band must be [low, high] with 0 <= low <= high <= 1, got [{low}, {high}]")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks must name each task once, and one at least, got {list(self.tasks)}")
        return self
