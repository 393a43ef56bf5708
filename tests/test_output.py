"""Lines on stderr that stay whole where several processes write into one pipe."""

from __future__ import annotations

import io
import sys

import pytest

from fastsvs.output import say


class Pipe(io.RawIOBase):
    """A raw stream that keeps each write by itself, as the kernel of the operating system takes it."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: memoryview | bytes) -> int:  # type: ignore[override]
        self.writes.append(bytes(data))
        return len(data)


def test_a_line_is_one_write_without_buffers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipe()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(pipe, write_through=True))  # type: ignore[type-var]
    say("fastsvs: node 0: ready")
    assert pipe.writes == [b"fastsvs: node 0: ready\n"]
