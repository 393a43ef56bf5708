"""`fastsvs doctor`: a line for everything that a run may need, and a cure for everything that is lacking."""

import re
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from whole_runs import SFT

from fastsvs.cli import main
from fastsvs.commands import doctor

NAMES = [
    *(
        "Python",
        "bytecode",
        "open files",
        "/dev/shm",
        "disk",
        "memory",
        "network for gloo",
        "network for NCCL",
        "hub",
        "torch",
    ),
    *("CUDA", "Triton", "NCCL", "vLLM", "flash attention", "Transformer Engine", "sandbox"),
]


def test_every_topic_has_a_line() -> None:
    found = list(doctor.findings())
    assert [finding.name for finding in found] == NAMES
    assert all(finding.cure for finding in found if finding.state == "lacks")


def test_what_is_lacking_ends_in_a_message(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = doctor.Finding("disk", "lacks", "0 GiB free", "a larger one")
    monkeypatch.setattr(doctor, "findings", lambda: iter([doctor.Finding("Python", "good", "3.12.1"), lacking]))
    assert main(["doctor"]) == 2
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "ok    Python              3.12.1",
        "LACKS disk                0 GiB free",
        "                          cure: a larger one",
    ]
    assert "this machine lacks 1 thing(s), each with its cure above: disk" in printed.err


@pytest.mark.parametrize(
    ("limits", "cure"),
    [
        ((1024, 524288), "ulimit -n 65536"),
        ((1024, 2048), "ulimit -n 2048, after raising the hard limit (nofile in /etc/security/limits.conf)"),
        ((1024, resource.RLIM_INFINITY), "ulimit -n 65536"),
        ((4096, 4096), ""),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), ""),
    ],
)
def test_open_files(limits: tuple[int, int], cure: str) -> None:
    assert doctor.open_files(*limits).cure == cure


@pytest.mark.parametrize(("unwritten", "state"), [(False, "good"), (True, "without")])
def test_bytecode_that_is_not_kept_has_a_cure(unwritten: bool, state: str) -> None:
    finding = doctor.bytecode(unwritten)
    assert (finding.state, bool(finding.cure)) == (state, unwritten)


def test_small_disks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=64 << 20))
    assert "--shm-size=16g" in doctor.shared_memory(tmp_path).cure
    assert "run.dir" in doctor.disk(tmp_path).cure
    assert doctor.shared_memory(tmp_path / "none").state == "without"


@pytest.mark.parametrize(
    ("environment", "names", "states", "said"),
    [
        ({}, ["lo", "eth0", "ib0"], ["good", "good"], "what leads to the main node, of eth0, ib0"),
        ({}, ["lo"], ["good", "good"], "of loopback alone"),
        ({"GLOO_SOCKET_IFNAME": "eth1"}, ["lo", "eth0"], ["lacks", "good"], "there is no eth1"),
        ({"NCCL_SOCKET_IFNAME": "eth,ib"}, ["lo", "eth0", "ib0"], ["good", "good"], "NCCL_SOCKET_IFNAME=eth,ib"),
        ({"NCCL_SOCKET_IFNAME": "=ib1"}, ["lo", "eth0"], ["good", "lacks"], "there is no ib1"),
        ({"NCCL_SOCKET_IFNAME": "^docker"}, ["lo", "eth0"], ["good", "good"], "NCCL_SOCKET_IFNAME=^docker"),
    ],
)
def test_interfaces(environment: dict[str, str], names: list[str], states: list[str], said: str) -> None:
    found = list(doctor.interfaces(environment, names))
    assert [finding.state for finding in found] == states
    assert said in "\n".join(map(str, found))


