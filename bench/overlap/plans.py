"""The orders of rollouts and updates that are compared."""

from __future__ import annotations

from dataclasses import dataclass

from fastsvs.selfplay import Task, Waves
from fastsvs.selfplay.collect import Schedule
from fastsvs.selfplay.waves import WaveOrder


@dataclass(frozen=True, slots=True)
class Plan:
    """An order of rollouts and updates, as the configuration names it."""

    name: str
    schedule: Schedule = "streaming"
    waves: int = 1
    order: WaveOrder = "random"
    staleness: int = 0

    def divide(self, tasks: list[Task], step: int) -> Waves:
        return Waves(tasks, self.waves, self.order, seed=step, first=step * self.waves)


PHASED = Plan("phased", schedule="phased")
PLANS = (
    PHASED,
    Plan("streaming"),
    Plan("12 waves, random", waves=12),
    Plan("12 waves, completed", waves=12, order="completed"),
    Plan("staleness 1", staleness=1),
    Plan("staleness 2", staleness=2),
)
