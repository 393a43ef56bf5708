"""Buckets as pure functions."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.buckets import TensorSpec, checksum, describe, plan_buckets, read_specs

SPECS = st.lists(
    st.tuples(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.sampled_from([torch.float32, torch.bfloat16])),
    min_size=1,
    max_size=30,
).map(lambda drawn: [TensorSpec(f"tensor.{i}", tuple(shape), dtype) for i, (shape, dtype) in enumerate(drawn)])


@given(specs=SPECS, bucket_bytes=st.integers(1, 5000))
def test_every_tensor_travels_once_in_order_and_buckets_are_no_larger_than_they_must(
    specs: list[TensorSpec], bucket_bytes: int
) -> None:
    buckets = plan_buckets(specs, bucket_bytes)
    assert [spec for bucket in buckets for spec in bucket.tensors] == specs
    for bucket in buckets:
        assert bucket.nbytes - bucket.tensors[-1].nbytes <= bucket_bytes
    for bucket in buckets[:-1]:
        assert bucket.nbytes > bucket_bytes


@given(specs=SPECS, bucket_bytes=st.integers(1, 5000))
def test_the_receiver_cuts_as_the_sender_does(specs: list[TensorSpec], bucket_bytes: int) -> None:
    told = read_specs(**describe(specs))
    assert plan_buckets(told, bucket_bytes) == plan_buckets(specs, bucket_bytes)


def test_views_lie_end_to_end_in_the_buffer() -> None:
    specs = [TensorSpec("a", (2, 3), torch.float32), TensorSpec("b", (5,), torch.float32)]
    (bucket,) = plan_buckets(specs, 1000)
    buffer = torch.arange(11, dtype=torch.float32).view(torch.uint8)
    views = dict(bucket.views(buffer))
    assert torch.equal(views["a"], torch.arange(6.0).view(2, 3))
    assert torch.equal(views["b"], torch.arange(6.0, 11.0))


@pytest.mark.parametrize(
    "told",
    [
        {"names": ["a"], "dtype_names": ["float32"], "shapes": []},
        {"names": ["a"], "dtype_names": ["nn"], "shapes": [[1]]},
        {"names": ["a"], "dtype_names": ["float33"], "shapes": [[1]]},
    ],
)
def test_what_describes_no_tensors_is_refused(told: dict) -> None:
    with pytest.raises(ValueError, match=r"describe|no dtypes"):
        read_specs(**told)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.uint8])
def test_checksums_see_a_changed_bit_and_exchanged_values(dtype: torch.dtype) -> None:
    tensor = (torch.arange(3_000_001) % 251).to(dtype)
    original = checksum(tensor)
    assert checksum(tensor.clone()) == original
    exchanged = tensor.clone()
    exchanged[[5, 2_000_000]] = tensor[[2_000_000, 5]]
    assert checksum(exchanged) != original
    flipped = tensor.clone()
    flipped.view(torch.uint8)[-1] ^= 1
    assert checksum(flipped) != original


def test_what_workers_import_is_light() -> None:
    program = (
        "import sys, fastsvs.sync.receive; "
        "print({name.split('.')[0] for name in sys.modules} & {'megatron', 'transformers', 'vllm', 'datasets', 'rich'})"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"
