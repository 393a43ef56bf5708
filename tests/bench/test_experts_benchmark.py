"""The benchmark of a layer of experts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.experts import __main__ as command
from bench.experts.layer import Layer, Shape, products

SHAPE = Shape("tiny", hidden=32, ffn=16, experts=4, active=2, tokens=24)


def test_both_ways_compute_the_same_layer() -> None:
    results = []
    for grouped in (True, False):
        torch.manual_seed(0)
        layer = Layer(SHAPE, "fp32", grouped=grouped)
        results.append([layer.forward().detach(), layer.both()[0]])
    for ours, theirs in zip(*results, strict=True):
        assert ours.abs().max() > 0
        torch.testing.assert_close(ours, theirs)


def test_products_have_the_flop_of_the_layer() -> None:
    for way, passes in zip(products(SHAPE, "fp32"), (1, 3), strict=True):
        with FlopCounterMode(display=False) as counter:
            way()
        assert counter.get_total_flops() == passes * SHAPE.flop


def test_smoke_suite_leaves_a_report(tmp_path: Path) -> None:
    command.main(["--suite", "smoke", "--out", str(tmp_path)])
    [file] = tmp_path.iterdir()
    rows = json.loads(file.read_text())["rows"]
    assert {row["provider"] for row in rows} == {"fastsvs", "fastsvs, one after another", command.SUM}
    times = {(row["provider"], row["metric"]): row["value"] for row in rows}
    [shape] = command.SUITES["smoke"].shapes
    for (provider, metric), milliseconds in times.items():
        if (rate := times.get((provider, f"{metric}, rate"))) is not None:
            passes = {"forward": 1, "forward and backward": 3}[metric]
            assert rate == pytest.approx(passes * shape.flop / milliseconds / 1e9)
