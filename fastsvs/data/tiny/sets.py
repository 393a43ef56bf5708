"""The tiny task: procedural word problems with variational rewrites, for a policy of a million parameters.

A problem tells a computation (computation.py) in one of 24 stories (stories.py). Its computation, not its wording,
decides the split.

`tiny:train` and `tiny:heldout` are problems with right solutions, and so is `tiny:validation`, whose computations are
neither in training data nor in the 200 problems of `tiny:heldout`; `tiny:sft` is dialogues, 70% solving and 30% writing
a variational problem: given a solution, another story with the same computation, in the form that SvS expects
(a ```text block). `tiny:skills` adds judging and mending: see skills.py; `tiny:azr_sft` is about programs that
compute the same: see programs.py.
Like the text that real base models read, the solutions in `tiny:sft` are not all right: a step in four slips, and what
follows builds on the slip. A model of this data knows more than it shows at temperature 1. In `tiny:misled_sft` three
in ten of the facts are wrong nearly always instead, and 40% is writing: such a model has something to learn that
sampling alone rarely shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from random import Random

from fastsvs.data.records import Dialogue, Problem
from fastsvs.data.tiny.computation import Computation, Split, draw_computation
from fastsvs.data.tiny.programs import program_dialogues
from fastsvs.data.tiny.skills import SYNTHESIS_TEMPLATE, skill_dialogues
from fastsvs.data.tiny.slips import Slip, careless, misled
from fastsvs.data.tiny.stories import PEOPLE, STORIES
from fastsvs.data.tiny.wording import dialogue, write_problem, write_solution
from fastsvs.errors import UserError
from fastsvs.seeding import derive_seed

SCHEME = "tiny:"
_DEFAULT_SIZES = {"train": 4096, "heldout": 200, "validation": 100}
_DIALOGUES = 40_000


def problems(path: str, limit: int | None) -> list[Problem]:
    """Return the first `limit` problems of `tiny:train`, `tiny:validation` or `tiny:heldout`, all with different
    questions."""
    name = _checked(path, ("train", "validation", "heldout"))
    return [problem for problem, _ in islice(_told(name), limit or _DEFAULT_SIZES[name])]


def dialogues(path: str, limit: int | None) -> list[Dialogue]:
    """Return the first `limit` dialogues of a set in `_ENDLESS`, or the first `limit` problems of `tiny:train` with
    their solutions."""
    split = _checked(path, (*_ENDLESS, "train"))
    if split == "train":
        return [dialogue(problem.question, problem.solution or "") for problem in problems(path, limit)]
    return list(islice(_ENDLESS[split](), limit or _DIALOGUES))


def _told(name: str) -> Iterator[tuple[Problem, Computation]]:
    """Yield the problems of `tiny:<name>` without end, each with the computation that it tells."""
    random = Random(derive_seed("tiny", name))
    split: Split = "train" if name == "train" else "heldout"
    others = _heldout_computations() if name == "validation" else frozenset()
    seen: set[str] = set()
    while True:
        computation = draw_computation(random, split)
        story, person = random.choice(STORIES), random.choice(list(PEOPLE))
        question = write_problem(computation, story, person)
        if question not in seen and computation not in others:
            seen.add(question)
            problem = Problem(
                id=f"{SCHEME}{name}/{len(seen) - 1}",
                question=question,
                answer=str(computation.answer),
                solution=write_solution(computation, story),
                source=f"{SCHEME}{name}",
                extra={"steps": len(computation.steps)},
            )
            yield problem, computation


def _heldout_computations() -> frozenset[Computation]:
    return frozenset(computation for _, computation in islice(_told("heldout"), _DEFAULT_SIZES["heldout"]))


def _dialogues(slips: Callable[[Random], Slip], synthesis_share: float) -> Iterator[Dialogue]:
    """Yield dialogues without end, a share of which write problems, and whose solutions slip as `slips` has it."""
    random = Random(derive_seed("tiny", "sft"))
    slip = slips(random)
    while True:
        computation = draw_computation(random, "train")
        story, other = random.sample(STORIES, 2)
        name = random.choice(list(PEOPLE))
        if random.random() < synthesis_share:
            variant = write_problem(computation, other, name)
            solution = write_solution(computation, story)
            asked, written = SYNTHESIS_TEMPLATE.format(response=solution), f"```text\n{variant}\n```"
        else:
            asked, written = write_problem(computation, story, name), write_solution(computation, story, slip)
        yield dialogue(asked, written)


_ENDLESS: dict[str, Callable[[], Iterator[Dialogue]]] = {
    "sft": lambda: _dialogues(careless, 0.3),
    "misled_sft": lambda: _dialogues(misled, 0.4),
    "skills": skill_dialogues,
    "azr_sft": program_dialogues,
}
"""Sets of dialogues without end, by name."""


def _checked(path: str, known: Sequence[str]) -> str:
    split = path.removeprefix(SCHEME)
    if split not in known:
        raise UserError(f"unknown tiny data {path!r} here: known are {', '.join(SCHEME + name for name in known)}")
    return split
