"""What the tests of whole runs share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

# Before torch is imported, in every process of the tests: threads that wait spin, and take the cores from the others.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # read when the fork server is started

import pytest
import triton_interpreter  # noqa: F401  before anything else imports Triton
from forking import Run
from hypothesis import settings
from whole_runs import ROOT, Refuse, command, environment

from fastsvs.cli import main

settings.register_profile("fastsvs", deadline=None)  # a busy machine is not a fault of the code
settings.load_profile("fastsvs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of whole runs first, which are the longest: what several processes begin last should end soon."""
    items.sort(key=lambda item: item.path.parent != Path(__file__).parent)


@pytest.fixture
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped configurations name files by their paths from the root."""
    monkeypatch.chdir(ROOT)


@pytest.fixture
def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """What `fastsvs ARGUMENTS run.dir=<new folder>` (an evaluation: `output=`) says when it refuses, and its dry run as
    well unless `dry` is false; the folder must not have been made."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)  # an earlier test may have joined a world of one

    def run(*arguments: str, dry: bool = True) -> str:
        folder = tmp_path / "run"
        messages = []
        for more in ([], ["--dry-run"]) if dry else ([],):
            place = "output" if arguments[0] == "eval" else "run.dir"
            assert main([*arguments, f"{place}={folder}", *more]) == 2, more
            assert not folder.exists()
            messages.append(capsys.readouterr().err.partition("fastsvs: error: ")[2])
        assert len(set(messages)) == 1, "the run and its dry run say the same"
        return messages[0]

    return run


Started = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def fastsvs() -> Started:
    """Run `fastsvs ARGUMENTS` to its end; with `processes` as torchrun would."""

    def run(*arguments: str, processes: int = 1, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return Run(*arguments, processes=processes).completed(timeout)

    return run


@pytest.fixture(scope="session")
def launched() -> Started:
    """The same in fresh interpreters, and with `processes` under torchrun itself."""

    def run(*arguments: str, processes: int = 1, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments, processes=processes),
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
