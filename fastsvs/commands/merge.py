"""`fastsvs merge`: a model between two others (iterative model merging, arXiv 2503.02103; DARE, arXiv 2311.03099)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from fastsvs.commands.export import check_new, write_hf_folder
from fastsvs.dynamics import paired
from fastsvs.policy import MergePlan, open_weights


def merge_models(base: str, tuned: str, out: Path, plan: MergePlan) -> None:
    """Write `out`, a Hugging Face folder with the tuned model's tokenizer and dtype, one tensor at a time. `base` and
    `tuned` are models, runs or checkpoints. Raises UserError for different architectures, an `out` that exists, and
    under torchrun with several processes."""
    check_new(out, "fastsvs merge")
    first, second = open_weights(base), open_weights(tuned)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, old, new in paired(first.hf_weights(), second.hf_weights()):
            yield name, plan.merge(name, old, new).to(new.dtype)

    write_hf_folder(second, out, tensors())
