"""Runs of two ranks that are killed, and what two runs must have in common that came to the same end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from forking import Run
from safetensors.torch import load_file

from bench.kills.jobs import record


def killed_after_a_step(fastsvs, words: Sequence[str], folder: Path) -> Path:
    """Folder of a run of two ranks that was killed after its first step, and then ended."""
    session = Run(*words, f"run.dir={folder}", processes=2)
    while not (folder / "checkpoints" / "step_00000001").exists():
        assert session.poll() is None
        time.sleep(0.02)
    session.kill()
    assert session.wait(60) != 0
    result = fastsvs(*words, f"run.dir={folder}", processes=2)
    assert result.returncode == 0, result.stderr
    return folder


def assert_same_end(fastsvs, folder: Path, other: Path) -> None:
    assert record(folder) == record(other)
    weights = []
    for run in (folder, other):
        out = run.with_suffix(".hf")
        assert fastsvs("export", str(run), "--out", str(out)).returncode == 0
        weights.append(load_file(out / "model.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    for part in ("samples", "evaluations") if (folder / "evaluations").exists() else ("samples",):
        files = [sorted((run / part).iterdir()) for run in (folder, other)]
        assert any(path.name.endswith(".tokens.jsonl") for path in files[0])
        for one, two in zip(*files, strict=True):
            assert one.read_bytes() == two.read_bytes()
