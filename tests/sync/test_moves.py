"""The plan from shard to shard, for trainers and servers of any layout."""

from __future__ import annotations

from itertools import product
from math import prod
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.architecture import Architecture
from fastsvs.blocks import Block
from fastsvs.buckets import TensorSpec
from fastsvs.families import Experts
from fastsvs.policy.blocks import held_blocks, served_blocks
from fastsvs.policy.stream import weight_specs
from fastsvs.sync import moves as planning
from fastsvs.sync.moves import Blocks, busiest, pays, plan_moves, spread_order

LAYERS = 4
EXPERTS = [
    Experts(count=4, active=2, ffn=8, normalized=True),
    Experts(count=8, active=1, ffn=16, normalized=False, shared_ffn=8),
    Experts(count=4, active=2, ffn=8, normalized=True, naming="mixtral"),
]


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    groups, queries = draw(st.sampled_from([4, 8])), draw(st.sampled_from([1, 2, 7]))
    return Architecture(
        layers=LAYERS,
        hidden=draw(st.integers(3, 20)),
        ffn=8 * draw(st.integers(1, 5)),
        heads=groups * queries,
        groups=groups,
        head_dim=draw(st.sampled_from([4, 6])),
        vocabulary=draw(st.integers(1, 400)),
        max_positions=64,
        tied=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        norm_epsilon=1e-6,
        initializer_range=0.02,
        experts=draw(st.sampled_from([None, *EXPERTS])),
    )


@st.composite
def held(draw: st.DrawFn, architecture: Architecture) -> list[Blocks]:
    """Blocks of every rank of a trainer, in Megatron's order: tensor, data, pipeline parallelism; experts are cut
    over neighbours of a stage and dealt to such groups."""
    tensor, data, pipeline = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 4]))
    shared = [degrees for degrees in product((1, 2, 4), (1, 2, 4)) if tensor * data % prod(degrees) == 0]
    dealt, cut = draw(st.sampled_from(shared)) if architecture.experts else (1, 1)
    blocks = []
    for stage in range(pipeline):
        for rank in range(tensor * data):
            with patch.multiple(
                "fastsvs.policy.degrees.mpu",
                get_tensor_model_parallel_world_size=lambda: tensor,
                get_tensor_model_parallel_rank=lambda rank=rank: rank % tensor,
                get_context_parallel_world_size=lambda: 1,
                get_pipeline_model_parallel_world_size=lambda: pipeline,
                get_pipeline_model_parallel_rank=lambda stage=stage: stage,
                get_expert_model_parallel_world_size=lambda: dealt,
                get_expert_model_parallel_rank=lambda rank=rank: rank // cut % dealt,
                get_expert_tensor_parallel_world_size=lambda: cut,
                get_expert_tensor_parallel_rank=lambda rank=rank: rank % cut,
            ):
                blocks.append(held_blocks(architecture))
    return blocks


def served(architecture: Architecture, servers: list[int]) -> list[Blocks]:
    return [served_blocks(architecture, tensor, rank) for tensor in servers for rank in range(tensor)]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[TensorSpec], list[Blocks], list[Blocks]]:
    architecture = draw(architectures())
    ranks = draw(held(architecture))
    tensors = [1, 2, 4, *(8 for _ in [0] if architecture.heads % 8 == 0)]
    servers = draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=3))
    specs = spread_order(weight_specs(architecture, torch.bfloat16), ranks)
    return specs, ranks, served(architecture, servers)


@given(case=cases(), share=st.sampled_from([1, 64, 1 << 20]))
def test_a_worker_gets_each_value_of_its_blocks_once_from_a_rank_that_holds_it(
    case: tuple[list[TensorSpec], list[Blocks], list[Blocks]], share: int
) -> None:
    specs, ranks, workers = case
    with patch.object(planning, "SHARE_BYTES", share):
        moves = plan_moves(specs, ranks, workers)
    arrived = [{spec.name: torch.zeros(spec.shape, dtype=torch.int8) for spec in specs} for _ in workers]
    for move in moves:
        name = specs[move.tensor].name
        assert move.block & ranks[move.sender][name] == move.block
        move.block.of(arrived[move.worker][name]).add_(1)
    for blocks, tensors in zip(workers, arrived, strict=True):
        for name, counts in tensors.items():
            assert blocks[name].of(counts).eq(1).all()
            assert int(counts.sum()) == blocks[name].size, "nothing that nobody wants travels"


