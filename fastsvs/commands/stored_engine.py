"""A rollout engine of any kind that holds stored weights, for work without a policy to train."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from fastsvs import distributed
from fastsvs.commands.export import write_hf_folder
from fastsvs.config import RolloutConfig, VerifierConfig
from fastsvs.data import stop_token_ids
from fastsvs.errors import UserError
from fastsvs.policy import DTYPES, StoredWeights
from fastsvs.rollout import ENGINES, Engine, Inference, Rollouts, announced, engine_spec, open_rollouts
from fastsvs.sync import LoadedSync, LocalSync, WeightSync
from fastsvs.verify import AnswerVerifier, open_verifier

T = TypeVar("T")


@dataclass(frozen=True)
class OpenEngine:
    """An engine at work with stored weights, and the verifier beside it."""

    rollouts: Rollouts
    verifier: AnswerVerifier
    step: int
    """Step of the weights, which is also their version."""

    def run(self, work: Callable[[Inference, Callable[[], bool]], T]) -> T | None:
        """Run `work`, and return its result, or None on ranks that did not roll out. Collective; see `Rollouts`."""
        return self.rollouts.start(work).result(self.step)


@contextmanager
def open_engine(
    stored: StoredWeights,
    tokenizer: PreTrainedTokenizerBase,
    rollout: RolloutConfig,
    verification: VerifierConfig,
    *,
    dtype: torch.dtype,
    longest: int,
    folder: Path,
    timeout_seconds: float,
) -> Iterator[OpenEngine]:
    """Open an engine with the stored weights. `longest` is the number of tokens in the longest prompt with its
    response; `folder` is where servers may leave files."""
    stop = stop_token_ids(stored.model.path, tokenizer)
    with ExitStack() as stack:
        stack.enter_context(announced(rollout))
        verifier = stack.enter_context(open_verifier(verification))
        spec = engine_spec(rollout, stored.hf_config, stop, dtype, longest, folder / ".servers")
        if not ENGINES.get(rollout.engine).collective:
            weights = stack.enter_context(loadable(stored, folder / ".weights"))
            spec = replace(spec, weights=weights, server_arguments=())

        def sync_of(engine: Engine) -> WeightSync:
            return LocalSync(stored, engine) if engine.fleet is None else LoadedSync(engine.fleet, timeout_seconds)

        rollouts = stack.enter_context(open_rollouts(spec, sync_of, timeout_seconds))
        rollouts.sync.publish(stored.step)
        yield OpenEngine(rollouts, verifier, stored.step)


@contextmanager
def loadable(stored: StoredWeights, folder: Path) -> Iterator[str]:
    """Yield where servers can load the weights from: their own place, or for a checkpoint `folder` for as long as they
    run."""
    if stored.step == 0 and stored.dtype is None:
        path = Path(stored.model.path)
        yield str(path.absolute()) if path.is_dir() else stored.model.path
        return
    if distributed.is_main():
        write_hf_folder(stored, folder)
    distributed.barrier()  # the others wait until it is there
    try:
        yield str(folder.absolute())
    finally:
        if distributed.is_main():
            shutil.rmtree(folder, ignore_errors=True)


def chosen_dtype(choice: Literal["auto", "fp32", "bf16"], stored: StoredWeights) -> torch.dtype:
    """Return the chosen dtype; `auto` is the dtype that the model was trained or stored in, with bf16 for fp16."""
    if choice != "auto":
        return DTYPES[choice]
    dtype = stored.dtype or stored.hf_config.dtype or torch.float32
    return torch.bfloat16 if dtype == torch.float16 else dtype


def check_placement(rollout: RolloutConfig, what: str) -> None:
    """Raise UserError unless servers are started for the stored weights alone (`colocated`)."""
    if rollout.placement != "colocated":
        raise UserError(
            f"rollout.placement={rollout.placement}: {what} starts servers of its own, on the nodes that it runs on "
            "(colocated)"
        )
