"""`fastsvs eval`: a Hugging Face model, a run or a checkpoint on any number of problem sets."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from fastsvs import distributed
from fastsvs.config import EvalJob
from fastsvs.data import load_tokenizer
from fastsvs.errors import UserError
from fastsvs.evaluate import Answered, evaluate, figures
from fastsvs.evaluate.folder import EvaluationFolder
from fastsvs.export import write_hf_folder
from fastsvs.policy.stored import StoredWeights, open_weights
from fastsvs.rollout import ENGINES, Engine
from fastsvs.rollouts import Rollouts
from fastsvs.seeding import derive_seed
from fastsvs.session import DTYPES, EncodedProblem, engine_spec, read_problems, stop_token_ids
from fastsvs.sync import LoadedSync, LocalSync, ServerFleet, WeightSync
from fastsvs.telemetry import StepProgress
from fastsvs.verify import Verifier


@dataclass(frozen=True)
class Inputs:
    """What an evaluation reads, checked before anything is built."""

    stored: StoredWeights
    tokenizer: PreTrainedTokenizerBase
    problems: Mapping[str, Sequence[EncodedProblem]]
    facts: Sequence[str]


def run_evaluation(job: EvalJob) -> dict[str, Any]:
    """Sample, verify, estimate, set by set; what is done already is not done again. What `summary.json` holds, on every
    rank."""
    distributed.initialize(job.timeout_seconds)
    inputs = read_inputs(job)
    folder = EvaluationFolder(job, inputs.stored.step, writable=distributed.is_main())
    folder.begin()
    with closing(folder):
        return answer_sets(job, inputs, folder)


def answer_sets(job: EvalJob, inputs: Inputs, folder: EvaluationFolder) -> dict[str, Any]:
    """See `run_evaluation`."""
    done = distributed.agree({name: folder.answered(name) for name in job.chosen})
    if any(len(done[name]) < len(inputs.problems[name]) for name in job.chosen):
        with open_engine(job, inputs) as (rollouts, engine, verifier):
            for name in job.chosen:
                done[name] = answer_set(job, name, inputs, folder, done[name], rollouts, engine, verifier)
    main = distributed.is_main()
    results = distributed.agree({name: figures(done[name], plan) for name, plan in job.chosen.items()} if main else {})
    for name, result in results.items():
        folder.write_figures(name, result)
    summary = {"model": job.model.path, "step": inputs.stored.step, "sets": results}
    folder.write_summary(summary)
    return summary


def read_inputs(job: EvalJob) -> Inputs:
    """Raises UserError for what cannot be read or evaluated."""
    if job.rollout.placement != "colocated":
        raise UserError(
            f"rollout.placement={job.rollout.placement}: an evaluation starts servers of its own, on the nodes that it "
            "runs on (colocated)"
        )
    stored = open_weights(job.model.path)
    tokenizer = load_tokenizer(job.model.tokenizer or stored.tokenizer)
    problems, facts = {}, []
    for name, plan in job.chosen.items():
        problems[name], found = read_problems(plan.data, tokenizer, "eval")
        facts += [f"{name}: {fact}" for fact in found]
    return Inputs(stored, tokenizer, problems, facts)


def answer_set(
    job: EvalJob,
    name: str,
    inputs: Inputs,
    folder: EvaluationFolder,
    done: list[Answered],
    rollouts: Rollouts,
    engine: Engine,
    verifier: Verifier,
) -> list[Answered]:
    """The problems of one set, each written as soon as it is answered; nothing on ranks that did not roll out."""
    total = len(inputs.problems[name])
    folder.open_set(name, done)
    main = distributed.is_main()
    with StepProgress(name, total, len(done), enabled=main, what=f"{name}: problem", lines=20) as progress:
        for fact in inputs.facts if name == next(iter(job.chosen)) else ():
            progress.say(fact)
        if done:
            progress.say(f"{name}: {len(done)} of {total} problems were answered before")
        count, tokens, began = len(done), 0, perf_counter()

        def take(problem: Answered) -> None:
            nonlocal count, tokens
            folder.add(name, problem)
            count, tokens = count + 1, tokens + sum(problem.tokens)
            progress.advance(count, f"{tokens / (perf_counter() - began):,.0f} tokens/s")

        running = rollouts.start(
            lambda cancelled: evaluate(
                inputs.problems[name],
                engine,
                verifier,
                lambda ids: inputs.tokenizer.decode(ids, skip_special_tokens=True),
                job.sets[name],
                job.rollout,
                derive_seed(job.seed, name),
                cancelled,
                done,
                take,
            )
        )
        return running.result(inputs.stored.step) or []


@contextmanager
def open_engine(job: EvalJob, inputs: Inputs) -> Iterator[tuple[Rollouts, Engine, Verifier]]:
    """An engine that holds the model's weights."""
    longest = max(
        plan.data.max_prompt_tokens + (plan.max_response_tokens or job.rollout.max_response_tokens)
        for plan in job.chosen.values()
    )
    stored, output = inputs.stored, Path(job.output)
    stop = stop_token_ids(stored.model.path, inputs.tokenizer)
    with ExitStack() as stack:
        verifier = stack.enter_context(Verifier(job.verifier))
        spec = engine_spec(job.rollout, stored.hf_config, stop, chosen_dtype(job, stored), longest, output / ".servers")
        factory = ENGINES.get(job.rollout.engine)
        if not factory.collective:
            weights = stack.enter_context(loadable(stored, output / ".weights"))
            spec = replace(spec, weights=weights, server_arguments=())
        engine = factory.build(spec)
        stack.enter_context(closing(engine))
        sync: WeightSync = (
            LoadedSync(engine, job.timeout_seconds) if isinstance(engine, ServerFleet) else LocalSync(stored, engine)
        )
        rollouts = stack.enter_context(closing(Rollouts(engine, sync, job.timeout_seconds)))
        sync.publish(stored.step)
        yield rollouts, engine, verifier


@contextmanager
def loadable(stored: StoredWeights, folder: Path) -> Iterator[str]:
    """Where servers can load the weights from: their own place, or for a checkpoint `folder` as long as they run."""
    if stored.step == 0 and stored.dtype is None:
        path = Path(stored.model.path)
        yield str(path.absolute()) if path.is_dir() else stored.model.path
        return
    if distributed.is_main():
        write_hf_folder(stored, folder)
    distributed.agree(None)  # the others wait until it is there
    try:
        yield str(folder.absolute())
    finally:
        if distributed.is_main():
            shutil.rmtree(folder, ignore_errors=True)


def chosen_dtype(job: EvalJob, stored: StoredWeights) -> torch.dtype:
    if job.dtype != "auto":
        return DTYPES[job.dtype]
    dtype = stored.dtype or stored.hf_config.dtype or torch.float32
    return torch.bfloat16 if dtype == torch.float16 else dtype
