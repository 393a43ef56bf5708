"""`fastsvs doctor --nodes`: two ranks as torchrun starts them, and what they would say of nodes that differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastsvs.commands import cluster
from fastsvs.speeds import read_speeds


def test_the_nodes_of_a_job_agree_and_are_timed(fastsvs, tmp_path: Path) -> None:
    out = tmp_path / "speeds.jsonl"
    ended = fastsvs("doctor", "--nodes", f"--run-dir={tmp_path}/runs", f"--out={out}", processes=2)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [line.split()[1].rstrip(",") for line in lines if line.startswith("ok")] == [
        *("job", "versions", "clocks", "storage", *cluster.OPERATIONS, "writing")
    ]
    assert "2 ranks on 1 node(s)" in ended.stdout
    speeds = read_speeds(out)
    sizes = cluster.MESSAGE_BYTES["cpu"]
    timed = [(row.operation, row.scope, row.ranks, row.bytes) for row in speeds.rows]
    assert timed[:-1] == [(name, "within a node", 2, size) for name in cluster.OPERATIONS for size in sizes]
    assert timed[-1][:3] == ("write", "storage", 1)
    assert all(row.rate > 0 for row in speeds.rows)
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


@pytest.mark.parametrize(
    ("ranks", "local", "scopes"),
    [
        (1, 1, {}),
        (2, 2, {"within a node": [[0, 1]]}),
        (2, 1, {"between nodes": [[0, 1]]}),
        (4, 2, {"within a node": [[0, 1], [2, 3]], "between nodes": [[0, 2], [1, 3]], "all ranks": [[0, 1, 2, 3]]}),
    ],
)
def test_groups_are_timed_as_a_job_has_them(ranks: int, local: int, scopes: dict) -> None:
    assert cluster.scopes(ranks, local) == scopes
