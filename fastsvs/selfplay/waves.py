"""The waves of a step: the parts of its experience that are learned from one after the other.

The unit is the family: a problem, its variants and their solutions. A wave can be learned from when its families are
complete, whatever becomes of later ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from fastsvs.seeding import derive_seed
from fastsvs.selfplay.types import Group, Task

WaveOrder = Literal["random", "completed"]


class Waves:
    """Division of a step's families into waves of nearly equal size.

    With `random` the seed decides which wave a family is in, before anything is asked, and the engine serves earlier
    waves first: no wave depends on how long answers take. With `completed` families join the waves in the order in
    which they are complete, which favours short answers.
    """

    def __init__(
        self, roots: Sequence[Task], count: int = 1, order: WaveOrder = "random", seed: int = 0, first: int = 0
    ) -> None:
        """Divide the families of `roots` into `count` waves. The first is served with priority `first`, random ones
        after it with the numbers that follow."""
        self._first = first
        families = dict.fromkeys(root.family for root in roots)
        dealt = sorted(families, key=lambda family: (derive_seed(seed, "waves", family), family))
        bounds = [len(dealt) * wave // count for wave in range(count + 1)]
        self._sizes = [end - begin for begin, end in pairwise(bounds)]
        self._wave_of: dict[str, int] = {}
        if order == "random":
            for wave, (begin, end) in enumerate(pairwise(bounds)):
                self._wave_of |= dict.fromkeys(dealt[begin:end], wave)
        self._unfinished: Counter[str] = Counter()
        """Number of each family's tasks that are not done."""
        self._groups: defaultdict[str, list[Group]] = defaultdict(list)
        self._complete: list[list[str]] = [[] for _ in range(count)]
        """Complete families of each wave."""
        self._taken = 0

    @property
    def over(self) -> bool:
        """Return True when `take` has given every wave."""
        return self._taken == len(self._sizes)

    def priority(self, task: Task) -> int:
        """Return the priority of the task's wave; the engine serves lower numbers first."""
        return self._first + self._wave_of.get(task.family, 0)

    def asked(self, tasks: Sequence[Task]) -> None:
        self._unfinished.update(task.family for task in tasks)

    def done(self, group: Group) -> None:
        """Note that a group is verified, and that all tasks that follow from it were asked."""
        family = group.task.family
        self._groups[family].append(group)
        self._unfinished[family] -= 1
        if not self._unfinished[family]:
            self._complete[self._wave_of.get(family, self._first_with_room())].append(family)

    def take(self) -> Iterator[list[Group]]:
        """Yield the groups of the waves that are complete and whose predecessors are, each wave once, sorted by
        key."""
        while not self.over and len(self._complete[self._taken]) == self._sizes[self._taken]:
            families = self._complete[self._taken]
            self._taken += 1
            groups = [group for family in families for group in self._groups.pop(family)]
            yield sorted(groups, key=lambda group: group.task.key)

    def _first_with_room(self) -> int:
        filled = zip(self._complete, self._sizes, strict=True)
        return next((wave for wave, (families, size) in enumerate(filled) if len(families) < size), 0)
