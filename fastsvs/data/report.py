"""What became of every row of a data set: nothing is left out without being counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Counts of a data set's rows: `rows` = `kept` + `left_out`."""

    path: str
    rows: int
    kept: int
    what: str = "problems"
    columns: tuple[str, ...] = ()
    """Columns that were read, one text per table."""
    duplicates: int = 0
    """Number of rows whose question stood in an earlier row."""
    conflicting: int = 0
    """Number of `duplicates` that give another answer than the first row."""
    duplicates_kept: bool = False
    incomplete: int = 0
    """Number of rows without a question or an answer."""
    first_incomplete: tuple[str, ...] = ()
    over_length: int = 0
    max_tokens: int | None = None
    over_limit: int = 0

    @property
    def left_out(self) -> int:
        duplicates = 0 if self.duplicates_kept else self.duplicates
        return duplicates + self.incomplete + self.over_length + self.over_limit

    def describe(self) -> list[str]:
        """Return one line per fact, for the console and the run's log."""
        lines = [f"{self.path}: {self.kept:,} {self.what} of {self.rows:,} rows"]
        lines += [f"  {columns}" for columns in self.columns]
        if self.duplicates:
            fate = "kept" if self.duplicates_kept else "left out"
            other = f", {self.conflicting:,} of them with another answer" if self.conflicting else ""
            lines.append(f"  {self.duplicates:,} rows repeat an earlier question: {fate}{other}")
        if self.incomplete:
            examples = ", ".join(self.first_incomplete)
            lines.append(f"  {self.incomplete:,} rows without a question or an answer: left out (first: {examples})")
        if self.over_length:
            lines.append(f"  {self.over_length:,} longer than {self.max_tokens:,} tokens: left out")
        if self.over_limit:
            lines.append(f"  {self.over_limit:,} after the limit: left out")
        return lines
