"""The prompts of both roles in all three tasks: text files with places to fill in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastsvs.selfplay.azr.exercises import Exercise
from fastsvs.selfplay.templates import fill, read_template

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
"""Names that each file must have a place `{name}` for.

Any file may have `{banned}`; `reference` may also have `{input}` and `{output}`.
"""
KINDS = tuple(kind for kind in PLACES if "_" in kind)
"""Kinds of experience: role and task, as `propose_deduction`."""


def task_of(kind: str) -> tuple[str, str]:
    """Return the (role, task) of a kind."""
    role, _, task = kind.partition("_")
    return role, task


@dataclass(frozen=True)
class Templates:
    texts: Mapping[str, str]
    """Text of each template, by the names in PLACES."""
    banned: Sequence[str] = ()

    def tagged(self, kind: str) -> bool:
        """Return whether the prompt asks for the answer in tags. The answer then counts only there."""
        return "<answer>" in self.texts[kind]

    def propose(self, task: str, references: Sequence[Exercise]) -> str:
        """Return the prompt that asks for a deduction or an abduction exercise."""
        shown = [self._fill("reference", _values(reference)) for reference in references]
        return self._fill(f"propose_{task}", {"references": "\n".join(shown)})

    def propose_inputs(self, program: str, count: int) -> str:
        """Return the prompt that asks for an induction exercise: inputs and a message for the program."""
        return self._fill("propose_induction", {"program": program, "count": str(count)})

    def solve(self, task: str, exercise: Exercise) -> str:
        pairs = zip(exercise.inputs[: exercise.seen], exercise.outputs, strict=False)
        shown = [self._fill("pair", {"input": given, "output": output}) for given, output in pairs]
        values = _values(exercise) | {"pairs": "\n".join(shown), "message": exercise.message}
        return self._fill(f"solve_{task}", {place: values[place] for place in PLACES[f"solve_{task}"]})

    def _fill(self, name: str, values: Mapping[str, str]) -> str:
        return fill(self.texts[name], {**values, "banned": ", ".join(self.banned)})


def load_templates(name: str, banned: Sequence[str] = ()) -> Templates:
    """Load the built-in set of that name, or the files in the folder. Raises UserError when they cannot be used."""
    folder = None if name in BUILT_IN else Path(name)
    texts = {}
    for template, places in PLACES.items():
        own = str(folder / f"{template}.txt") if folder else None
        text = read_template(own, f"{name}/{template}.txt", places, "selfplay.azr.templates")
        texts[template] = text.removesuffix("\n")
    return Templates(texts, banned)


def _values(exercise: Exercise) -> dict[str, str]:
    return {"program": exercise.program, "input": exercise.inputs[0], "output": exercise.outputs[0]}
