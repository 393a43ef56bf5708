"""`fastsvs doctor --nodes`: two ranks as torchrun starts them, and what they would say of nodes that differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastsvs.commands import cluster
from fastsvs.files import read_jsonl


def test_the_nodes_of_a_job_agree_and_are_timed(fastsvs, tmp_path: Path) -> None:
    out = tmp_path / "speeds.jsonl"
    ended = fastsvs("doctor", "--nodes", f"--run-dir={tmp_path}/runs", f"--out={out}", processes=2)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [line.split()[1].rstrip(",") for line in lines if line.startswith("ok")] == [
        *("job", "versions", "clocks", "storage", "all-reduce", "broadcast", "writing")
    ]
    assert "2 ranks on 1 node(s)" in ended.stdout
    rows = read_jsonl(out)
    assert [row["ranks"] for row in rows] == [2, 2, 1]
    assert all(row["gigabytes_per_second"] > 0 for row in rows)
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch):
    """A second rank, whose part in every gather is given."""

    def joins(answer) -> None:
        monkeypatch.setattr(cluster.distributed, "gather", lambda mine: [mine, answer(mine)])

    return joins


def test_other_versions_are_named(other) -> None:
    other(lambda mine: ("far", {**mine[1], "torch": "1.0", "vllm": "9.9"}))
    finding = cluster.versions()
    assert finding.state == "lacks"
    assert "far has torch 1.0; far has vllm 9.9" in finding.found


def test_clocks_that_differ_are_found(other) -> None:
    other(lambda mine: mine and mine + 7)
    finding = cluster.clocks()
    assert (finding.state, finding.found) == ("lacks", "within 7.000 s")
    assert "chrony" in finding.cure


def test_storage_of_one_node_alone_is_found(other, tmp_path: Path) -> None:
    other(lambda mine: mine and ("far", False))
    finding = cluster.visible(tmp_path)
    assert finding.state == "lacks"
    assert finding.found == f"far do(es) not see {tmp_path}"
    assert list(tmp_path.iterdir()) == []


def test_bus_bandwidth_counts_as_nccl_tests_do() -> None:
    assert cluster.bus(10**9, 8, 1.0) == pytest.approx(1.75)
