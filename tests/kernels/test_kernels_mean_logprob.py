"""The mean log-probability over the vocabulary against float64 over all logits, whole and sharded."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from exact import log_softmax
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.kernels import linear_logprob_entropy, linear_mean_logprob

TOKENS, WIDTH, PADDED, VOCAB, TEMPERATURE = 30, 16, 64, 45, 0.7


def inputs(dtype: torch.dtype = torch.float32, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator).to(dtype)
    weight = torch.randn(PADDED, WIDTH, generator=generator).to(dtype)
    return hidden, weight, torch.randint(VOCAB, (TOKENS,), generator=generator)


def mean_logprob(hidden, weight, targets, temperature=TEMPERATURE, group=None) -> torch.Tensor:
    options = {"temperature": temperature, "vocab_size": VOCAB, "group": group}
    logprobs, _ = linear_logprob_entropy(hidden, weight, targets, **options)
    return linear_mean_logprob(hidden, weight, targets, logprobs, **options)


def expected(hidden, weight, temperature) -> torch.Tensor:
    exactly = torch.as_tensor(temperature, dtype=torch.float64)
    return log_softmax(hidden.double() @ weight.double().t(), exactly, VOCAB)[:, :VOCAB].mean(-1)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 2e-5)])
@pytest.mark.parametrize("temperature", [1.0, 0.7, torch.linspace(0.5, 2, TOKENS)], ids=["1", "0.7", "each"])
def test_against_float64(dtype, error, temperature):
    hidden, weight, targets = inputs(dtype)
    actual = mean_logprob(hidden, weight, targets, temperature)
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (actual - expected(hidden, weight, temperature)).abs().max() < error


@given(seed=st.integers(0, 1000))
def test_never_above_minus_log_v(seed):
    """KL(uniform, p) >= 0, and 0 for equal logits."""
    hidden, weight, targets = inputs(torch.float64, seed)
    least = -torch.tensor(float(VOCAB), dtype=torch.float64).log()
    assert (mean_logprob(hidden, weight, targets) < least).all()
    torch.testing.assert_close(mean_logprob(0 * hidden, weight, targets), least.expand(TOKENS))


def test_no_tokens():
    hidden, weight, targets = inputs()
    assert mean_logprob(hidden[:0], weight, targets[:0]).shape == (0,)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=4)
    hidden, weight, targets = inputs()
    torch.save(mean_logprob(hidden, weight.chunk(4)[rank], targets, group=dist.group.WORLD), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_sharding_the_weight_changes_nothing(tmp_path):
    """The last rank owns padding alone."""
    mp.start_processes(work, (str(tmp_path),), nprocs=4, start_method="forkserver")
    hidden, weight, _ = inputs()
    for rank in range(4):
        torch.testing.assert_close(
            torch.load(tmp_path / f"{rank}.pt"), expected(hidden, weight, TEMPERATURE).float(), atol=2e-5, rtol=0
        )