def test_a_hub_that_cannot_be_reached_has_a_cure() -> None:
    found = doctor.hub({"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert (found.state, "HF_HUB_OFFLINE=1" in found.cure) == ("without", True)
    assert "offline mode" in doctor.hub({"HF_HUB_OFFLINE": "1"}).found


@pytest.mark.parametrize(
    ("driver", "runtime", "state", "said"),
    [
        (None, None, "without", "runs take the CPU"),
        ("580.65", None, "lacks", "is built for CPUs"),
        ("470.10", "13.0", "lacks", "install a driver for CUDA 13.0"),
    ],
)
def test_a_driver_and_a_torch_that_do_not_meet(driver: str | None, runtime: str | None, state: str, said: str) -> None:
    found = doctor.cuda(driver, runtime, "2.13.0", [])
    assert found.state == state
    assert said in str(found)


@pytest.mark.parametrize(
    ("found", "needed", "line"),
    [
        ("3.9.0", True, "ok    Triton              3.9.0"),
        (None, True, "LACKS Triton              absent: kernels are plain torch\n"),
        (None, False, "-     Triton              absent: kernels are plain torch"),
    ],
)
def test_libraries_for_gpus_have_a_cure_where_there_is_one(found: str | None, needed: bool, line: str) -> None:
    finding = doctor.gpu_library("Triton", found, "kernels are plain torch", "install it", needed=needed)
    assert str(finding) == line + (f"{'':26}cure: install it" if line.endswith("\n") else "")


@pytest.fixture(scope="module")
def run(fastsvs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert fastsvs(*SFT, f"run.dir={folder}").returncode == 0
    return folder


def damaged_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def gone(file: Path) -> None:
    file.unlink()


def other_model(file: Path) -> None:
    manifest = file.with_name("manifest.json")
    manifest.write_text(manifest.read_text().replace('"layers"', '"storeys"'))


@pytest.mark.parametrize("harm", [None, damaged_byte, cut_off, gone, other_model])
def test_checkpoints_are_verified_without_a_model(run: Path, tmp_path: Path, harm, capsys) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    if harm:
        harm(folder / "checkpoints" / "step_00000002" / "rank_00000.safetensors")
    assert main(["doctor", str(folder)]) == (2 if harm else 0)
    printed = capsys.readouterr()
    first, second, *_ = printed.out.splitlines()
    assert first.startswith("ok    step_00000001       ")
    if harm:
        assert second.startswith("LACKS step_00000002 ")
        assert f"is damaged; move it away to go on from {folder}/checkpoints/step_00000001: " in second
        said = f"{folder}: 1 checkpoint(s) damaged, each with a way out above: step_00000002"
        assert printed.err == f"fastsvs: error: {said}\n"
    else:
        assert re.fullmatch(r"ok    step_00000002       \d+\.\d MiB, as they were written", second)


def test_a_checkpoint_and_those_of_rounds_are_verified_too(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["doctor", str(run / "checkpoints" / "step_00000002")]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("ok    step_00000002 ")
    shutil.copy(run / "config.yaml", tmp_path)
    shutil.copytree(run, tmp_path / "round_1" / "sft")
    shutil.copytree(run, tmp_path / "round_2" / "sft")
    damaged_byte(tmp_path / "round_2" / "sft" / "checkpoints" / "step_00000001" / "rank_00000.safetensors")
    assert main(["doctor", str(tmp_path)]) == 2
    states = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert states == [
        ["ok", "round_1", "step_00000001"],
        ["ok", "round_1", "step_00000002"],
        ["LACKS", "round_2", "step_00000001"],
        ["ok", "round_2", "step_00000002"],
    ]


def test_a_run_without_checkpoints_and_what_is_no_run(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["doctor", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err
    shutil.copy(run / "config.yaml", tmp_path)
    assert main(["doctor", str(tmp_path)]) == 0
    assert "has none yet" in capsys.readouterr().out
    assert main(["doctor", "--out", "speeds.jsonl"]) == 2
    assert "--run-dir and --out belong to --nodes" in capsys.readouterr().err
    assert main(["doctor", str(run), "--nodes"]) == 2
