"""Provider: TRL's log-prob and entropy, the Triton kernel from logits and the chunked head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from types import ModuleType

from bench.kernels.inputs import Inputs
from bench.kernels.providers import alone
from bench.kernels.providers.base import Outputs, Provider, Work, loss_of
from bench.kernels.suites import Operator

CHUNK = 32768
"""Number of vocabulary columns at a time, as in TRL's trainers."""


def providers(operator: Operator, gpu: bool) -> Iterator[Provider]:
    if operator != "logprob_entropy":
        note = "four products; logits rounded to bf16"
        yield Provider("TRL chunked", lambda: _chunked(operator), unequal=note, complete=True)
    elif gpu:
        yield Provider("TRL", _from_logits, complete=True)


def _from_logits() -> Work:
    function = load("logprob_entropy").selective_log_softmax_and_entropy
    return lambda inputs: function(inputs.logits, inputs.targets)


def _chunked(operator: Operator) -> Work:
    function = load("chunked_logprob").ChunkedLogProbFunction

    def work(inputs: Inputs) -> Outputs:
        logprobs, entropy, *_ = function.apply(
            inputs.hidden, inputs.weight, None, inputs.targets, 1.0, CHUNK, None, 1.0, ("entropy",)
        )
        return (loss_of(logprobs, entropy, inputs),) if operator == "linear_policy_loss" else (logprobs, entropy)

    return work


def load(name: str) -> ModuleType:
    """Import `trl.kernels.<name>`, which needs torch and Triton.

    The rest of TRL is replaced by two small answers: whether Triton is there, and whether the weight must be gathered
    first (with DeepSpeed only).
    """
    stand_ins = {
        "transformers": {},
        "transformers.utils": {"is_triton_available": lambda: find_spec("triton") is not None},
        "trl.trainer": {},
        "trl.trainer.utils": {"maybe_gather_lm_head_ctx": lambda *_: nullcontext()},
    }
    return alone.load(f"trl.kernels.{name}", stand_ins)
