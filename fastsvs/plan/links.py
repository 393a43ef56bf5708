"""Seconds of messages between devices: at the rates that `fastsvs doctor --nodes` has measured, else at those of the
hardware table."""

from __future__ import annotations

from dataclasses import dataclass

from fastsvs.plan.hardware import Hardware, Rate
from fastsvs.plan.layout import Layout
from fastsvs.plan.ledger import Line, calibrated
from fastsvs.speeds import Operation, Scope, Speeds, passing


@dataclass(frozen=True)
class Machine:
    """The devices that passes run on, and the links between them."""

    hardware: Hardware
    gpus: int
    """Number of devices of a node."""
    speeds: Speeds | None = None
    """Measured speeds of messages; None takes the assumed ones of the hardware table."""

    def link(self, operation: Operation, nbytes: float, span: int) -> Rate:
        """Return the rate of a link in messages of `nbytes` within groups of ranks that lie among `span` successive
        ones, in bytes/s."""
        inside = span <= self.gpus
        scope: Scope = "within a node" if inside else "between nodes"
        measured = self.speeds and self.speeds.rate(operation, scope, nbytes)
        if self.speeds and measured:
            return Rate(measured, calibrated(self.speeds.source))
        return self.hardware.nvlink if inside else self.hardware.nic

    def message(self, name: str, operation: Operation, nbytes: float, ranks: int, span: int, count: float = 1) -> Line:
        """Return the seconds of `count` messages of `nbytes` among `ranks` ranks."""
        rate = self.link(operation, nbytes, span)
        return Line(name, count * passing(operation, nbytes, ranks) / rate.value, rate.basis, between=True)

    def disk(self, nodes: int) -> Rate:
        """Return the rate at which `nodes` nodes write at the same time, in bytes/s."""
        measured = self.speeds and self.speeds.rate("write", "storage", 0)
        if self.speeds and measured:
            return Rate(measured, calibrated(self.speeds.source))
        return Rate(self.hardware.disk.value * nodes, self.hardware.disk.basis)


def data_span(layout: Layout) -> int:
    """Return among how many successive ranks a data parallel group lies. Megatron numbers ranks over tensor, context,
    data and pipeline parallelism, in this order."""
    return layout.tensor * layout.replicas if layout.replicas > 1 else 1


def stage_span(layout: Layout) -> int:
    """Return among how many successive ranks two neighbours of a pipeline lie."""
    return 2 * layout.tensor * layout.replicas if layout.pipeline > 1 else 1
