"""The prompts of both roles in all three tasks: text files with places that are filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fastsvs.errors import UserError
from fastsvs.selfplay.azr.exercises import Exercise

BUILT_IN = ("azr", "tiny")
TASKS = ("deduction", "abduction", "induction")
PLACES: Mapping[str, tuple[str, ...]] = {
    "propose_deduction": ("references",),
    "propose_abduction": ("references",),
    "propose_induction": ("program", "count"),
    "solve_deduction": ("program", "input"),
    "solve_abduction": ("program", "output"),
    "solve_induction": ("pairs", "message"),
    "reference": ("program",),
    "pair": ("input", "output"),
}
"""What each file must have a place `{name}` for. Any may have `{banned}`, `reference` also `{input}` and `{output}`."""
KINDS = tuple(kind for kind in PLACES if "_" in kind)
"""Kinds of experience: role and task."""


def task_of(kind: str) -> tuple[str, str]:
    """(role, task) of a kind."""
    role, _, task = kind.partition("_")
    return role, task


@dataclass(frozen=True)
class Templates:
    texts: Mapping[str, str]
    """By the names in PLACES."""
    banned: Sequence[str] = ()

    def tagged(self, kind: str) -> bool:
        """Whether the prompt asks for the answer in tags, which then counts only there."""
        return "<answer>" in self.texts[kind]

    def propose(self, task: str, references: Sequence[Exercise]) -> str:
        """Deduction and abduction."""
        shown = [self._fill("reference", _values(reference)) for reference in references]
        return self._fill(f"propose_{task}", {"references": "\n".join(shown)})

    def propose_inputs(self, program: str, count: int) -> str:
        """Induction."""
        return self._fill("propose_induction", {"program": program, "count": str(count)})

    def solve(self, task: str, exercise: Exercise) -> str:
        pairs = zip(exercise.inputs[: exercise.seen], exercise.outputs, strict=False)
        shown = [self._fill("pair", {"input": given, "output": output}) for given, output in pairs]
        values = _values(exercise) | {"pairs": "\n".join(shown), "message": exercise.message}
        return self._fill(f"solve_{task}", {place: values[place] for place in PLACES[f"solve_{task}"]})

    def _fill(self, name: str, values: Mapping[str, str]) -> str:
        """What the values say of places stays as they say it."""
        values = {**values, "banned": ", ".join(self.banned)}
        places = "|".join(map(re.escape, values))
        return re.sub(rf"\{{({places})\}}", lambda match: values[match[1]], self.texts[name])


def load_templates(name: str, banned: Sequence[str] = ()) -> Templates:
    """The built-in set of that name, or the files in the folder. Raises UserError when they cannot be used."""
    folder = files("fastsvs.selfplay").joinpath(f"prompts/{name}") if name in BUILT_IN else Path(name)
    texts = {}
    for template, places in PLACES.items():
        where = folder.joinpath(f"{template}.txt")
        try:
            text = where.read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            known = ", ".join(BUILT_IN)
            raise UserError(f"selfplay.azr.templates: neither {known} nor a folder with {where}: {error}") from error
        missing = [f"{{{place}}}" for place in places if f"{{{place}}}" not in text]
        if missing:
            raise UserError(f"selfplay.azr.templates: {where} must contain {' and '.join(missing)}")
        texts[template] = text
    return Templates(texts, banned)


def _values(exercise: Exercise) -> dict[str, str]:
    return {"program": exercise.program, "input": exercise.inputs[0], "output": exercise.outputs[0]}
