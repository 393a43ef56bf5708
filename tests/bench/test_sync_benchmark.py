"""The benchmark of the weight sync runs through on a CPU and leaves its figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.sync.__main__ import main

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_smoke_suite_leaves_seconds_rates_and_ratios(tmp_path: Path) -> None:
    main(["--suite", "smoke", "--out", str(tmp_path), "--rounds", "2"])
    (file,) = tmp_path.iterdir()
    rows = json.loads(file.read_text())["rows"]
    figures = {(row["case"], row["provider"], row["metric"]): row["value"] for row in rows}
    for case in ("broadcast", "ipc"):
        assert figures[case, "fastsvs", "seconds"] > 0
        assert figures[case, "fastsvs", "speed against plain broadcast"] > 0
        assert (case, "plain broadcast of one buffer", "rate") in figures


def test_a_suite_without_its_gpus_measures_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="needs 2 GPU"):
        main(["--suite", "nccl", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())