@given(case=cases())
def test_all_workers_of_a_server_have_the_whole_model_together(
    case: tuple[list[TensorSpec], list[Blocks], list[Blocks]],
) -> None:
    specs, ranks, workers = case
    for holders in (ranks, workers):
        for spec in specs:
            union = torch.zeros(spec.shape, dtype=torch.bool)
            for blocks in holders:
                if spec.name in blocks:
                    blocks[spec.name].of(union).fill_(True)
            assert union.all(), spec.name


@given(case=cases())
def test_replicas_send_the_same_but_for_one_block(
    case: tuple[list[TensorSpec], list[Blocks], list[Blocks]],
) -> None:
    specs, ranks, workers = case
    with patch.object(planning, "SHARE_BYTES", 64):
        moves = plan_moves(specs, ranks, workers)
    sent = [sum(2 * m.block.size for m in moves if m.sender == rank) for rank in range(len(ranks))]
    largest = max(2 * m.block.size for m in moves)
    for blocks in ranks:
        replicas = [sent[rank] for rank, others in enumerate(ranks) if others == blocks]
        assert max(replicas) - min(replicas) <= largest


@given(case=cases())
def test_the_order_keeps_every_tensor_and_all_stages_busy(
    case: tuple[list[TensorSpec], list[Blocks], list[Blocks]],
) -> None:
    specs, ranks, _ = case
    assert sorted(spec.name for spec in specs) == sorted(set().union(*ranks))
    layers = [".".join(spec.name.split(".")[:3]) for spec in specs]
    stages = [frozenset(r for r, blocks in enumerate(ranks) if spec.name in blocks) for spec in specs]
    first = list(dict.fromkeys(layers))[: len(set(stages))]
    begun = {stage for layer, stage in zip(layers, stages, strict=True) if layer in first}
    assert begun == set(stages)


def whole_case(cards: int, servers: list[int]) -> tuple[list[TensorSpec], list[Blocks], list[Blocks]]:
    spec = TensorSpec("model.layers.0.mlp.up_proj.weight", (64, 1 << 20), torch.bfloat16)
    whole = Block.whole(spec.shape)
    wanted = [
        {spec.name: whole.along(0, 64 // parts * rank, 64 // parts * (rank + 1))}
        for parts in servers
        for rank in range(parts)
    ]
    return [spec], [{spec.name: whole}] * cards, wanted


@pytest.mark.parametrize(
    ("cards", "servers", "share", "chosen"),
    [
        (1, [2], 1.0, True),  # one card sends all there is either way
        (1, [1, 1], 2.0, False),  # one card would send it twice
        (4, [4], 0.25, True),
        (4, [2, 2], 0.5, True),
        (4, [1], 1.0, True),  # the worker receives all there is either way
        (2, [2] * 8, 4.0, False),  # two cards would send it eight times
    ],
)
def test_the_busiest_card_decides(cards: int, servers: list[int], share: float, chosen: bool) -> None:
    specs, held, wanted = whole_case(cards, servers)
    moves = plan_moves(specs, held, wanted)
    assert busiest(moves, specs) == share * specs[0].nbytes
    assert pays(moves, specs) is chosen


def test_a_value_that_no_rank_holds_is_refused() -> None:
    specs, held, wanted = whole_case(1, [1])
    held[0] = {specs[0].name: held[0][specs[0].name].along(0, 0, 63)}
    with pytest.raises(ValueError, match=r"holds 66060288 of the 67108864 values of model\.layers\.0\.mlp"):
        plan_moves(specs, held, wanted)
