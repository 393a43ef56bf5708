"""Needs and duration of a job, from its configuration, the model's config.json and a description of the
machines: pure functions over dataclasses, whose amounts say what they rest on."""

from fastsvs.plan.activations import Row, activations, largest_row
from fastsvs.plan.buffers import checkpoint_bytes, snapshot_bytes, stage_buffers, total_parameters
from fastsvs.plan.hardware import Hardware, known_hardware, name_of_device, read_hardware
from fastsvs.plan.hosts import CHECK_SECONDS
from fastsvs.plan.layout import Cluster, DeviceKind, Layout, layout_of
from fastsvs.plan.ledger import EXACT, GIB, Basis, Line, assumed, calibrated, certain, total
from fastsvs.plan.links import Machine
from fastsvs.plan.memory import DeviceMemory, device_memory, publish_lines, sync_bytes
from fastsvs.plan.refuse import Finding, Present, check_fits, memory_findings, refuse, time_findings
from fastsvs.plan.runs import against, figures, record, step_of_run
from fastsvs.plan.sampled import Answers, Sampled, assumed_step, drawn_step
from fastsvs.plan.show import as_json, show, table
from fastsvs.plan.simulation import Curve, Outcome, SimulatedEngine, simulate, together
from fastsvs.plan.update import RowWork, rows_of, update_lines
from fastsvs.plan.whole import JobPlan, Machines, changed, every_layout, neighbours, plan_job, proposals
from fastsvs.plan.workload import P99, SCHEDULES, Lengths, Workload

__all__ = [
    "CHECK_SECONDS",
    "EXACT",
    "GIB",
    "P99",
    "SCHEDULES",
    "Answers",
    "Basis",
    "Cluster",
    "Curve",
    "DeviceKind",
    "DeviceMemory",
    "Finding",
    "Hardware",
    "JobPlan",
    "Layout",
    "Lengths",
    "Line",
    "Machine",
    "Machines",
    "Outcome",
    "Present",
    "Row",
    "RowWork",
    "Sampled",
    "SimulatedEngine",
    "Workload",
    "activations",
    "against",
    "as_json",
    "assumed",
    "assumed_step",
    "calibrated",
    "certain",
    "changed",
    "check_fits",
    "checkpoint_bytes",
    "device_memory",
    "drawn_step",
    "every_layout",
    "figures",
    "known_hardware",
    "largest_row",
    "layout_of",
    "memory_findings",
    "name_of_device",
    "neighbours",
    "plan_job",
    "proposals",
    "publish_lines",
    "read_hardware",
    "record",
    "refuse",
    "rows_of",
    "show",
    "simulate",
    "snapshot_bytes",
    "stage_buffers",
    "step_of_run",
    "sync_bytes",
    "table",
    "time_findings",
    "together",
    "total",
    "total_parameters",
    "update_lines",
]
