"""Dynamic sampling: which problems are asked in whose place, and what is learned from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selfplay_world import SAMPLING, BoxVerifier, PolicyEngine, decode, encode, problem

from fastsvs.config import SamplerConfig, SelfPlayConfig
from fastsvs.selfplay import (
    ORIGINAL,
    SAMPLERS,
    STAGES,
    SYNTHESIS,
    VARIANT,
    Draw,
    Experience,
    Refilling,
    SamplerTools,
    ShuffledEpochs,
    Stage,
    StageTools,
    Task,
    Waves,
    collect,
    gives_spares,
    original_tasks,
    play,
    substitutes_of,
)


def originals(*numbers: int, samples: int = 8) -> list[Task]:
    return original_tasks([(problem(n), encode(f"SOLVE {problem(n).question}")) for n in numbers], samples)


ROOTS = originals(*range(5))
SPARES = originals(*range(5, 18))


def stage_of(name: str) -> Stage:
    tools = StageTools(lambda p: encode(f"SOLVE {p.question}"), lambda text: encode("REWRITE" + text[-600:]), 1000, 200)
    return STAGES.get(name)(SelfPlayConfig(), tools)


def often_certain(prompt: str, random: Random) -> str:
    """Solves every third problem always, every third never, and the others half of the time; writes problems."""
    if prompt.startswith("REWRITE"):
        return f"```text\nWhat is {random.randrange(30)} + {random.randrange(30)}?\n```"
    number = int(prompt.split()[3])
    right = {0: True, 1: False, 2: random.random() < 0.5}[number % 3]
    return rf"\boxed{{{2 * number if right else -1}}}"


def run(stage: str, spares=SPARES, policy=often_certain, order=lambda waiting: 0, **options) -> Experience:
    made = Refilling(stage_of(stage), substitutes_of(ROOTS, spares))
    return collect(made, ROOTS, PolicyEngine(policy, order), BoxVerifier(), decode, SAMPLING, seed=3, **options)


def played(experience: Experience) -> list:
    return sorted([*experience.groups, *experience.discarded], key=lambda group: group.task.key)


@pytest.mark.parametrize("stage", ["none", "svs"])
def test_a_problem_that_teaches_nothing_makes_room_for_the_next(stage: str) -> None:
    """Of the problems 0 to 4 only the third teaches; their substitutes are dealt in turn, 5 to 9 and 10 to 14."""
    experience = run(stage)
    asked = {g.task.key: int(g.task.problem.id[1:]) for g in played(experience) if g.task.kind == ORIGINAL}
    assert asked == {
        **{"000000": 0, "000000/+001": 5},
        **{"000001": 1, "000001/+001": 6, "000001/+002": 11},
        **{"000002": 2},
        **{"000003": 3, "000003/+001": 8},
        **{"000004": 4, "000004/+001": 9, "000004/+002": 14},
    }
    learned = [group.task.key for group in experience.groups if group.task.kind == ORIGINAL]
    assert learned == ["000000/+001", "000001/+002", "000002", "000003/+001", "000004/+002"]
    counters = {name: value for name, value in experience.counters.items() if name.startswith("refill/")}
    assert counters == {"refill/asked": 6, "refill/informative": 4, "refill/given_up": 0}
    assert experience.counters["kept_groups/original"] == 5


def test_a_substitute_is_a_context_like_any_other() -> None:
    kinds = {group.task.key: group.task.kind for group in played(run("svs"))}
    grandchildren = [key for key, kind in kinds.items() if kind == VARIANT and "/+" in key]
    assert grandchildren
    for key in grandchildren:
        assert kinds[key[:-4]] == SYNTHESIS
        assert kinds[key[:-8]] == ORIGINAL


def test_families_without_any_problem_that_teaches_are_given_up() -> None:
    experience = run("none", policy=lambda prompt, random: r"\boxed{-1}")
    assert experience.groups == []
    asked = len(SPARES)
    assert experience.counters["refill/asked"] == experience.counters["groups/original"] - len(ROOTS) == asked
    assert experience.counters["refill/given_up"] == len(ROOTS)
    assert experience.counters["refill/informative"] == 0


def test_without_spares_nothing_changes_but_the_count() -> None:
    refilling = run("svs", spares=[])
    plain = collect(stage_of("svs"), ROOTS, PolicyEngine(often_certain), BoxVerifier(), decode, SAMPLING, seed=3)
    counters = plain.counters | {"refill/asked": 0, "refill/informative": 0, "refill/given_up": 4}
    assert refilling == replace(plain, counters=counters)


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["streaming", "phased"]))
def test_the_order_of_completion_decides_nothing(random, schedule) -> None:
    assert run("svs", order=lambda waiting: random.randrange(waiting), schedule=schedule) == run("svs")


@given(st.integers(1, 5))
@settings(max_examples=5, deadline=None)
def test_waves_play_what_a_whole_step_plays(count: int) -> None:
    def parts(waves: Waves) -> list[Experience]:
        stage = Refilling(stage_of("svs"), substitutes_of(ROOTS, SPARES))
        engine = PolicyEngine(often_certain)
        return [*play(stage, ROOTS, engine, BoxVerifier(), decode, SAMPLING, 3, waves=waves)]

    [whole], waves = parts(Waves(ROOTS)), parts(Waves(ROOTS, count, seed=9))
    assert len(waves) == count
    assert sorted((g for wave in waves for g in wave.groups), key=lambda g: g.task.key) == whole.groups
    sums = Counter()
    for wave in waves:
        sums.update({name: value for name, value in wave.counters.items() if name.startswith("refill/")})
    assert sums == {name: value for name, value in whole.counters.items() if name.startswith("refill/")}


@given(st.integers(1, 7), st.integers(0, 30))
def test_spares_are_dealt_evenly_and_asked_one_after_the_other(roots: int, spares: int) -> None:
    first, substitutes = originals(*range(roots)), substitutes_of(originals(*range(roots)), originals(*range(spares)))
    chains = []
    for root in first:
        chain, key = [], root.key
        while key in substitutes:
            task = substitutes[key]
            assert task.family == root.key
            assert key < task.key < root.child_key(0)
            chain.append(task.problem.id)
            key = task.key
        chains.append(chain)
    assert sorted(problem for chain in chains for problem in chain) == sorted(
        task.problem.id for task in originals(*range(spares))
    )
    assert max(map(len, chains)) - min(map(len, chains)) <= 1


def epochs(problems: int, per_step: int, seed: int, kind=ShuffledEpochs) -> ShuffledEpochs:
    tools = SamplerTools([problem(n) for n in range(problems)], per_step, 4, seed, encode, 200)
    return kind(SamplerConfig(), tools)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 9), st.integers(0, 40), st.integers(0, 3))
def test_spare_problems_are_others_each_once_and_the_same_every_time(problems, per_step, step, most, seed) -> None:
    sampler = epochs(problems, per_step, seed)
    draws = sampler.draw(step)
    spares = sampler.spare(step, draws, most)
    indices = {draw.index for draw in spares}
    drawn = {draw.index for draw in draws}
    assert len(indices) == len(spares) == min(most, problems - len(drawn))
    assert indices.isdisjoint(drawn)
    assert indices <= set(range(problems))
    assert all(draw.samples == 4 for draw in spares)
    assert epochs(problems, per_step, seed).spare(step, draws, most) == spares


class Sorted(ShuffledEpochs):
    def draw(self, step: int) -> list[Draw]:
        return sorted(super().draw(step), key=lambda draw: draw.index)


class SortedWithSpares(Sorted):
    def spare(self, step: int, draws, most: int) -> list[Draw]:
        return []


class Renamed(SortedWithSpares):
    reads_verdicts = True


@pytest.mark.parametrize(
    ("sampler", "gives"),
    [
        *((SAMPLERS.get(name), True) for name in ("epochs", "threshold_clipping", "repeat_padding")),
        *((SAMPLERS.get(name), False) for name in ("adaptive_resampling", "guided_resampling", "consensus_curriculum")),
        *((Sorted, False), (SortedWithSpares, True), (Renamed, True)),
    ],
)
def test_who_draws_in_a_way_of_its_own_has_no_spares_but_its_own(sampler, gives: bool) -> None:
    assert gives_spares(epochs(9, 3, 0, sampler)) == gives
