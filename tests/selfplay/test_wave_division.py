"""Waves: which families are learned from together, and when."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fastsvs.data import Problem
from fastsvs.selfplay import Group, Task, Waves

PROBLEM = Problem("1", "1 + 1", "2")


def tasks(families: int) -> list[Task]:
    return [Task(f"{number:06d}", "original", PROBLEM, (1,), 1) for number in range(families)]


def played(waves: Waves, roots: list[Task], children: list[int], choose) -> list[list[str]]:
    """Play every family to its end, in an order that `choose` gives, and return the keys of each wave in turn."""
    waves.asked(roots)
    waiting, taken = list(roots), [[group.task.key for group in wave] for wave in waves.take()]
    while waiting:
        task = waiting.pop(choose(len(waiting)))
        depth = task.key.count("/")
        more = [
            Task(task.child_key(sample), "variant", PROBLEM, (1,), 1, parent=task.key)
            for sample in range(children[int(task.key[:6])] if depth < 2 else 0)
        ]
        waves.asked(more)
        waves.done(Group(task, (), ()))
        waiting += more
        taken += [[group.task.key for group in wave] for wave in waves.take()]
    return taken


@given(st.data(), st.integers(1, 9), st.integers(1, 5), st.sampled_from(["random", "completed"]))
def test_every_group_is_in_one_wave_whole_families_together(data, families, count, order) -> None:
    roots = tasks(families)
    children = data.draw(st.lists(st.integers(0, 2), min_size=families, max_size=families))
    waves = Waves(roots, count, order, seed=data.draw(st.integers(0, 99)))
    taken = played(waves, roots, children, lambda waiting: data.draw(st.integers(0, waiting - 1)))
    assert waves.over
    assert len(taken) == count
    found = Counter(key for wave in taken for key in wave)
    expected = sum(1 + number + number**2 for number in children)
    assert len(found) == found.total() == expected
    assert all(wave == sorted(wave) for wave in taken)
    members = [{key[:6] for key in wave} for wave in taken]
    assert sum(map(len, members)) == families  # no family in two waves
    assert max(map(len, members)) - min(map(len, members)) <= 1


@given(st.data(), st.integers(1, 9), st.integers(1, 5))
def test_random_waves_do_not_depend_on_what_is_complete_first(data, families, count) -> None:
    roots, children = tasks(families), [1] * families
    one, other = (
        played(Waves(roots, count, "random", seed=3), roots, children, lambda n: data.draw(st.integers(0, n - 1)))
        for _ in range(2)
    )
    assert one == other


def test_another_seed_deals_families_to_other_waves() -> None:
    roots = tasks(40)
    dealt = {tuple(Waves(roots, 4, "random", seed).priority(task) for task in roots) for seed in range(5)}
    assert len(dealt) == 5


def test_descendants_are_served_with_their_wave() -> None:
    [root, *_] = roots = tasks(8)
    waves = Waves(roots, 4)
    child = Task(root.child_key(3), "synthesis", PROBLEM, (1,), 1, parent=root.key)
    assert waves.priority(child) == waves.priority(root)
    assert sorted(Counter(map(waves.priority, roots)).values()) == [2, 2, 2, 2]


def test_completed_waves_take_what_is_complete() -> None:
    roots = tasks(4)
    assert played(Waves(roots, 2, "completed"), roots, [0] * 4, lambda n: n - 1) == [
        ["000002", "000003"],
        ["000000", "000001"],
    ]


def test_a_step_without_tasks_is_an_empty_wave() -> None:
    assert [*Waves([]).take()] == [[]]
