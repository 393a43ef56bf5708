"""`fastsvs eval`: a Hugging Face model, a run or a checkpoint on any number of problem sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from transformers import PreTrainedTokenizerBase

from fastsvs import distributed, fingerprints, rank_log
from fastsvs.commands.stored_engine import OpenEngine, check_placement, chosen_dtype, open_engine
from fastsvs.config import EvalJob, EvaluationSet, RolloutConfig, SelfVerificationConfig
from fastsvs.data import (
    EncodedProblem,
    encode_prompt,
    load_tokenizer,
    lone_message,
    longest_prompt,
    read_problems,
    reads_clock,
    stop_token_ids,
)
from fastsvs.evaluate import Answered, EvaluationFolder, SelfVerification, evaluate, figures, greedy_repetitions
from fastsvs.policy import StoredWeights, open_weights
from fastsvs.rollout import ENGINES, Asked, EnginePlan
from fastsvs.seeding import derive_seed
from fastsvs.selfplay import Group, load_verification_template
from fastsvs.telemetry import StepProgress
from fastsvs.token_rows import is_chosen, token_row
from fastsvs.verify import check_verifier


@dataclass(frozen=True)
class Inputs:
    """Inputs of an evaluation, checked before anything is built."""

    stored: StoredWeights
    tokenizer: PreTrainedTokenizerBase
    problems: Mapping[str, Sequence[EncodedProblem]]
    judges: Mapping[str, SelfVerification | None]
    """Judge of each set, by the set's name as in `problems`; None where the model does not vote."""
    folder: EvaluationFolder
    facts: Sequence[str]


def run_evaluation(job: EvalJob) -> dict[str, Any]:
    """Sample, verify and estimate set by set, and return what `summary.json` holds, on every rank. What is done already
    is not done again."""
    distributed.initialize(job.timeout_seconds)
    inputs = preflight(job)
    rank_log.start(Path(job.output) / "logs")
    distributed.barrier()  # every rank looks at the folder before the main one writes
    inputs.folder.begin()
    with closing(inputs.folder):
        return answer_sets(job, inputs)


def answer_sets(job: EvalJob, inputs: Inputs) -> dict[str, Any]:
    """Answer all chosen sets, and return what `summary.json` holds, on every rank."""
    folder = inputs.folder
    done = distributed.broadcast({name: folder.answered(name) for name in job.chosen})
    if any(len(done[name]) < len(inputs.problems[name]) for name in job.chosen):
        with open_engine(
            inputs.stored,
            inputs.tokenizer,
            job.rollout,
            job.verifier,
            dtype=chosen_dtype(job.dtype, inputs.stored),
            longest=longest_sequence(job),
            folder=Path(job.output),
            timeout_seconds=job.timeout_seconds,
        ) as opened:
            for name in job.chosen:
                done[name] = answer_set(job, name, inputs, done[name], opened)
    main = distributed.is_main()
    results = distributed.broadcast(
        {name: figures(done[name], plan) for name, plan in job.chosen.items()} if main else {}
    )
    for name, result in results.items():
        folder.write_figures(name, result)
    summary = {"model": job.model.path, "step": inputs.stored.step, "sets": results}
    folder.write_summary(summary)
    return summary


def preflight(job: EvalJob, here: bool = True) -> Inputs:
    """Read and check what the evaluation needs. Raises UserError for what cannot be read or evaluated; `here` is False
    where the evaluation may run elsewhere. It reads only the description of the weights, and writes nothing."""
    check_placement(job.rollout, "an evaluation")
    check_verifier(job.verifier)
    engine = ENGINES.get(job.rollout.engine)
    stored = open_weights(job.model.path)
    tokenizer = load_tokenizer(job.model.tokenizer or stored.tokenizer, *(plan.data for plan in job.chosen.values()))
    folder = EvaluationFolder(job, stored.step, writable=distributed.is_main())
    problems, judges, asked, facts = {}, {}, {}, []
    for name, plan in job.chosen.items():
        judges[name] = self_verification(plan, job.rollout, tokenizer)
        problems[name], found = read_problems(plan.data, tokenizer, "eval")
        asked[f"sets.{name}"] = Asked(
            plan.temperature, longest_prompt(problems[name]) + response_limit(plan, job.rollout)
        )
        facts += [f"{name}: {fact}" for fact in found]
        facts += [f"warning: {line}" for line in greedy_repetitions(f"sets.{name}", plan)]
    stop = stop_token_ids(stored.model.path, tokenizer)
    dtype = chosen_dtype(job.dtype, stored)
    engine.check(EnginePlan(stored.hf_config, stop, dtype, job.rollout, asked, here))
    read = {
        f"sets.{name}": fingerprints.of_problems(encoded, reads_clock(tokenizer, job.sets[name].data.template))
        for name, encoded in problems.items()
    }
    folder.check_inputs(read, lambda: weights(stored))
    return Inputs(stored, tokenizer, problems, judges, folder, facts)


