"""Files of tensors against the safetensors library, and their damage."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from fastsvs.errors import UserError
from fastsvs.policy import host_memory, tensor_file
from fastsvs.policy.host_memory import HostMemory
from fastsvs.policy.manifest import FileFacts
from fastsvs.policy.pieces import memory_of
from fastsvs.policy.tensor_file import Read


def tensors(sizes: list[int]) -> dict[str, Tensor]:
    return {f"master/{index}.weight/0/{size}": torch.randn(size) for index, size in enumerate(sizes)}


def written(path: Path, content: dict[str, Tensor]) -> FileFacts:
    content = dict(sorted(content.items()))
    memory = HostMemory()
    memory.store(list(content.values()))
    return tensor_file.write(path, {name: len(tensor) for name, tensor in content.items()}, memory.bytes())


@pytest.mark.parametrize("segment", [8, 100, 1 << 20])
@pytest.mark.parametrize("sizes", [[], [3], [1, 0, 700, 40, 2]])
def test_a_file_is_the_one_that_the_library_writes(tmp_path, monkeypatch, segment, sizes) -> None:
    monkeypatch.setattr(host_memory, "SEGMENT_BYTES", segment)
    content = tensors(sizes)
    facts = written(tmp_path / "ours", content)
    save_file(content, tmp_path / "theirs")
    ours = (tmp_path / "ours").read_bytes()
    assert ours == (tmp_path / "theirs").read_bytes()
    assert facts == FileFacts(bytes=len(ours), sha256=hashlib.sha256(ours).hexdigest())
    found = tensor_file.read_header(tmp_path / "ours")
    assert {name: (len(tensor),) for name, tensor in content.items()} == {n: place.shape for n, place in found.items()}


@pytest.mark.parametrize("hashed", [False, True])
@settings(max_examples=20)
@given(edges=st.lists(st.integers(0, 900), unique=True, min_size=2, max_size=9), chunk=st.integers(1, 2000))
def test_stretches_are_read_with_and_without_the_rest(tmp_path_factory, hashed, edges, chunk) -> None:
    path = tmp_path_factory.mktemp("file") / "file"
    content = torch.randn(900)
    facts = written(path, {"x": content})
    offset = tensor_file.read_header(path)["x"].offset
    edges.sort()
    stretches = list(zip(edges[::2], edges[1::2], strict=False))
    found = [torch.empty(end - start) for start, end in stretches]
    reads = [Read(offset + 4 * start, memory_of(into)) for (start, _), into in zip(stretches, found, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_file, "CHUNK_BYTES", chunk)
        tensor_file.read(path, reads[::-1], facts.sha256 if hashed else None)
    assert all(into.equal(content[start:end]) for (start, end), into in zip(stretches, found, strict=True))


@pytest.mark.parametrize("byte", [0, 20, -1])
def test_an_altered_byte_anywhere_is_seen(tmp_path, byte) -> None:
    facts = written(tmp_path / "file", tensors([9, 9]))
    content = bytearray((tmp_path / "file").read_bytes())
    content[byte] ^= 1
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match="file do not have the checksum that was recorded"):
        tensor_file.read(tmp_path / "file", (), facts.sha256)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x05",
        b"\xff" * 9,
        b"\x02" + bytes(7) + b"[]",
        b"\x02" + bytes(7) + b"{",
        (10**5).to_bytes(8, "little") + b"[" * 10**5,
        b'\x37\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}  ',
        b'\x38\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}    1234',
    ],
)
def test_what_is_no_such_file_is_told(tmp_path, content) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match=r"file ends at byte|file is no safetensors file, or is cut off"):
        tensor_file.read_header(tmp_path / "file")


def test_memory_is_kept_and_gives_back_what_it_got(monkeypatch) -> None:
    monkeypatch.setattr(host_memory, "SEGMENT_BYTES", 64)
    memory = HostMemory()
    for sizes, held in (([100, 3], 412), ([7], 412), ([200], 800)):
        content = [torch.randn(size) for size in sizes]
        memory.store(content)
        kept = [tensor.clone() for tensor in content]
        for tensor in content:
            tensor.zero_()
        memory.restore(content)
        assert all(map(torch.equal, content, kept))
        assert sum(map(len, memory.bytes())) == sum(tensor.nbytes for tensor in content)
        assert memory.nbytes == held


def test_a_file_that_shrinks_while_it_is_read_is_told(tmp_path) -> None:
    written(tmp_path / "file", {"x": torch.randn(100)})
    os.truncate(tmp_path / "file", 200)
    with pytest.raises(UserError, match="ends at byte 200"):
        tensor_file.read(tmp_path / "file", [Read(100, memory_of(torch.empty(50)))])
