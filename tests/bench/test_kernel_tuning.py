"""The launch configurations are tried one by one, and the table is as before."""

from copy import deepcopy

import pytest
import torch
import triton_interpreter

from bench.kernels import tune
from bench.kernels.tune import Trial, candidates, run, show

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_thread_has_whole_loads_and_room_for_them(dtype):
    found = list(candidates(dtype, 152_064))
    assert len(set(found)) == len(found) > 4
    assert all(config.block % (32 * config.warps * 16 // dtype.itemsize) == 0 for config in found)
    assert {tune.table.row_config(kernel, dtype, 152_064) for kernel in tune.table.ROW_CONFIGS} <= set(found)
    assert tune.name_of(tune.table.RowConfig(4096, 8), 16) == "4096x8/16"
    assert tune.name_of(tune.table.RowConfig(4096, 8, 8192), 16) == "4096x8 span 8192/16"


@pytest.mark.parametrize("kernel", tune.table.ROW_CONFIGS)
@pytest.mark.skipif(not triton_interpreter.LOADED, reason="the kernels run here under Triton's interpreter alone")
def test_every_configuration_is_timed_and_the_table_is_kept(kernel, monkeypatch, capsys):
    monkeypatch.setattr(tune, "BLOCKS", (1024, 4096))
    monkeypatch.setattr(tune, "WARPS", (4,))
    before = deepcopy(tune.table.ROW_CONFIGS), tune.table.PROGRAMS_PER_PROCESSOR
    trial = Trial(kernel, torch.float32, torch.bfloat16, rows=2, columns=5000)
    own, programs = tune.table.row_config(kernel, torch.float32, 5000), tune.table.PROGRAMS_PER_PROCESSOR
    found = run(trial, CPU, rounds=1)
    assert list(found)[:3] == [tune.name_of(own, programs), "1024x4/16", "1024x4 span 1024/16"]
    assert set(found) > {"4096x4 span 4096/16", tune.name_of(own, 1), tune.name_of(own, 64)}
    assert not any("span 8192" in name for name in found)  # longer than the row
    assert all(milliseconds > 0 for milliseconds in found.values())
    assert before == (tune.table.ROW_CONFIGS, tune.table.PROGRAMS_PER_PROCESSOR)
    rows = list(show(trial, found, floor=1e-3))
    assert [row.provider for row in rows if row.note] == [tune.name_of(own, programs)]
    assert min(row.value for row in rows) == rows[0].value


def test_bytes_are_those_read_and_written():
    assert Trial("row_statistics", torch.bfloat16, torch.bfloat16, 10, 100).nbytes == 2000
    assert Trial("logits_gradient", torch.float32, torch.bfloat16, 10, 100).nbytes == 6000


def test_without_a_gpu_it_says_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="sees none here"):
        tune.main(["--out", str(tmp_path)])
