"""The benchmark of checkpoints runs through on a CPU and leaves its figures."""

from __future__ import annotations

import json
from pathlib import Path

from bench.checkpoint.__main__ import main


def test_smoke_suite_leaves_what_a_save_costs(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    main(["--suite", "smoke", "--out", str(tmp_path / "out"), "--rounds", "1", "--folder", str(tmp_path / "disk")])
    (file,) = (tmp_path / "out").iterdir()
    rows = json.loads(file.read_text())["rows"]
    waits = [row["value"] for row in rows if row["metric"] == "seconds in which the updates wait"]
    assert len(waits) == 2
    assert min(waits) > 0
    assert {"load, hashed on the way", "plain write and fsync"} < {row["provider"] for row in rows}
    assert list((tmp_path / "disk").iterdir()) == []
