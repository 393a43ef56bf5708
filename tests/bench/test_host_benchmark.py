"""The benchmark of the host's work: it runs, and what it measures against is the same work."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import torch

from bench import report
from bench.host.__main__ import main
from bench.host.before import compare_whole, plan_by_one_row_more
from bench.host.packing import Packing
from fastsvs.dynamics.updates import TOLERANCE, change_of
from fastsvs.policy import packing


def test_smoke_suite_leaves_a_report(tmp_path: Path) -> None:
    main(["--suite", "smoke", "--out", str(tmp_path)])
    (file,) = tmp_path.iterdir()
    rows = report.read(file)
    assert {row.case.partition(",")[0] for row in rows} == {"packing", "compare weights", "read first weights"}
    for row in rows:
        assert row.value > 0 or row.unit == "%"
        if row.limit is not None:
            assert row.value >= row.limit


def test_both_ways_of_planning_come_to_the_same_rows() -> None:
    responses, kinds = Packing(median=300, samples=500).draw()
    before = plan_by_one_row_more(responses, kinds, 12288, 2)
    now = packing.plan(responses, kinds, [1.0] * 500, 12288, 2)
    assert sorted(map(sorted, chain(*before))) == sorted(chain(*now))


def test_both_ways_of_comparing_count_the_same() -> None:
    old = torch.randn(1000)
    new = old + 1e-5 * torch.randn(1000)
    change = change_of(old, new)
    counts = compare_whole(old, new, TOLERANCE)
    assert counts[:3] == [change.same, change.same_in_bf16, change.within]
