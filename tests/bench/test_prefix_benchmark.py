"""The benchmark of shared prompts runs, and both ways learn from the same tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import report
from bench.prefix.__main__ import main


def test_smoke_suite_leaves_a_report(tmp_path: Path) -> None:
    main(["--suite", "smoke", "--out", str(tmp_path)])
    (file,) = tmp_path.iterdir()
    found = {(row.provider, row.metric): row.value for row in report.read(file)}
    for name in ("update", "log-probs"):
        shared, unshared = (found[provider, f"{name}, throughput"] for provider in ("shared", "unshared"))
        assert found["shared over unshared", f"{name}, throughput"] == pytest.approx(shared / unshared)
    assert found["unshared", "tokens saved"] == 0
    assert found["shared", "tokens saved"] > 50
