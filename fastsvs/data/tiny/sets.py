"""The tiny task: procedural word problems with variational rewrites, for a policy of a million parameters.

A problem tells a computation (computation.py) in one of 24 stories (stories.py). Its computation, not its wording,
decides the split.

`tiny:train` and `tiny:heldout` are problems with right solutions; `tiny:sft` is dialogues, 70% solving and 30% writing
a variational problem: given a solution, another story with the same computation, in the form that SvS expects
(a ```text block). `tiny:skills` adds judging and mending: see skills.py; `tiny:azr_sft` is about programs that
compute the same: see programs.py.
Like the text that real base models read, the solutions in `tiny:sft` are not all right: a step in four slips, and what
follows builds on the slip. A model of this data knows more than it shows at temperature 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random

from fastsvs.data.records import Dialogue, Problem
from fastsvs.data.tiny.computation import Split, draw_computation
from fastsvs.data.tiny.programs import program_dialogues
from fastsvs.data.tiny.skills import SYNTHESIS_TEMPLATE, skill_dialogues
from fastsvs.data.tiny.stories import PEOPLE, STORIES
from fastsvs.data.tiny.wording import dialogue, write_problem, write_solution
from fastsvs.errors import UserError
from fastsvs.seeding import derive_seed

SCHEME = "tiny:"
_DEFAULT_SIZES = {"train": 4096, "heldout": 200, "sft": 40_000, "skills": 40_000, "azr_sft": 40_000}
_SYNTHESIS_SHARE = 0.3


def problems(path: str, limit: int | None) -> list[Problem]:
    """Return the first `limit` problems of `tiny:train` or `tiny:heldout`, all with different questions."""
    split: Split = "heldout" if _checked(path, ("train", "heldout")) == "heldout" else "train"
    return list(islice(_problems(split), limit or _DEFAULT_SIZES[split]))


def dialogues(path: str, limit: int | None) -> list[Dialogue]:
    """Return the first `limit` dialogues of `tiny:sft`, `tiny:skills` or `tiny:azr_sft`, or the first `limit` problems
    of `tiny:train` with their solutions."""
    split = _checked(path, ("sft", "skills", "azr_sft", "train"))
    if split == "train":
        return [dialogue(problem.question, problem.solution or "") for problem in problems(path, limit)]
    if split == "skills":
        return list(islice(skill_dialogues(), limit or _DEFAULT_SIZES["skills"]))
    if split == "azr_sft":
        return list(islice(program_dialogues(), limit or _DEFAULT_SIZES["azr_sft"]))
    return list(islice(_dialogues(), limit or _DEFAULT_SIZES["sft"]))


def _problems(split: Split) -> Iterator[Problem]:
    random = Random(derive_seed("tiny", split))
    seen: set[str] = set()
    while True:
        computation = draw_computation(random, split)
        story, name = random.choice(STORIES), random.choice(list(PEOPLE))
        question = write_problem(computation, story, name)
        if question not in seen:
            seen.add(question)
            yield Problem(
                id=f"{SCHEME}{split}/{len(seen) - 1}",
                question=question,
                answer=str(computation.answer),
                solution=write_solution(computation, story),
                source=f"{SCHEME}{split}",
                extra={"steps": len(computation.steps)},
            )


def _dialogues() -> Iterator[Dialogue]:
    random = Random(derive_seed("tiny", "sft"))
    while True:
        computation = draw_computation(random, "train")
        story, other = random.sample(STORIES, 2)
        name = random.choice(list(PEOPLE))
        if random.random() < _SYNTHESIS_SHARE:
            variant = write_problem(computation, other, name)
            solution = write_solution(computation, story)
            asked, written = SYNTHESIS_TEMPLATE.format(response=solution), f"```text\n{variant}\n```"
        else:
            asked, written = write_problem(computation, story, name), write_solution(computation, story, random)
        yield dialogue(asked, written)


def _checked(path: str, known: Sequence[str]) -> str:
    split = path.removeprefix(SCHEME)
    if split not in known:
        raise UserError(f"unknown tiny data {path!r} here: known are {', '.join(SCHEME + name for name in known)}")
    return split
