"""`fastsvs eval`: pass@k of a Hugging Face folder, or of a run's newest checkpoint, on one problem set."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from fastsvs import distributed
from fastsvs.config import EvalJob, PolicyConfig, SyncConfig
from fastsvs.data import load_tokenizer
from fastsvs.evaluate import evaluate
from fastsvs.export import restore
from fastsvs.files import write_json, write_jsonl
from fastsvs.policy import Policy
from fastsvs.rollout import ENGINES
from fastsvs.rollouts import Rollouts
from fastsvs.session import build_sync, engine_spec, read_problems, stop_token_ids
from fastsvs.telemetry import StepProgress
from fastsvs.verify import Verifier


def run_evaluation(job: EvalJob) -> dict[str, Any]:
    """Sample, verify, estimate; writes `output` and its .samples.jsonl. Returns what `output` holds, on ranks
    that rolled out."""
    distributed.initialize(job.timeout_seconds)
    main = distributed.is_main()
    policy, step, tokenizer_path = _open_model(job)
    tokenizer = load_tokenizer(tokenizer_path)
    problems, facts = read_problems(job.data, tokenizer, "eval")
    with ExitStack() as stack:
        progress = stack.enter_context(StepProgress("eval", 1, 0, enabled=main))
        for fact in facts:
            progress.say(fact)
        verifier = stack.enter_context(Verifier(job.verifier))
        stop = stop_token_ids(tokenizer_path, tokenizer)
        longest = job.data.max_prompt_tokens + (job.evaluation.max_response_tokens or job.rollout.max_response_tokens)
        folder = Path(job.output).with_suffix(".servers")
        spec = engine_spec(job.rollout, policy.hf_config, stop, "fp32", longest, folder)
        engine = ENGINES.get(job.rollout.engine).build(spec)
        stack.enter_context(closing(engine))
        sync = stack.enter_context(closing(build_sync(policy, engine, job.rollout, SyncConfig())))
        rollouts = stack.enter_context(closing(Rollouts(engine, sync, job.timeout_seconds)))
        sync.publish(step)
        running = rollouts.start(
            lambda cancelled: evaluate(
                problems,
                engine,
                verifier,
                lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
                job.evaluation,
                job.rollout,
                job.seed,
                cancelled,
            )
        )
        result = running.result(step)
        if result is None:
            return {}
        for k, value in result.pass_at.items():
            progress.say(f"pass@{k} {value}")
    report = {"model": job.model.path, "step": step, "data": job.data.path, **result.as_dict()}
    if main:
        write_jsonl(Path(job.output).with_suffix(".samples.jsonl"), result.rows())
        write_json(Path(job.output), report)
    return report


def _open_model(job: EvalJob) -> tuple[Policy, int, str]:
    """The model, its step (0 for a plain folder) and where its tokenizer is."""
    folder = Path(job.model.path)
    if (folder / "checkpoints").is_dir():
        policy, step, tokenizer = restore(folder)
        return policy, step, job.model.tokenizer or tokenizer
    policy = Policy(job.model, PolicyConfig(dtype="fp32"), seed=job.seed, total_updates=0, max_sequence_tokens=1)
    return policy, 0, job.model.tokenizer or job.model.path
