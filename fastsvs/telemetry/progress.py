"""Progress of a job: a live bar on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class StepProgress:
    """Display of a job's steps and their metrics. It is silent when not `enabled` (all ranks but one)."""

    def __init__(self, title: str, total: int, done: int, enabled: bool, what: str = "step", lines: int = 0) -> None:
        """Count `what` up to `total`. Where there is no terminal, about `lines` lines are shown, or one for every count
        when that is 0."""
        self._console = Console(quiet=not enabled, soft_wrap=True)
        self._live = enabled and self._console.is_terminal
        self._total = total
        self._what = what
        self._every = max(1, total // lines) if lines else 1
        self._bar = Progress(
            TextColumn(f"[bold]{title}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, facts="")

    def __enter__(self) -> StepProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print one line that stays above the bar."""
        self._bar.console.print(text, highlight=False, markup=False, emoji=False)

    def advance(self, step: int, facts: str) -> None:
        """Show that `step` of the total are done."""
        self._bar.update(self._task, completed=step, facts=facts)
        if not self._live and (step % self._every == 0 or step == self._total):
            self.say(f"{self._what} {step}/{self._total}  {facts}")


def training_facts(row: Mapping[str, float]) -> str:
    """Return the line of one training step: reward, entropy, what was solved, and the responses learned from of each
    kind."""
    what = _solved(row) if "samples/original" in row else _solved_by_kind(row)
    reward = _show(row, "reward/original" if "reward/original" in row else "reward/mean", ".2f")
    return f"reward {reward}  entropy {_show(row, 'policy/entropy', '.3f')}  {what}  {_show(row, 'time/step', '.1f')} s"


def _solved(row: Mapping[str, float]) -> str:
    return (
        f"solved {_show(row, 'solve_rate/original', '.0%')}, of its own {_show(row, 'solve_rate/variant', '.0%')}  "
        f"learned from {_show(row, 'kept_samples/original', 'd')} original, "
        f"{_show(row, 'kept_samples/synthesis', 'd')} synthesis, {_show(row, 'kept_samples/variant', 'd')} variant"
    )


def _solved_by_kind(row: Mapping[str, float]) -> str:
    kinds = [name.partition("/")[2] for name in row if name.startswith("kept_samples/")]
    right = [
        f"{_show(row, f'solve_rate/{kind}', '.0%')} of {_show(row, f'samples/{kind}', 'd')} {kind}" for kind in kinds
    ]
    return f"right {', '.join(right)}"


def _show(row: Mapping[str, float], name: str, form: str) -> str:
    return format(row[name], form) if name in row else "-"
