"""Seconds of a training step by phase, under the names of the metrics file, and what the whole run takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from fastsvs.architecture import Architecture
from fastsvs.config import TrainJob
from fastsvs.plan.buffers import checkpoint_bytes, snapshot_bytes
from fastsvs.plan.decoding import decoder_of, rollout_line
from fastsvs.plan.hardware import Hardware
from fastsvs.plan.held_out import evaluation_lines, evaluations
from fastsvs.plan.hosts import batch_line, client_line, planning_line, verification_line
from fastsvs.plan.job import MemoryPlan
from fastsvs.plan.layout import Cluster
from fastsvs.plan.ledger import Line, assumed, total
from fastsvs.plan.links import Machine
from fastsvs.plan.machine import replayed_bytes
from fastsvs.plan.publishing import publish_time
from fastsvs.plan.sampled import Answers, Sampled
from fastsvs.plan.update import FORWARD, pass_lines, rows_of, update_lines

JOINED = ("rollout", "update")
WITHOUT_POLICY = ("verified", "majority")
"""Rewards that ask the policy for nothing; all others take a pass over the batch, COVO's more."""
PASS_BASIS = assumed("a forward pass, counted as an update's")


@dataclass(frozen=True, slots=True)
class TimePlan:
    """Seconds of a step; what happens every few steps counts with its share."""

    phases: Mapping[str, Sequence[Line]]
    """Lines of each phase, by its name in the metrics file without `time/`."""
    beside: Mapping[str, Line]
    """Work beside the step, which delays nothing while it is shorter."""
    evaluation: Sequence[Line]
    """Lines of an evaluation, which comes between steps."""
    evaluations: int
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
    def run(self) -> float:
        """Return the seconds of the whole run, from its first evaluation to its last."""
        return self.steps * self.step + self.evaluations * total(self.evaluation)

    @property
    def days(self) -> float:
        return self.run / 86400

    @property
    def device_hours(self) -> float:
        return self.run * self.devices / 3600

    @property
    def tokens_per_second(self) -> float:
        """Return the response tokens a second of each device."""
        return self.response_tokens / self.step / self.devices

    @property
    def between(self) -> float:
        """Return the seconds of messages between devices in a step."""
        return total(line for lines in self.phases.values() for line in lines if line.between)

    def largest(self, count: int = 3) -> list[tuple[str, Line]]:
        """Return the lines that take the longest, each with its phase."""
        found = [(phase, line) for phase, lines in self.phases.items() for line in lines]
        return sorted(found, key=lambda pair: -pair[1].amount)[:count]


def plan_time(
    architecture: Architecture, job: TrainJob, cluster: Cluster, machine: Machine, sampled: Sampled, memory: MemoryPlan
) -> TimePlan:
    """Return the time of a step of the job whose memory is planned."""
    credit, update = _learning(architecture, job, machine, sampled, memory)
    publishing = publish_time(architecture, job, cluster, machine, memory)
    rollout, evaluation = _decoding(architecture, job, cluster, machine.hardware, sampled, memory, total(publishing))
    disk = machine.disk(cluster.nodes)
    write = Line("checkpoint to the disk", checkpoint_bytes(architecture) / disk.value, disk.basis)
    phases = {
        "rollout": rollout,
        "credit": [credit],
        "update": update,
        "sync": publishing,
        "diagnostics": _diagnostics(job, update),
    }
    plan = TimePlan(
        {name: [line for line in lines if line.amount] for name, lines in phases.items()},
        {"checkpoint_write": write, "client": client_line(job, sampled)},
        evaluation,
        evaluations(job),
        overlapped=bool(job.train.staleness) or (job.train.waves > 1 and not memory.beside),
        steps=job.run.steps,
        devices=cluster.nodes * cluster.gpus,
        response_tokens=sampled.response_tokens,
    )
    return replace(plan, phases={**plan.phases, "save": _save(architecture, job, machine, memory, plan)})


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
        found[line.name] = replace(line, amount=before + line.amount)
    return list(found.values())


def _learning(
    architecture: Architecture, job: TrainJob, machine: Machine, sampled: Sampled, memory: MemoryPlan
) -> tuple[Line, list[Line]]:
    """Return the pass that rewards or advantages need, and the lines of the optimizer steps with their passes."""
    layout, algorithm = memory.layout, job.algorithm
    share = layout.device == "cpu" if job.policy.shared_prefix is None else job.policy.shared_prefix
    asks = algorithm.reward not in WITHOUT_POLICY or algorithm.advantage == "verl"
    credit, update = 0.0, list[Line]()
    for number, part in enumerate(updates_of(sampled, algorithm.samples_per_update)):
        rows = rows_of(architecture, job.policy.tokens_per_micro_batch, layout.data, part, bool(share))
        forward = total(pass_lines(architecture, layout, machine, rows, FORWARD))
        old = algorithm.old_logprobs == "trainer" and number > 0 and not asks
        update += update_lines(architecture, job.policy, layout, machine, rows)
        update.append(Line("log-prob passes", (old + bool(algorithm.kl_coefficient)) * forward, PASS_BASIS))
        update.append(planning_line(sum(len(group.responses) for group in part)))
        credit += asks * forward
    return Line("a log-prob pass", credit, PASS_BASIS), merged(update)


def _decoding(
    architecture: Architecture,
    job: TrainJob,
    cluster: Cluster,
    hardware: Hardware,
    sampled: Sampled,
    memory: MemoryPlan,
    publishing: float,
) -> tuple[list[Line], list[Line]]:
    """Return the lines of rollouts and of an evaluation; none for what somebody else's servers or a plug-in do."""
    if memory.engine is None:
        return [], []
    servers = cluster.servers(job.rollout, hardware.kind)
    decoder = decoder_of(job, memory.engine, servers, memory.layout.ranks, sampled.mean_context)
    width = memory.layout.width
    rollout = rollout_line(architecture, job, hardware, width, decoder, sampled)
    verdicts = verification_line(job, sampled, rollout.amount)
    evaluation = (
        evaluation_lines(architecture, job, hardware, width, decoder, sampled, publishing)
        if job.evaluation.path is not None
        else []
    )
    batch = batch_line(sampled, memory.layout.ranks, replayed_bytes(architecture, job.policy))
    return [rollout, verdicts, batch], evaluation


def _save(
    architecture: Architecture, job: TrainJob, machine: Machine, memory: MemoryPlan, plan: TimePlan
) -> list[Line]:
    """Return the share of a checkpoint in a step: its copy, and the wait for the write of the one before, where the
    steps between are shorter."""
    host, every = machine.hardware.host, job.run.save_every
    copied = max(snapshot_bytes(architecture, memory.layout, stage) for stage in range(memory.layout.pipeline))
    write = plan.beside["checkpoint_write"]
    lines = [
        Line("checkpoint to host memory", copied / host.value / every, host.basis),
        Line("waiting for the write before", max(0.0, write.amount - every * plan.step) / every, write.basis),
    ]
    return [line for line in lines if line.amount]


def _diagnostics(job: TrainJob, update: Sequence[Line]) -> list[Line]:
    """Return the share of a step that diagnostics take: a pass over the batch, a third of an update or less."""
    if not job.dynamics.every:
        return []
    return [Line("a pass over the batch", total(update) / 3 / job.dynamics.every, assumed("a third of an update"))]