def weights(stored: StoredWeights) -> dict[str, Any]:
    """Return the digest of the weights to evaluate. A checkpoint's manifest has the checksums of all its files."""
    return fingerprints.of_weights(
        fingerprints.weight_files(stored.model.path) if stored.manifest is None else [stored.manifest]
    )


def answer_set(
    job: EvalJob,
    name: str,
    inputs: Inputs,
    done: list[Answered],
    opened: OpenEngine,
) -> list[Answered]:
    """Answer the problems of one set, and write each as soon as it is answered. Returns [] on ranks that did not roll
    out."""
    folder, total = inputs.folder, len(inputs.problems[name])
    folder.open_set(name, done)
    main = distributed.is_main()
    with StepProgress(name, total, len(done), enabled=main, what=f"{name}: problem", lines=20) as progress:
        for fact in inputs.facts if name == next(iter(job.chosen)) else ():
            progress.say(fact)
        if done:
            progress.say(f"{name}: {len(done)} of {total} problems were answered before")
        count, tokens, began = len(done), 0, perf_counter()

        def take(problem: Answered, group: Group) -> None:
            nonlocal count, tokens
            kept = is_chosen(group.task.problem, job.token_share, job.seed)
            folder.add(name, problem, token_row(group, inputs.tokenizer.decode) if kept else None)
            count, tokens = count + 1, tokens + sum(problem.tokens)
            progress.advance(count, f"{tokens / (perf_counter() - began):,.0f} tokens/s")

        answered = opened.run(
            lambda engine, cancelled: evaluate(
                inputs.problems[name],
                engine,
                opened.verifier,
                lambda ids: inputs.tokenizer.decode(ids, skip_special_tokens=True),
                job.sets[name],
                job.rollout,
                derive_seed(job.seed, name),
                cancelled,
                done,
                take,
                inputs.judges[name],
            )
        )
        return answered or []


def longest_sequence(job: EvalJob) -> int:
    """Return the number of tokens in the longest prompt with its response, of solutions and of votes on them."""
    lengths = []
    for plan in job.chosen.values():
        lengths.append(plan.data.max_prompt_tokens + response_limit(plan, job.rollout))
        if plan.verify is not None:
            lengths.append(sum(vote_limits(plan, plan.verify, job.rollout)))
    return max(lengths)


def response_limit(plan: EvaluationSet, rollout: RolloutConfig) -> int:
    return plan.max_response_tokens or rollout.max_response_tokens


def vote_limits(plan: EvaluationSet, verify: SelfVerificationConfig, rollout: RolloutConfig) -> tuple[int, int]:
    """Return the most tokens of the prompt and of the response where the model votes on a response."""
    limit = response_limit(plan, rollout)
    return verify.max_prompt_tokens or plan.data.max_prompt_tokens + limit, verify.max_response_tokens or limit


def self_verification(
    plan: EvaluationSet, rollout: RolloutConfig, tokenizer: PreTrainedTokenizerBase
) -> SelfVerification | None:
    """Return the judge of a set, or None where it has none. Raises UserError for a template that cannot be used."""
    if plan.verify is None:
        return None
    return SelfVerification(
        load_verification_template(plan.verify.template),
        plan.verify.samples,
        lambda text: encode_prompt(tokenizer, lone_message(text), plan.data.template),
        *vote_limits(plan, plan.verify, rollout),
    )
