"""`fastsvs export`: a run's newest checkpoint as a Hugging Face folder with its tokenizer."""

from __future__ import annotations

from pathlib import Path

from transformers import GenerationConfig

from fastsvs import config, distributed
from fastsvs.data import load_tokenizer
from fastsvs.errors import UserError
from fastsvs.policy import Policy, checkpoint


def export_run(run: Path, out: Path) -> int:
    """Write the folder `out`, which must not exist yet; the step that was exported."""
    if out.exists():
        raise UserError(f"{out} exists already: name a new folder")
    policy, step, tokenizer = restore(run)
    policy.export(out)
    if distributed.is_main():
        try:
            load_tokenizer(tokenizer).save_pretrained(out)
            _copy_generation_config(read_job(run).model.path, out)
        except OSError as error:
            raise UserError(f"the tokenizer cannot be written to {out}: {error}") from error
    return step


def restore(run: Path) -> tuple[Policy, int, str]:
    """The policy of a train or sft run at its newest checkpoint, on this world's layout; step; tokenizer path."""
    job = read_job(run)
    distributed.initialize(job.run.timeout_seconds)
    newest = distributed.agree(checkpoint.latest(run / "checkpoints"))
    if newest is None:
        raise UserError(f"{run} has no checkpoint yet")
    policy = Policy(job.model, job.policy, seed=job.run.seed, total_updates=0, max_sequence_tokens=1)
    return policy, checkpoint.load(policy, newest)["step"], job.model.tokenizer or job.model.path


def read_job(run: Path) -> config.TrainJob | config.SftJob:
    path = run / "config.yaml"
    if not path.exists():
        raise UserError(f"{run} is not a run folder: it has no config.yaml")
    try:
        return config.load(config.TrainJob, path)
    except UserError:
        return config.load(config.SftJob, path)


def _copy_generation_config(model_path: str, out: Path) -> None:
    """The model's own, with all tokens that it ends on, if it has one."""
    try:
        generation = GenerationConfig.from_pretrained(model_path)
    except OSError:
        return
    generation.save_pretrained(out)
