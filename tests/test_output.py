"""Lines on stderr that stay whole where several processes write into one pipe."""

from __future__ import annotations

import io
import signal
import subprocess
import sys

import pytest
from whole_runs import environment

from fastsvs.cli import main
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


@pytest.mark.parametrize("command", [["configs"], ["plan", "--help"]])
def test_a_reader_that_has_seen_enough_is_no_error(command: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fastsvs", *command],
        env=environment() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == (128 + signal.SIGPIPE if command == ["configs"] else 0)


def test_only_what_is_required_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train"])
    assert capsys.readouterr().err.endswith("error: the following arguments are required: CONFIG\n")


@pytest.mark.parametrize("word", ["nan", "inf", "-1", "x"])
def test_a_tolerance_is_a_number_of_at_least_0(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["analyze", "run", "model", "--tolerance", word])
    assert f"argument --tolerance: {word!r} is not a number of at least 0" in capsys.readouterr().err
