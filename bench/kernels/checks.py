"""Checks that need a GPU and no clock: a captured graph that replays on new values, and every kernel under memcheck."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.kernels import small
from bench.kernels.measure import attempt, free
from bench.kernels.ours import kernels
from bench.kernels.providers.base import SETTINGS
from bench.report import Row

CASE, OURS = "checks", "fastsvs"
SANITIZER, NOT_RUN = "compute-sanitizer", "not run"
TOKENS, WIDTH, VOCABULARY = 300, 256, 8000


def checks(seconds: float) -> Iterator[Row]:
    """Yield a row for each check, 1 where it passes; the one under the sanitizer has `seconds`. The small cases run
    before it without one, by which their kernels are compiled already when the sanitizer slows everything down."""
    for name in ("linear_logprob_entropy", "linear_policy_loss"):
        passed, reason = attempt(OURS, lambda name=name: replays(WORKS[name]))
        yield verdict(f"CUDA graph of {name}", bool(passed), reason or None)
        free()
    passed, reason = attempt(OURS, lambda: all(small.finite(values) for _, values in small.run(torch.device("cuda"))))
    yield verdict("small cases are finite", bool(passed), reason or None)
    free()
    yield memcheck(seconds)


def is_broken(row: Row) -> bool:
    """Check whether the row is of a check that ran and did not pass."""
    return row.case == CASE and not row.value and not (row.note or "").startswith(NOT_RUN)


def verdict(name: str, passed: bool, note: str | None) -> Row:
    print(f"{'PASS ' if passed else 'FAIL '} {name}{f': {note}' if note else ''}")
    return Row(CASE, OURS, name, float(passed), "yes/no", note=note)


def memcheck(seconds: float) -> Row:
    """Run one small case of every kernel under compute-sanitizer, with memory that is not pooled, so that an access
    beyond a tensor is one beyond an allocation."""
    tool, name = shutil.which(SANITIZER, path=f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin"), "memcheck"
    if tool is None:
        return verdict(name, False, f"{NOT_RUN}: {SANITIZER} is not installed")
    command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-m", "bench.kernels.small"]
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return verdict(name, False, f"did not end within {seconds:.0f} s")
    lines = (done.stdout + done.stderr).strip().splitlines()
    return verdict(name, done.returncode == 0, None if done.returncode == 0 else " / ".join(lines[-3:])[:300])


def replays(work: Callable[[Tensor, Tensor, Tensor], list[Tensor]]) -> bool:
    """Return whether a graph, captured and replayed on new values, gives the bits of a call that is not captured."""
    hidden = torch.randn(TOKENS, WIDTH, device="cuda", dtype=torch.bfloat16).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, device="cuda", dtype=torch.bfloat16).div_(16).requires_grad_()
    targets = torch.randint(VOCABULARY, (TOKENS,), device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # compiles, and takes cuBLAS's workspace
        work(hidden, weight, targets)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work(hidden, weight, targets)
    with torch.no_grad():
        hidden.mul_(0.5)
    targets[5] = kernels.IGNORE_INDEX
    graph.replay()
    return all(torch.equal(a, b) for a, b in zip(captured, work(hidden, weight, targets), strict=True))


def _logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> list[Tensor]:
    outputs = kernels.linear_logprob_entropy(hidden, weight, targets, validate=False)
    return list(torch.autograd.grad([x.sum() for x in outputs], (hidden, weight)))


def _loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> list[Tensor]:
    vector = torch.linspace(-1, 1, len(targets), device=hidden.device)
    terms = kernels.TokenInputs(vector, torch.full_like(vector, 1 / len(targets)), vector - 9)
    result = kernels.linear_policy_loss(hidden, weight, targets, terms, SETTINGS, validate=False)
    return [result.loss.detach(), *torch.autograd.grad(result.loss, (hidden, weight))]


WORKS = {"linear_logprob_entropy": _logprobs, "linear_policy_loss": _loss}
