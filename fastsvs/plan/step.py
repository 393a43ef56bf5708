"""Seconds of a training step by phase, under the names of the metrics file, and what the whole run takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from fastsvs.architecture import Architecture
from fastsvs.config import TrainJob
from fastsvs.plan.buffers import checkpoint_bytes, snapshot_bytes, stage_buffers
from fastsvs.plan.decoding import decoder_of, rollout_line
from fastsvs.plan.hardware import Hardware
from fastsvs.plan.job import MemoryPlan
from fastsvs.plan.layout import Cluster
from fastsvs.plan.ledger import Line, assumed, calibrated, total
from fastsvs.plan.memory import sync_bytes
from fastsvs.plan.sampled import Answers, Sampled
from fastsvs.plan.update import FORWARD, Machine, pass_lines, rows_of, update_lines

CLIENT_RESULTS = "bench/results/client-amd-epyc-2-cores-2026-11-27.json"
TRAINER_TOKEN_SECONDS, CLIENT_TOKEN_SECONDS = 0.076e-6, 0.6e-6
"""Processor time for each response token of the main rank and of a client process (CLIENT_RESULTS)."""
IPC_RESULTS = "bench/results/sync-ipc-nvidia-h200-2026-11-26.json"
IPC_RATE = 32.5e9
WAKE_SECONDS = 1.0
HELD_OUT = 500
JOINED = ("rollout", "update")


@dataclass(frozen=True, slots=True)
class TimePlan:
    """Seconds of a step; what happens every few steps counts with its share."""

    phases: Mapping[str, Sequence[Line]]
    """Lines of each phase, by its name in the metrics file without `time/`."""
    beside: Mapping[str, Line]
    """Work beside the step, which delays nothing while it is shorter."""
    overlapped: bool
    """True where rollouts run beside the update."""
    steps: int
    devices: int
    response_tokens: int

    def seconds(self, phase: str) -> float:
        return total(self.phases.get(phase, ()))

    @property
    def step(self) -> float:
        rest = sum(total(lines) for name, lines in self.phases.items() if name not in JOINED)
        joined = [self.seconds(name) for name in JOINED]
        return rest + (max(joined) if self.overlapped else sum(joined))

    @property
    def days(self) -> float:
        return self.steps * self.step / 86400

    @property
    def device_hours(self) -> float:
        return self.steps * self.step * self.devices / 3600

    @property
    def tokens_per_second(self) -> float:
        """Return the response tokens a second of each device."""
        return self.response_tokens / self.step / self.devices

    def largest(self, count: int = 3) -> list[tuple[str, Line]]:
        """Return the lines that take the longest, each with its phase."""
        found = [(phase, line) for phase, lines in self.phases.items() for line in lines]
        return sorted(found, key=lambda pair: -pair[1].amount)[:count]


def plan_time(
    architecture: Architecture,
    job: TrainJob,
    cluster: Cluster,
    hardware: Hardware,
    sampled: Sampled,
    memory: MemoryPlan,
) -> TimePlan:
    """Return the time of a step of the job whose memory is planned."""
    layout, machine = memory.layout, Machine(hardware, cluster.gpus)
    share = hardware.kind == "cpu" if job.policy.shared_prefix is None else job.policy.shared_prefix
    parts = updates_of(sampled, job.algorithm.samples_per_update)
    update: list[Line] = []
    for number, part in enumerate(parts):
        rows = rows_of(architecture, job.policy.tokens_per_micro_batch, layout.data, part, bool(share))
        update += update_lines(architecture, job.policy, layout, machine, rows)
        passes = (job.algorithm.old_logprobs == "trainer" and number > 0) + bool(job.algorithm.kl_coefficient)
        forward = total(pass_lines(architecture, layout, machine, rows, FORWARD))
        update.append(Line("log-prob passes", passes * forward, hardware.gemm.basis))
    phases = {
        "rollout": _rollout(architecture, job, cluster, hardware, sampled, memory),
        "update": merged(update),
        "sync": _sync(architecture, job, hardware, memory),
        "save": [_save(architecture, job, hardware, memory)],
        "diagnostics": _diagnostics(job, update),
    }
    write = checkpoint_bytes(architecture) / (hardware.disk.value * cluster.nodes)
    client = sampled.response_tokens * CLIENT_TOKEN_SECONDS / job.rollout.client_processes
    beside = {
        "checkpoint_write": Line("checkpoint to the disk", write, hardware.disk.basis),
        "client": Line("processor time of each client process", client, calibrated(CLIENT_RESULTS)),
    }
    waves = job.train.waves > 1 and not memory.beside
    return TimePlan(
        {name: [line for line in lines if line.amount] for name, lines in phases.items()},
        beside,
        overlapped=bool(job.train.staleness) or waves,
        steps=job.run.steps,
        devices=cluster.nodes * cluster.gpus,
        response_tokens=sampled.response_tokens,
    )


def updates_of(sampled: Sampled, samples_per_update: int) -> list[tuple[Answers, ...]]:
    """Return the groups of each optimizer step, whole and about equal in number."""
    learned = sampled.learned or list(sampled.groups[:1])
    samples = sum(len(group.responses) for group in learned)
    size = ceil(len(learned) / max(1, ceil(samples / samples_per_update)))
    return [tuple(learned[start : start + size]) for start in range(0, len(learned), size)]


def merged(lines: Sequence[Line]) -> list[Line]:
    """Return one line for each name, with the sum of its amounts."""
    found: dict[str, Line] = {}
    for line in lines:
        before = found[line.name].amount if line.name in found else 0.0
        found[line.name] = Line(line.name, before + line.amount, line.basis)
    return list(found.values())


def _rollout(
    architecture: Architecture,
    job: TrainJob,
    cluster: Cluster,
    hardware: Hardware,
    sampled: Sampled,
    memory: MemoryPlan,
) -> list[Line]:
    if memory.engine is None:
        return []  # what somebody else's servers or a plug-in do is not known
    ranks = memory.layout.ranks
    decoder = decoder_of(job, memory.engine, cluster.servers(job.rollout, hardware.kind), ranks, sampled.mean_context)
    return [rollout_line(architecture, job, hardware, memory.layout.width, decoder, sampled)]


def _sync(architecture: Architecture, job: TrainJob, hardware: Hardware, memory: MemoryPlan) -> list[Line]:
    nbytes = sync_bytes(architecture, job.policy)
    if job.rollout.engine == "local":
        return [Line("weights to the engine", nbytes / hardware.hbm.value, hardware.hbm.basis)]
    if not memory.beside or hardware.kind == "cpu":
        return [Line("weights to the servers", nbytes / hardware.nic.value, hardware.nic.basis)]
    stage = stage_buffers(architecture, memory.layout, 0)
    moved = {"none": 0, "optimizer": stage.state, "all": stage.state + stage.weights}[job.policy.offload]
    return [
        Line("weights to the servers", nbytes / IPC_RATE, calibrated(IPC_RESULTS)),
        Line("servers wake and sleep", WAKE_SECONDS, assumed("1 s")),
        Line("offload and return", 2 * moved / hardware.host.value, hardware.host.basis),
    ]


def _save(architecture: Architecture, job: TrainJob, hardware: Hardware, memory: MemoryPlan) -> Line:
    copied = max(snapshot_bytes(architecture, memory.layout, stage) for stage in range(memory.layout.pipeline))
    return Line("checkpoint to host memory", copied / hardware.host.value / job.run.save_every, hardware.host.basis)


def _diagnostics(job: TrainJob, update: Sequence[Line]) -> list[Line]:
    """Return the share of a step that diagnostics take: a pass over the batch, a third of an update or less."""
    if not job.dynamics.every:
        return []
    return [Line("a pass over the batch", total(update) / 3 / job.dynamics.every, assumed("a third of an update"))]
