"""One copy of an array on each host, in real processes over gloo. What the ranks say of their hosts is made up."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "policy"))
from policy_ranks import run_ranks

from fastsvs import distributed, shared_arrays

ROWS = [np.arange(start, start + 6 * n, dtype=np.int16).reshape(n, 3, 2) for start, n in ((0, 4), (100, 1), (-50, 7))]


def where(array: np.ndarray) -> str:
    """Return the device and inode of the memory that an array lies in."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(bound, 16) for bound in line.split()[0].split("-"))
        if first <= address < last:
            return " ".join(line.split()[3:5])
    raise AssertionError("memory of no map")


def shared(ranks_per_host: int) -> Any:
    shared_arrays._host = lambda: (str(distributed.rank() // ranks_per_host), "")
    distributed.RELAYED_BYTES = 50
    before = len(os.listdir("/proc/self/fd"))
    found = shared_arrays.on_each_host(ROWS if distributed.is_main() else None)
    kept = len(os.listdir("/proc/self/fd")) - before
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    again = shared_arrays.on_each_host(ROWS[:1] if distributed.is_main() else None)
    return where(found), found.copy(), again.copy(), kept


@pytest.mark.parametrize("ranks_per_host", [1, 2, 4])
def test_each_host_has_one_copy(tmp_path: Path, ranks_per_host: int) -> None:
    found = run_ranks(shared, 4, tmp_path, ranks_per_host)
    for _, array, again, kept in found:
        assert array.dtype == np.int16
        assert (array == np.concatenate(ROWS)).all()
        assert (again == ROWS[0]).all()
        assert kept <= 1, "the map alone holds the memory"
    places = [place for place, *_ in found]
    assert [places.index(place) for place in places] == [rank - rank % ranks_per_host for rank in range(4)]


def test_a_world_of_one_has_its_copy() -> None:
    assert (shared_arrays.on_each_host(ROWS) == np.concatenate(ROWS)).all()
    with pytest.raises(ValueError, match="nothing to share"):
        shared_arrays.on_each_host([ROWS[0][:0]])
