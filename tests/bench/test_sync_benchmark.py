"""The benchmark of the weight sync runs through on a CPU and leaves its figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.sync.__main__ import main
from bench.sync.links import Fleet, rows
from bench.sync.rank import ONE_SENDER, SHARDS, SHARES

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


def test_rows_of_links_hold_each_way_beside_the_bound_of_the_links() -> None:
    """One server of four workers gets 1 GB over links of 0.1 GB a second: a quarter of it each, and of what changed
    what its smallest message takes."""
    metrics = ["seconds", "transfer_seconds", "pause_seconds", "bytes", "coding_seconds", "changed", "messages/whole"]
    found = {
        way: [{f"sync/{name}": number + 1.0 for name in metrics} for number in range(3)]
        for way in (SHARDS, ONE_SENDER, *SHARES)
    }
    figures = {(row.provider, row.metric): row for row in rows(Fleet(1), found, 10**9, 1e8, "a note")}
    assert all(row.value == 2.0 for (_, metric), row in figures.items() if metric == "seconds")
    bounds = {way: figures[way, "seconds"].limit for way in (SHARDS, ONE_SENDER, *SHARES)}
    expected = {SHARDS: 2.5, ONE_SENDER: 10.0, "1% changed": 0.05, "5% changed": 0.25, "30% changed": 0.3625 * 2.5}
    assert bounds == pytest.approx(expected, rel=1e-2)
    assert figures["5% changed", "share of the links' bound"].value == pytest.approx(0.125, rel=1e-2)
    assert figures["5% changed", "words found changed"].limit == 0.05
