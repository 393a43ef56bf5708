"""What a job reads before anything is built: tokenizer, problems, and the tokens that end a response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from fastsvs.architecture import load_hf_config
from fastsvs.config import DataConfig, TrainJob
from fastsvs.data.chat import load_tokenizer, reads_clock
from fastsvs.data.loader import NO_PROBLEMS, load_problems
from fastsvs.data.prompts import Mode, encode_problems
from fastsvs.data.records import Problem
from fastsvs.errors import UserError
from fastsvs.model_files import declared_stops

EncodedProblem = tuple[Problem, tuple[int, ...]]
"""A problem with the token ids of its prompt."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of a run: encoded problems and the facts to show about them."""

    tokenizer: PreTrainedTokenizerBase
    problems: Sequence[EncodedProblem]
    held_out: Sequence[EncodedProblem]
    facts: Sequence[str]


def read_inputs(job: TrainJob) -> Inputs:
    """Read tokenizer and problems, with every count of what was left out. Raises UserError when nothing remains."""
    tokenizer = load_tokenizer(job.model.tokenizer or job.model.path, job.data)
    problems, facts = ([], []) if job.data.path == NO_PROBLEMS else read_problems(job.data, tokenizer, "train")
    if job.evaluation.path is None:
        return Inputs(tokenizer, problems, [], facts)
    where = {"path": job.evaluation.path, "split": job.evaluation.split or job.data.split}
    held_out = job.data.model_copy(update=where | {"limit": job.evaluation.limit})
    try:
        encoded, held_out_facts = read_problems(held_out, tokenizer, "eval")
    except UserError as error:
        raise UserError(f"evaluation.path: {error}") from error
    return Inputs(tokenizer, problems, encoded, [*facts, *held_out_facts, *_overlap(problems, encoded)])


def _overlap(problems: Sequence[EncodedProblem], held_out: Sequence[EncodedProblem]) -> list[str]:
    """Say how many held-out problems are trained on, if any is."""
    trained = {problem.question for problem, _ in problems}
    both = sum(problem.question in trained for problem, _ in held_out)
    if not both:
        return []
    return [
        f"warning: {both:,} of the {len(held_out):,} held-out problems are trained on too: their figures will say "
        "nothing about others (evaluation.path, evaluation.split)"
    ]


def read_problems(
    data: DataConfig, tokenizer: PreTrainedTokenizerBase, mode: Mode
) -> tuple[list[EncodedProblem], list[str]]:
    """Return the problems of a data set with their prompts as token ids, and facts about what was left out and what was
    found. Raises UserError for a data set that cannot be read, or of which nothing is left."""
    problems, loaded = load_problems(data)
    encoded, kept = encode_problems(problems, tokenizer, data, mode)
    facts = [*loaded.describe(), *kept.describe()]
    if reads_clock(tokenizer, data.template):
        facts.append(
            "the chat template writes the date into every prompt, so prompts change from day to day; "
            "data.template_arguments sets the variable that it writes"
        )
    if not encoded:
        raise UserError(f"{data.path}: no problem is left to work on ({'; '.join(facts)})")
    return encoded, facts


def longest_prompt(problems: Sequence[EncodedProblem]) -> int:
    """Return the number of tokens in the longest prompt, or 0 where there is none."""
    return max((len(prompt) for _, prompt in problems), default=0)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, hf: PretrainedConfig) -> None:
    """Check that the model has an embedding for every token. Raises UserError where it does not."""
    largest = max(tokenizer.get_vocab().values(), default=-1)  # ids may leave numbers out
    if largest >= hf.vocab_size:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has token ids up to {largest}, but {hf.name_or_path} has "
            f"embeddings for {hf.vocab_size}: point model.tokenizer at the model's own"
        )


def stop_token_ids(model_path: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokenizer's end of sequence and what the model's generation_config.json, or else its config.json, ends
    on. Raises UserError where none of them names a token, or where generation_config.json cannot be read."""
    declared: int | Sequence[int] | None = declared_stops(model_path)
    if declared is None:
        declared = load_hf_config(model_path).eos_token_id
    ids = {tokenizer.eos_token_id, *(declared if isinstance(declared, Sequence) else [declared])} - {None}
    if not ids:
        raise UserError(
            f"{model_path}: neither the tokenizer nor the model's configuration names an end-of-sequence token"
        )
    return sorted(ids)
