"""The benchmark of dynamic sampling runs, and counts what the runs count."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.refills.__main__ import main
from whole_runs import ROOT

from bench import report


def test_smoke_suite_leaves_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    main(["--suite", "smoke", "--out", str(tmp_path)])
    (file,) = tmp_path.iterdir()
    found = {(row.provider, row.metric): row for row in report.read(file)}
    asked = {provider: found[provider, "problems asked a step"].value for provider in ("refills 0", "refills 2")}
    assert asked["refills 0"] == 4
    assert 4 < asked["refills 2"] <= 12
    for provider in asked:
        learned = found[provider, "problems learned from a step"]
        assert 0 < learned.value <= learned.limit == 4
        ratio = found[provider, "problems asked for one learned from"].value
        assert ratio == pytest.approx(asked[provider] / learned.value)
