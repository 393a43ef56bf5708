"""What became of every row of a data set: nothing is left out without being counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Counts of a data set's rows, or the ids of those that are to be found: `rows` = `kept` + `left_out`."""

    path: str
    rows: int
    kept: int
    what: str = "problems"
    columns: tuple[str, ...] = ()
    """Columns that were read, one text per table."""
    notes: tuple[str, ...] = ()
    """Facts about what was read that are no counts of rows left out."""
    duplicates: int = 0
    """Number of rows whose question stood in an earlier row."""
    conflicting: int = 0
    """Number of `duplicates` that give another answer than the first row."""
    duplicates_kept: bool = False
    incomplete: Sequence[str] = ()
    """Rows of which a part is missing, `needed` says which."""
    needed: str = "a question or an answer"
    unmarked: Sequence[str] = ()
    """Rows whose worked solution ends in no mark, where it has to give the answer."""
    broken: Sequence[str] = ()
    """Rows with half a character (a lone surrogate), which no file and no tokenizer takes."""
    refused: Sequence[str] = ()
    """Why the chat template refuses rows, a text for each."""
    over_length: int = 0
    max_tokens: int | None = None
    over_limit: int = 0

    @property
    def left_out(self) -> int:
        """Return the number of rows that were left out."""
        named = sum(map(len, (self.incomplete, self.unmarked, self.broken, self.refused)))
        duplicates = 0 if self.duplicates_kept else self.duplicates
        return named + duplicates + self.over_length + self.over_limit

    def describe(self) -> list[str]:
        """Return one line per fact, for the console and the run's log."""
        lines = [f"{self.path}: {self.kept:,} {self.what} of {self.rows:,} rows"]
        lines += [f"  {columns}" for columns in self.columns]
        lines += [f"  {note}" for note in self.notes]
        if self.duplicates:
            fate = "kept" if self.duplicates_kept else "left out"
            other = f", {self.conflicting:,} of them with another answer" if self.conflicting else ""
            lines.append(f"  {self.duplicates:,} rows repeat an earlier question: {fate}{other}")
        if self.incomplete:
            lines.append(f"  {len(self.incomplete):,} rows without {self.needed}: left out ({_first(self.incomplete)})")
        if self.unmarked:
            lines.append(
                f"  {len(self.unmarked):,} rows whose solution ends in no \\boxed{{}} and no ####: left out "
                f"({_first(self.unmarked)}); data.answer_column takes the column that it names as it is"
            )
        if self.broken:
            lines.append(
                f"  {len(self.broken):,} rows with half a character (a lone surrogate): left out "
                f"({_first(self.broken)})"
            )
        if self.refused:
            first = f"first: {self.refused[0]}"
            lines.append(f"  {len(self.refused):,} refused by the chat template: left out ({first})")
        if self.over_length:
            lines.append(f"  {self.over_length:,} longer than {self.max_tokens:,} tokens: left out")
        if self.over_limit:
            lines.append(f"  {self.over_limit:,} after the limit: left out")
        return lines


def _first(names: Sequence[str]) -> str:
    return f"first: {', '.join(names[:3])}"
