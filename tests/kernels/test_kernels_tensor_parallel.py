"""`linear_logprob_entropy` over a sharded vocabulary: real gloo processes against one process."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fastsvs.kernels import IGNORE_INDEX, linear_logprob_entropy

TOKENS, WIDTH, PADDED, VOCAB = 50, 16, 64, 45  # with 4 ranks the last one owns padding alone
WORLD = 4


def inputs():
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(PADDED, WIDTH, generator=generator)
    targets = torch.randint(VOCAB, (TOKENS,), generator=generator)
    targets[:8] = torch.tensor([0, 15, 16, 31, 32, 44, IGNORE_INDEX, IGNORE_INDEX])  # the borders of the shards
    return hidden, weight, targets


def run(hidden, weight, targets, group=None):
    weight = weight.clone().requires_grad_()
    logprobs, entropy = linear_logprob_entropy(
        hidden, weight, targets, temperature=torch.linspace(0.5, 2, TOKENS), vocab_size=VOCAB, group=group
    )
    rise = torch.linspace(-1, 1, TOKENS)
    grads = torch.autograd.grad((rise * logprobs).sum() + (rise.flip(0) * entropy).sum(), (hidden, weight))
    return [logprobs.detach(), entropy.detach(), *grads]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    hidden, weight, targets = inputs()
    results = {}
    for size in (1, 2, 4):
        groups = [dist.new_group(list(range(start, start + size))) for start in range(0, WORLD, size)]
        shard = weight.chunk(size)[rank % size]
        results[size] = run(hidden, shard, targets, groups[rank // size])
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("gloo")
    mp.spawn(work, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_values_are_the_same_bits_on_all_ranks(results, size):
    for rank in range(1, size):
        for value in (0, 1):
            assert torch.equal(results[rank][size][value], results[0][size][value])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_sharding_changes_nothing(results, size):
    logprobs, entropy, hidden_grad, weight_grad = run(*inputs())
    mine = [results[rank][size] for rank in range(size)]
    close = {"atol": 2e-6, "rtol": 1e-5}
    torch.testing.assert_close(mine[0][0], logprobs, **close)
    torch.testing.assert_close(mine[0][1], entropy, **close)
    torch.testing.assert_close(sum(part[2] for part in mine), hidden_grad, **close)
    torch.testing.assert_close(torch.cat([part[3] for part in mine]), weight_grad, **close)
