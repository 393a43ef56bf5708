"""Regions of parameters against the tensors that the mapping makes."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mapping_cases import DELTA_NETS, EXPERTS, linear_parts, shard
from torch import Tensor

from fastsvs.architecture import Architecture
from fastsvs.policy import Degrees
from fastsvs.policy.mapping import entries, hf_shapes
from fastsvs.policy.regions import shard_region, spans, tensor_region, whole_shapes


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    return Architecture(
        layers=2,
        hidden=8,
        ffn=12,
        heads=4 * draw(st.integers(1, 3)),
        groups=4,
        head_dim=2,
        vocabulary=draw(st.integers(1, 300)),
        max_positions=128,
        tied=draw(st.booleans()),
        qkv_bias=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        norm_epsilon=1e-6,
        initializer_range=0.02,
        experts=draw(EXPERTS),
        **linear_parts(draw(DELTA_NETS), 2),
    )


def numbered(architecture: Architecture) -> dict[str, Tensor]:
    """Tensors in which every value of the model is another number."""
    tensors, first = {}, 1
    for name, shape in hf_shapes(architecture).items():
        count = torch.Size(shape).numel()
        tensors[name] = torch.arange(first, first + count).reshape(shape)
        first += count
    return tensors


LAYOUTS = st.builds(Degrees, st.sampled_from([1, 2, 4]), expert_tensor=st.sampled_from([1, 2, 4]))


@settings(max_examples=30)
@given(architecture=architectures(), one=LAYOUTS, other=LAYOUTS, data=st.data())
def test_spans_bring_any_stretch_of_a_shard_from_the_shards_of_another_layout(architecture, one, other, data) -> None:
    tensors, shapes = numbered(architecture), whole_shapes(architecture)
    here, there = (shard(architecture, tensors, degrees) for degrees in (one, other))
    for entry, targets, sources in zip(entries(architecture, Degrees()), here, there, strict=True):
        rank = data.draw(st.integers(0, one.parts(entry) - 1))
        flat, shape = targets[rank].reshape(-1), shapes[entry.name]
        start = data.draw(st.integers(0, len(flat)))
        end = data.draw(st.integers(start, len(flat)))
        region = shard_region(architecture, entry, shape, one.parts(entry), rank)
        wanted = min(start, region.size), min(end, region.size)
        found = torch.zeros(end - start, dtype=flat.dtype)  # beyond the region lies padding, which is 0
        for source in range(1 if entry.cut is None else other.parts(entry)):
            values = sources[source].reshape(-1)
            held = shard_region(architecture, entry, shape, other.parts(entry), source)
            for place, origin, count in spans(region, wanted, held):
                assert not found[place - start : place - start + count].any(), "no value comes twice"
                assert origin + count <= held.size
                found[place - start : place - start + count] = values[origin : origin + count]
        assert found.equal(flat[start:end])


@settings(max_examples=30)
@given(architecture=architectures(), data=st.data())
def test_a_tensor_or_a_part_of_it_is_a_region_of_its_parameter(architecture, data) -> None:
    tensors, shapes = numbered(architecture), whole_shapes(architecture)
    wholes = [whole for [whole] in shard(architecture, tensors, Degrees())]
    for entry, padded in zip(entries(architecture, Degrees()), wholes, strict=True):
        shape = shapes[entry.name]
        whole = padded[: shape[0]].reshape(-1)
        everything = shard_region(architecture, entry, shape, 1, 0)
        for name in entry.sources:
            cut = data.draw(st.sampled_from([None, entry.cut]))
            size = tensors[name].shape[cut or 0]
            start = data.draw(st.integers(0, size))
            end = data.draw(st.integers(start, size))
            region = tensor_region(architecture, entry, shape, name, cut, start, end)
            expected = tensors[name] if cut is None else tensors[name].narrow(cut, start, end - start)
            assert region.size == expected.numel()
            parts = [whole[origin : origin + n] for _, origin, n in spans(region, (0, region.size), everything)]
            assert torch.cat([whole[:0], *parts]).equal(expected.reshape(-1))
