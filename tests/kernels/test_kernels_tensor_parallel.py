"""The operators over a sharded vocabulary: real gloo processes against one process."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from fastsvs.kernels import (
    IGNORE_INDEX,
    Head,
    PolicyLossSettings,
    TokenInputs,
    Truncation,
    kept_logits,
    linear_logprob_entropy,
    linear_policy_loss,
    linear_top_logprobs,
    logprob_entropy,
    pieces,
)

TOKENS, WIDTH, PADDED, VOCAB = 50, 16, 64, 45  # with 4 ranks the last one owns padding alone
WORLD = 4
CUT = {"least_rows": 5, "least_columns": 16, "together": 2}


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(PADDED, WIDTH, generator=generator)
    targets = torch.randint(VOCAB, (TOKENS,), generator=generator)
    targets[:8] = torch.tensor([0, 15, 16, 31, 32, 44, IGNORE_INDEX, IGNORE_INDEX])  # the borders of the shards
    return hidden, weight, targets


def options(group) -> dict:
    return {"temperature": torch.linspace(0.5, 2, TOKENS), "vocab_size": VOCAB, "group": group}


def slopes() -> tuple[Tensor, Tensor]:
    return torch.linspace(-1, 1, TOKENS), torch.linspace(1, -1, TOKENS)


def from_hidden(size: int = 1, rank: int = 0, group=None) -> list[Tensor]:
    """[log-probs, entropy, dX, dW] of this rank."""
    hidden, weight, targets = inputs()
    weight = weight.chunk(size)[rank].clone().requires_grad_()
    outputs = linear_logprob_entropy(hidden, weight, targets, **options(group))
    return [x.detach() for x in (*outputs, *torch.autograd.grad(outputs, (hidden, weight), slopes()))]


def from_uneven_shards(size: int = 1, rank: int = 0, group=None) -> list[Tensor]:
    """[log-probs, entropy, dX, dW] of this rank, where the ranks' shards differ in size."""
    hidden, weight, targets = inputs()
    start, stop = (VOCAB * end * end // size**2 for end in (rank, rank + 1))
    weight = weight[start:stop].clone().requires_grad_()
    outputs = linear_logprob_entropy(hidden, weight, targets, vocab_start=start, **options(group))
    return [x.detach() for x in (*outputs, *torch.autograd.grad(outputs, (hidden, weight), slopes()))]


def from_kept_logits(size: int = 1, rank: int = 0, group=None, keep: bool = True) -> list[Tensor]:
    """[log-probs, entropy, dX, dW] of this rank in bf16, from logits that forward keeps as on a GPU."""
    hidden, weight, targets = inputs()
    hidden = hidden.detach().bfloat16().requires_grad_()
    weight = weight.bfloat16().chunk(size)[rank].clone().requires_grad_()
    before = kept_logits.operand_dtype
    kept_logits.operand_dtype = lambda like: like.dtype
    try:
        outputs = linear_logprob_entropy(hidden, weight, targets, keep_logits=keep, **options(group))
        gradients = torch.autograd.grad(outputs, (hidden, weight), slopes())
    finally:
        kept_logits.operand_dtype = before
    return [x.detach() for x in (*outputs, *gradients)]


def from_truncated(size: int = 1, rank: int = 0, group=None) -> list[Tensor]:
    """[log-probs, entropy, dX, dW, largest log-probs, their ids] of this rank under the mask of a sampler."""
    hidden, weight, targets = inputs()
    weight = weight.chunk(size)[rank].clone().requires_grad_()
    outputs = linear_logprob_entropy(hidden, weight, targets, truncation=Truncation(9, 0.8), **options(group))
    gradients = torch.autograd.grad(outputs, (hidden, weight), slopes())
    top = linear_top_logprobs(hidden, weight.detach(), 20, **options(group))
    return [x.detach() for x in (*outputs, *gradients, *top)]


def from_dtensors(mesh) -> list[Tensor]:
    """[log-probs, entropy, dX, dW, dbias, loss, dX and dW of it], the whole of each, from sharded DTensors.

    43 entries are no multiple of the ranks: the last shard is smaller."""
    hidden, weight, targets = inputs()
    hidden = distribute_tensor(hidden.detach(), mesh, [Replicate()]).requires_grad_()
    weight, bias = (distribute_tensor(x, mesh, [Shard(0)]).requires_grad_() for x in dtensor_head(weight))
    targets = targets.clamp(max=42)
    given = {"temperature": torch.linspace(0.5, 2, TOKENS)}
    outputs = linear_logprob_entropy(hidden, Head(weight, bias), targets, **given)
    first = torch.autograd.grad(outputs, (hidden, weight, bias), slopes())
    rise, fall = slopes()
    terms = TokenInputs(rise, fall.abs(), old_logprobs=rise - 3)
    loss = linear_policy_loss(hidden, Head(weight, bias), targets, terms, PolicyLossSettings(), **given).loss
    second = torch.autograd.grad(loss, (hidden, weight, bias))
    return [
        x.detach().full_tensor() if isinstance(x, DTensor) else x.detach() for x in (*outputs, *first, loss, *second)
    ]


def dtensor_head(weight: Tensor) -> tuple[Tensor, Tensor]:
    return weight[:43].clone(), torch.linspace(-1, 1, 43)


def from_part_of_the_loss(*place) -> list[Tensor]:
    """The result of `from_loss`, and the tokens that were left out of dX and dW."""
    return from_loss(*place, exact=False, tau=0.2)


def from_loss(size: int = 1, rank: int = 0, group=None, **choice) -> list[Tensor]:
    """[log-probs, entropy, dX, dW, loss] of this rank in one pass, dW by way of a buffer."""
    hidden, weight, targets = inputs()
    weight = weight.chunk(size)[rank].clone().requires_grad_()
    buffer = torch.zeros_like(weight, requires_grad=False)
    rise, fall = slopes()
    result = linear_policy_loss(
        hidden,
        weight,
        targets,
        TokenInputs(rise, fall.abs(), old_logprobs=rise - 3),
        PolicyLossSettings(entropy_coefficient=0.1),
        weight_grad=buffer,
        workspace_bytes=1,
        **options(group),
        **choice,
    )
    (hidden_grad,) = torch.autograd.grad(result.loss, hidden)
    left_out = [result.metrics["left_out"]] if choice else []
    return [result.logprobs, result.entropy, hidden_grad, buffer, result.loss.detach(), *left_out]


def from_logits(size: int = 1, rank: int = 0, group=None, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """[log-probs, entropy, gradient of the logits] of this rank."""
    hidden, weight, targets = inputs()
    logits = (hidden @ weight.t()).detach().to(dtype).chunk(size, 1)[rank].requires_grad_()
    outputs = logprob_entropy(logits, targets, **options(group))
    return [x.detach() for x in (*outputs, *torch.autograd.grad(outputs, logits, slopes()))]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    # Several pieces, and so several all-gathers, two to a group.
    pieces.CPU = replace(pieces.CPU, **CUT)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    results = {}
    for size in (1, 2, 4):
        groups = [dist.new_group(list(range(start, start + size))) for start in range(0, WORLD, size)]
        place = size, rank % size, groups[rank // size]
        results[size] = {
            "hidden": from_hidden(*place),
            "logits": from_logits(*place),
            "bf16 logits": from_logits(*place, torch.bfloat16),
            "loss": from_loss(*place),
            "part of the loss": from_part_of_the_loss(*place),
            "kept": from_kept_logits(*place),
            "uneven": from_uneven_shards(*place),
            "truncated": from_truncated(*place),
        }
        if size == WORLD:
            results["dtensor"] = from_dtensors(DeviceMesh("cpu", list(range(WORLD))))
            results["refused"] = refusals(DeviceMesh("cpu", list(range(WORLD))), groups[0])
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def refusals(mesh, group) -> list[str]:
    """What is said of DTensors in other places."""
    hidden, weight, targets = inputs()
    sharded, replicated = (distribute_tensor(weight, mesh, [place]) for place in (Shard(0), Replicate()))
    said = []
    for head, states, options in (
        (replicated, hidden, {}),
        (Head(sharded, torch.zeros(PADDED)), hidden, {}),
        (sharded, hidden, {"group": group}),
        (sharded, distribute_tensor(hidden.detach(), mesh, [Shard(0)]), {}),
        (weight, distribute_tensor(hidden.detach(), mesh, [Replicate()]), {}),
    ):
        try:
            linear_logprob_entropy(states, head, targets, **options)
        except ValueError as error:
            said.append(str(error))
    return said


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("gloo")
    mp.start_processes(work, (str(folder),), nprocs=WORLD, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("operator", ["hidden", "logits", "bf16 logits", "loss", "kept", "uneven", "truncated"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_values_are_the_same_bits_on_all_ranks(results, size, operator):
    first = results[0][size][operator]
    for rank in range(1, size):
        for value in (0, 1):
            assert torch.equal(results[rank][size][operator][value], first[value])


@pytest.mark.parametrize("operator", ["hidden", "uneven", "truncated"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_sharding_the_weight_changes_nothing(results, size, operator):
    whole = {"hidden": from_hidden, "uneven": from_hidden, "truncated": from_truncated}[operator]
    logprobs, entropy, hidden_grad, weight_grad, *top = whole()
    mine = [results[rank][size][operator] for rank in range(size)]
    weight_grad = weight_grad[:VOCAB] if operator == "uneven" else weight_grad
    for part in mine:
        for found, expected in zip(part[4:], top, strict=True):
            torch.testing.assert_close(found, expected)
    close = {"atol": 2e-6, "rtol": 1e-5}
    torch.testing.assert_close(mine[0][0], logprobs, **close)
    torch.testing.assert_close(mine[0][1], entropy, **close)
    torch.testing.assert_close(sum(part[2] for part in mine), hidden_grad, **close)
    torch.testing.assert_close(torch.cat([part[3] for part in mine]), weight_grad, **close)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_sharding_changes_kept_logits_by_their_rounding_alone(results, size):
    """A rank keeps them less the maximum of its own part."""
    _, _, hidden_grad, weight_grad = (x.double() for x in from_kept_logits(keep=False))
    mine = [results[rank][size]["kept"] for rank in range(size)]
    for found, expected in (
        (sum(part[2].double() for part in mine), hidden_grad),
        (torch.cat([part[3] for part in mine]).double(), weight_grad),
    ):
        assert not torch.equal(found, expected)
        assert (found - expected).norm() <= 6e-3 * expected.norm()


def test_dtensors_bring_their_ranks_and_give_dtensors(results):
    hidden, weight, targets = inputs()
    weight, bias = (x.requires_grad_() for x in dtensor_head(weight))
    logits = hidden @ weight.t() + bias
    logp = (logits / torch.linspace(0.5, 2, TOKENS)[:, None]).log_softmax(-1)
    kept = targets != IGNORE_INDEX
    chosen = logp.gather(1, targets.clamp(0, 42)[:, None])[:, 0].where(kept, 0.0)
    outputs = chosen, -(logp.exp() * logp).sum(-1).where(kept, 0.0)
    rise, fall = slopes()
    ratio = (chosen - rise + 3).exp()
    loss = torch.maximum(-ratio * rise, -ratio.clamp(0.8, 1.28) * rise)
    loss = torch.where(rise < 0, torch.minimum(loss, -3 * rise), loss)
    loss = (loss * fall.abs())[kept].sum()
    wanted = (
        *outputs,
        *torch.autograd.grad(outputs, (hidden, weight, bias), slopes(), retain_graph=True),
        loss,
        *torch.autograd.grad(loss, (hidden, weight, bias)),
    )
    for rank in range(WORLD):
        for found, expected in zip(results[rank]["dtensor"], wanted, strict=True):
            torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-4)


def test_dtensors_in_other_places_are_refused(results):
    said = results[0]["refused"]
    assert len(said) == 5
    for found, expected in zip(
        said,
        (
            "weight must be a DTensor with placements (Shard(0),)",
            "bias must be a DTensor with placements (Shard(0),), over the vocabulary, got a plain tensor",
            "give no group or vocab_start",
            "hidden must be replicated over the weight's mesh",
            "hidden is a DTensor, so the weight must be one too",
        ),
        strict=True,
    ):
        assert expected in found


@pytest.mark.parametrize("work", [from_loss, from_part_of_the_loss])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_sharding_the_loss_changes_nothing(results, size, work, cut):
    cut(**CUT)  # as the ranks cut tokens, among which some are left out
    logprobs, entropy, hidden_grad, weight_grad, loss, *left_out = work()
    name = "part of the loss" if left_out else "loss"
    mine = [results[rank][size][name] for rank in range(size)]
    for part in mine:
        assert all(torch.equal(ours, alone) for ours, alone in zip(part[5:], left_out, strict=True))
    assert all(2 < out.sum() < 40 for out in left_out)
    close = {"atol": 2e-6, "rtol": 1e-5}
    torch.testing.assert_close(mine[0][0], logprobs, **close)
    torch.testing.assert_close(mine[0][1], entropy, **close)
    torch.testing.assert_close(sum(part[2] for part in mine), hidden_grad, **close)
    torch.testing.assert_close(torch.cat([part[3] for part in mine]), weight_grad, **close)
    assert all(torch.equal(part[4], mine[0][4]) for part in mine)
    torch.testing.assert_close(mine[0][4], loss, **close)


@pytest.mark.parametrize(("operator", "dtype"), [("logits", torch.float32), ("bf16 logits", torch.bfloat16)])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_sharding_the_logits_changes_nothing(results, size, operator, dtype):
    logprobs, entropy, gradient = from_logits(dtype=dtype)
    mine = [results[rank][size][operator] for rank in range(size)]
    close = {"atol": 2e-6, "rtol": 1e-5}
    torch.testing.assert_close(mine[0][0], logprobs, **close)
    torch.testing.assert_close(mine[0][1], entropy, **close)
    close["rtol"] = max(close["rtol"], torch.finfo(dtype).eps)
    torch.testing.assert_close(torch.cat([part[2] for part in mine], 1), gradient, **close)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("columns", [2999, 6000])
def test_the_kernels_on_shards(size, columns, device):
    """A rank's statistics, gathered and merged, and its share of the gradient: what every rank runs, in turn."""
    from fastsvs.kernels import rows_triton

    generator = torch.Generator().manual_seed(size)
    logits = (torch.randn(7, columns, generator=generator) * 4).to(device)
    targets = torch.tensor([0, columns - 1, columns // size, columns // size - 1, 5, 17, IGNORE_INDEX], device=device)
    inverse = torch.linspace(0.5, 2, 7, device=device)
    g, h = (x[:7].to(device) for x in slopes())

    def parts(*shards: Tensor) -> list[Tensor]:
        firsts = [sum(shard.shape[1] for shard in shards[:i]) for i in range(len(shards))]
        gathered = []
        for shard, first in zip(shards, firsts, strict=True):
            mine = rows_triton.row_statistics(shard, targets, first, inverse)
            gathered.append(rows_triton.merge_statistics(mine, targets)[0])
        statistics, logprobs, entropy = rows_triton.merge_statistics(torch.stack(gathered), targets)
        gradients = [torch.empty_like(shard) for shard in shards]
        for shard, first, out in zip(shards, firsts, gradients, strict=True):
            rows_triton.logits_gradient(shard, statistics, targets, first, inverse, g, h, None, out)
        return [logprobs, entropy, torch.cat(gradients, 1)]

    for whole, sharded in zip(parts(logits), parts(*logits.chunk(size, 1)), strict=True):
        torch.testing.assert_close(sharded, whole, atol=2e-6, rtol=1e-5)
