"""Progress of a job: a live display on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic, perf_counter
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from fastsvs import rank_log

LINE_SECONDS = 60.0
"""Time between two lines about the work within a step, where there is no terminal, in seconds."""


class StepProgress:
    """Display of a job's steps, their metrics, and what is under way within a step.

    On a terminal a bar with count, time and estimated end stays at the bottom, above a line about the phases that are
    under way; the lines of finished steps stay above. Elsewhere lines are all there is. It is silent when not `enabled`
    (all ranks but one). Threads may call it.
    """

    def __init__(self, title: str, total: int, done: int, enabled: bool, what: str = "step", lines: int = 0) -> None:
        """Count `what` up to `total`. About `lines` lines are shown, or one for every count when that is 0."""
        self._console = Console(quiet=not enabled)
        self._console.soft_wrap = not self._console.is_terminal  # a terminal breaks lines within words
        self._total = total
        self._what = what
        self._every = max(1, total // lines) if lines else 1
        self._bar = Progress(
            TextColumn(f"[bold]{title}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task(title, total=total, completed=done)
        self._phases: dict[str, str] = {}
        self._said = monotonic()
        terminal = enabled and self._console.is_terminal
        self._live = Live(get_renderable=self._display, console=self._console, transient=True) if terminal else None

    def __enter__(self) -> StepProgress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print one line that stays above the bar."""
        self._console.print(text, highlight=False, markup=False, emoji=False)
        if not self._console.quiet:
            rank_log.note(text)

    def advance(self, step: int, facts: str) -> None:
        """Show that `step` of the total are done."""
        self._bar.update(self._task, completed=step)
        if step % self._every == 0 or step == self._total:
            self.say(f"{self._what} {step}/{self._total}  {facts}")
            self._said = monotonic()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Show that this phase of a step is under way; several may be at a time."""
        self._phases[name] = ""
        try:
            yield
        finally:
            self._phases.pop(name, None)

    def within(self, name: str, facts: str) -> None:
        """Show how far the phase `name` has come."""
        self._phases[name] = facts
        if self._live is None and monotonic() - self._said > LINE_SECONDS:
            self._said = monotonic()
            self.say(f"{self._what} {int(self._bar.tasks[0].completed) + 1}/{self._total}: {self._under_way()}")

    def _display(self) -> Group:
        return Group(self._bar, Text(self._under_way(), style="dim", no_wrap=True, overflow="ellipsis"))

    def _under_way(self) -> str:
        return "; ".join(f"{name} {facts}".rstrip() for name, facts in list(self._phases.items()))


class Tally:
    """Count of what a phase has done. The phase is shown for as long as one is within the tally."""

    def __init__(self, progress: StepProgress, phase: str, what: str) -> None:
        self._progress = progress
        self._phase = phase
        self._what = what
        self._shown = progress.phase(phase)
        self._began = perf_counter()
        self._done = self._tokens = 0

    def __enter__(self) -> Tally:
        self._shown.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._shown.__exit__(*exception)

    def add(self, tokens: int, asked: int) -> None:
        """Count one more of `asked`, as far as is known now, which had so many tokens."""
        self._done, self._tokens = self._done + 1, self._tokens + tokens
        seconds = perf_counter() - self._began
        left = seconds / self._done * (asked - self._done)
        speed = self._tokens / max(seconds, 1e-9)
        facts = f"{self._done}/{asked} {self._what}, {speed:,.0f} tokens/s, about {left:,.0f} s left"
        self._progress.within(self._phase, facts)


def training_facts(row: Mapping[str, float]) -> str:
    """Return the line of one training step: reward, entropy, what was solved, and the responses learned from of each
    kind."""
    what = _solved(row) if "samples/original" in row else _solved_by_kind(row)
    reward = _show(row, "reward/original" if "reward/original" in row else "reward/mean", ".2f")
    return f"{_show(row, 'time/step', '.1f')} s  reward {reward}  entropy {_show(row, 'policy/entropy', '.3f')}  {what}"


def _solved(row: Mapping[str, float]) -> str:
    own = f", own {_show(row, 'solve_rate/variant', '.0%')}" if "solve_rate/variant" in row else ""
    kept = {name.partition("/")[2]: count for name, count in row.items() if name.startswith("kept_samples/")}
    learned = ", ".join(f"{count:d} {kind}" for kind, count in kept.items()) if any(kept.values()) else "nothing"
    return f"solved {_show(row, 'solve_rate/original', '.0%')}{own}  learned {learned}{_refilled(row)}{_budgeted(row)}"


def _refilled(row: Mapping[str, float]) -> str:
    if "refill/asked" not in row:
        return ""
    return f"  refilled {row['refill/informative']:d} with {row['refill/asked']:d}, gave up {row['refill/given_up']:d}"


def _budgeted(row: Mapping[str, float]) -> str:
    if "budget/stopped" not in row:
        return ""
    return f"  stopped {row['budget/stopped']:d} variants, took {row['budget/contexts']:d} further contexts"


def _solved_by_kind(row: Mapping[str, float]) -> str:
    kinds = [name.partition("/")[2] for name in row if name.startswith("kept_samples/")]
    right = [
        f"{_show(row, f'solve_rate/{kind}', '.0%')} of {_show(row, f'samples/{kind}', 'd')} {kind}" for kind in kinds
    ]
    return f"right {', '.join(right)}"


def _show(row: Mapping[str, float], name: str, form: str) -> str:
    return format(row[name], form) if name in row else "-"
