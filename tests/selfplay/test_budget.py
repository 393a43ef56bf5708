"""Budgeted self-play: which variants are solved to the end, what that saves, and which further contexts it pays for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selfplay_world import SAMPLING, BoxVerifier, PolicyEngine, answered, decode, encode, problem, solved

from fastsvs.config import BudgetConfig, SelfPlayConfig
from fastsvs.selfplay import (
    ORIGINAL,
    SYNTHESIS,
    VARIANT,
    Budgeted,
    Experience,
    Group,
    Portions,
    Refilling,
    Savings,
    StageTools,
    SvsStage,
    Task,
    Waves,
    collect,
    further_contexts,
    least_chance_to_inform,
    original_tasks,
    play,
    substitutes_of,
)
from fastsvs.selfplay.budget import chance_to_inform, joined
from fastsvs.selfplay.posterior import SolveRate
from fastsvs.selfplay.svs.shaping import chance_of_reward, deserves_reward, rate_of_variants
from fastsvs.verify import Finding, Verdict

ROOTS = original_tasks([(problem(n), encode(f"SOLVE {problem(n).question}")) for n in range(8)], samples=8)
BUDGET = {"first_samples": 4, "chance": 0.6}


def config_of(budget: dict | None = None, **others) -> SelfPlayConfig:
    return SelfPlayConfig(budget=BudgetConfig(**(BUDGET if budget is None else budget)), **others)


def stage_of(config: SelfPlayConfig) -> SvsStage:
    tools = StageTools(lambda p: encode(f"SOLVE {p.question}"), lambda text: encode("REWRITE" + text[-600:]), 1000, 200)
    return SvsStage(config, tools)


def uneven(prompt: str, random: Random) -> str:
    """Solves problems more or less often, each by its own text; writes problems; ends some checks in a timeout."""
    if prompt.startswith("REWRITE"):
        return f"```text\nWhat is {random.randrange(30)} + {random.randrange(30)}?\n```"
    number = int(prompt.split()[3])
    if random.random() < 0.05:
        return r"\boxed{?}"
    return rf"\boxed{{{2 * number if random.random() < Random(prompt).random() ** 2 else -1}}}"


def sloppy(prompt: str, random: Random) -> str:
    """Solves what it was asked in half of the cases, knowing all answers of the world, and little of what it wrote."""
    if prompt.startswith("REWRITE"):
        return f"```text\nFind {random.randrange(10**6)} of {random.randrange(2, 16, 2)}.\n```"
    if prompt.startswith("SOLVE Find"):
        return rf"\boxed{{{random.choice([prompt.split()[3].strip('.'), -1, -1, -1])}}}"
    return rf"\boxed{{{random.choice([2 * int(prompt.split()[3]), -1])}}}"


def run(budget: dict | None = None, policy=uneven, order=lambda waiting: 0, further=0, seed=3, **options) -> Experience:
    config = config_of(budget)
    return collect(
        Budgeted(stage_of(config), further_contexts(further, ROOTS, seed)), ROOTS, PolicyEngine(policy, order),
        BoxVerifier(), decode, SAMPLING, seed, portions=Portions(config.budget), **options,
    )  # fmt: skip


def plain(policy=uneven, seed=3) -> Experience:
    return collect(
        stage_of(SelfPlayConfig()), ROOTS, PolicyEngine(policy), BoxVerifier(), decode, SAMPLING, seed
    )  # fmt: skip


def played(experience: Experience) -> dict[str, Group]:
    return {group.task.key: group for group in [*experience.groups, *experience.discarded]}


def bare(group: Group) -> Group:
    return replace(group, rewards=(), rejections=())


@pytest.mark.parametrize("policy", [uneven, sloppy])
@pytest.mark.parametrize("chance", [0.3, 0.6, 1.0])
def test_a_variant_has_the_samples_of_the_plain_path_or_the_first_of_them(policy, chance: float) -> None:
    budgeted, whole = played(run(BUDGET | {"chance": chance}, policy)), played(plain(policy))
    assert budgeted.keys() == whole.keys()
    stopped = 0
    for key, group in budgeted.items():
        if len(group.rollouts) == group.task.samples:
            assert bare(group) == bare(whole[key])
            continue
        stopped += 1
        assert group.task.kind == VARIANT
        assert group.rollouts == whole[key].rollouts[:4]
        assert group.verdicts == whole[key].verdicts[:4]
        assert chance_to_inform(group) < chance
        assert not set(group.verdicts) >= {Verdict.CORRECT, Verdict.WRONG}
    assert (stopped > 0) == (chance > 0.3)


def test_one_stops_all_that_come_out_alike() -> None:
    for group in played(run(BUDGET | {"chance": 1.0})).values():
        if group.task.kind == VARIANT:
            alike = len(set(group.verdicts[:4]) - {Verdict.UNVERIFIED}) < 2
            assert len(group.rollouts) == (4 if alike else 8)


def test_what_is_stopped_and_saved_is_counted() -> None:
    experience, whole = run(), plain()
    variants = [group for group in played(experience).values() if group.task.kind == VARIANT]
    stopped = sum(len(group.rollouts) < 8 for group in variants)
    assert stopped > 3
    counters = {name: value for name, value in experience.counters.items() if name.startswith("budget/")}
    assert counters == {
        "budget/stopped": stopped,
        "budget/saved": 4 * stopped,
        "budget/contexts": 0,
        "budget/spent": 0,
    }
    assert whole.counters["samples/variant"] - experience.counters["samples/variant"] == 4 * stopped
    for name in ("contexts", "contexts_too_long", "variants_asked", "variants_valid", "groups/variant"):
        assert experience.counters[name] == whole.counters[name]


def test_all_at_once_is_the_plain_path() -> None:
    experience = run({"first_samples": 0})
    own = {name: value for name, value in experience.counters.items() if name.startswith("budget/")}
    assert set(own.values()) == {0}
    assert replace(experience, counters={k: v for k, v in experience.counters.items() if k not in own}) == plain()


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["streaming", "phased"]))
def test_the_order_of_completion_decides_nothing(random, schedule) -> None:
    options = {"further": 9, "policy": sloppy}
    assert run(order=lambda waiting: random.randrange(waiting), schedule=schedule, **options) == run(**options)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_waves_play_what_a_whole_step_plays(count: int) -> None:
    def parts(waves: Waves) -> list[Experience]:
        config = config_of()
        stage = Budgeted(stage_of(config), further_contexts(11, ROOTS, 3))
        engine = PolicyEngine(sloppy)
        portions = Portions(config.budget)
        return [*play(stage, ROOTS, engine, BoxVerifier(), decode, SAMPLING, 3, waves=waves, portions=portions)]

    [whole], waves = parts(Waves(ROOTS)), parts(Waves(ROOTS, count, seed=9))
    assert len(waves) == count
    assert sorted((g for wave in waves for g in wave.groups), key=lambda g: g.task.key) == whole.groups
    sums = Counter()
    for wave in waves:
        sums.update({name: value for name, value in wave.counters.items() if name.startswith("budget/")})
    assert sums == {name: value for name, value in whole.counters.items() if name.startswith("budget/")}


def first_part(right: int, of: int, unverified: int = 0, samples: int = 8, parent=(2, 8)) -> Group:
    rate = rate_of_variants(Fraction(*parent), parent[1])
    task = Task("p/000/000", VARIANT, problem(), encode("SOLVE"), samples, solve_rate=rate)
    return solved(right, of, unverified, task)


@given(st.integers(0, 6), st.integers(1, 6), st.integers(0, 8))
def test_the_chance_is_that_of_the_posterior_with_half_the_originals_answers(right: int, of: int, parent: int) -> None:
    right = min(right, of)
    rate = SolveRate(0.5 + parent / 2 + right, 0.5 + (8 - parent) / 2 + of - right)
    more = rate.chances(8 - of)
    expected = 1 if 0 < right < of else 1 - (more[-1] if right else more[0])
    assert chance_to_inform(first_part(right, of, parent=(parent, 8))) == pytest.approx(expected)


def test_answers_that_were_not_verified_tell_nothing() -> None:
    assert chance_to_inform(first_part(0, 4, unverified=4)) == pytest.approx(
        first_part(0, 4).task.solve_rate.chance_to_differ(0, 0, 4)
    )
    assert chance_to_inform(first_part(2, 4, unverified=2)) > chance_to_inform(first_part(4, 4))


def test_answers_that_are_alike_in_a_partial_score_go_on() -> None:
    group = first_part(0, 4)
    assert chance_to_inform(replace(group, scores=(0.5,) * 4)) == 1
    assert chance_to_inform(replace(group, scores=(0.0,) * 4)) == chance_to_inform(group) < 1
    assert chance_to_inform(replace(first_part(4, 4), scores=(1.0,) * 4)) == chance_to_inform(first_part(4, 4))


def test_two_parts_join_with_what_their_judges_found() -> None:
    task = first_part(0, 4).task
    first, rest = answered(task, ["a", "b"], [Verdict.CORRECT] * 2), answered(task, ["c"], [Verdict.WRONG])
    assert joined(first, rest).texts == ("a", "b", "c")
    assert joined(first, rest).notes == joined(first, rest).scores == ()
    noted = joined(first, replace(rest, notes=("why",), scores=(0.25,)))
    assert noted.notes == (None, None, "why")
    assert noted.scores == (1.0, 1.0, 0.25)
    assert joined(replace(first, scores=(0.5, 1.0)), rest).scores == (0.5, 1.0, 0.0)


class ScoringVerifier(BoxVerifier):
    """Gives half of the reward to wrong answers, and a note."""

    def submit(self, asked):
        return [
            Finding(verdict, "noted", 1.0 if verdict is Verdict.CORRECT else 0.5) for verdict in super().submit(asked)
        ]


def test_judges_with_scores_and_notes_see_every_sample_once() -> None:
    config = config_of()
    verifier = ScoringVerifier()
    experience = collect(
        Budgeted(stage_of(config), {}), ROOTS, PolicyEngine(uneven), verifier, decode, SAMPLING, 3,
        portions=Portions(config.budget),
    )  # fmt: skip
    judged = [group for group in played(experience).values() if group.verdicts]
    assert sum(map(len, verifier.calls)) == sum(len(group.rollouts) for group in judged)
    assert all(len(g.notes) == len(g.scores) == len(g.verdicts) == len(g.rollouts) for g in judged)


def lenient(prompt: str, random: Random) -> str:
    """Solves the even problems in 5 to 6 of 8 cases, the third never, all others always, and half of what it wrote."""
    if prompt.startswith("REWRITE"):
        return f"```text\nFind {random.randrange(10**6)} of {prompt.rpartition('{')[2].partition('}')[0]}.\n```"
    if prompt.startswith("SOLVE Find"):
        return rf"\boxed{{{random.choice([prompt.split()[4].strip('.'), -1])}}}"
    number = int(prompt.split()[3])
    right = number != 3 and (number % 2 or random.random() < 0.7)
    return rf"\boxed{{{2 * number if right else -1}}}"


def contexts(experience: Experience) -> Counter[str]:
    return Counter(group.task.parent for group in played(experience).values() if group.task.kind == SYNTHESIS)


def test_further_contexts_come_from_problems_whose_variants_will_be_rewarded() -> None:
    usual, more = run(policy=lenient), run(policy=lenient, further=16)
    originals = {key: group for key, group in played(more).items() if group.task.kind == ORIGINAL}
    extra = contexts(more) - contexts(usual)
    assert extra
    for key, group in originals.items():
        five_of_eight = group.correct == 5
        assert extra[key] == (2 if five_of_eight else 0), (group.correct, extra)
        assert contexts(more)[key] == (group.correct if 0 < group.correct < 5 else extra[key])
    further = [group for group in played(more).values() if group.task.parent in extra]
    grown = [group for group in played(more).values() if group.task.parent in {g.task.key for g in further}]
    assert more.counters["budget/contexts"] == len(further) == sum(extra.values())
    assert more.counters["budget/spent"] == sum(len(group.rollouts) for group in [*further, *grown])
    assert more.counters["budget/saved"] == usual.counters["budget/saved"]
    assert more.counters["contexts_too_long"] == usual.counters["contexts_too_long"] == 0
    assert more.counters["contexts"] == usual.counters["contexts"]
    assert {group.correct for group in (originals[key] for key in extra)} == {5}


def test_a_lower_chance_takes_more() -> None:
    def parents(chance: float) -> set[int]:
        experience = run(BUDGET | {"context_chance": chance}, lenient, further=64)
        groups = played(experience)
        return {groups[key].correct for key in contexts(experience)} - {1, 2, 3, 4}

    assert parents(0.5) == {5}
    assert parents(0.4) == {5, 6}
    assert parents(0.2) == {5, 6, 7}
    assert parents(0.05) == {5, 6, 7, 8}


@pytest.mark.parametrize("rule", ["band", "solvable"])
@given(data=st.data(), size=st.integers(1, 9), correct=st.integers(0, 8))
def test_the_chance_of_reward_adds_up_what_would_be_rewarded(rule: str, data, size: int, correct: int) -> None:
    low, high = sorted(data.draw(st.tuples(*[st.sampled_from([0.0, 0.1, 1 / 8, 0.3, 0.5, 0.625, 1.0])] * 2)))
    config = SelfPlayConfig(samples_per_variant=size, positive_range=(low, high), shaping={"rule": rule})
    rate = rate_of_variants(Fraction(correct, 8), 8)
    expected = [
        chance for right, chance in enumerate(rate.chances(size)) if deserves_reward(solved(right, size), config)
    ]
    assert chance_of_reward(rate, config) == pytest.approx(sum(expected))


def test_substitutes_of_dynamic_sampling_take_no_further_contexts() -> None:
    config = config_of(BUDGET | {"context_chance": 0.01})
    spares = original_tasks([(problem(n), encode(f"SOLVE {problem(n).question}")) for n in range(10, 18)], samples=8)
    stage = Refilling(Budgeted(stage_of(config), further_contexts(64, ROOTS, 3)), substitutes_of(ROOTS, spares))
    experience = collect(
        stage, ROOTS, PolicyEngine(lenient), BoxVerifier(), decode, SAMPLING, 3, portions=Portions(config.budget)
    )
    groups = played(experience)
    assert experience.counters["refill/asked"] > 0
    outside = {key for key in contexts(experience) if not 1 <= groups[key].correct <= 4}
    assert outside
    assert outside <= {root.key for root in ROOTS}


@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 5))
def test_contexts_are_dealt_evenly_and_the_same_every_time(number: int, roots: int, seed: int) -> None:
    dealt = further_contexts(number, ROOTS[:roots], seed)
    assert sum(dealt.values()) == number
    assert max(dealt.values()) - min(dealt.values()) <= 1
    assert dealt == further_contexts(number, ROOTS[:roots][::-1], seed)


def account(saved: int = 0) -> Savings:
    savings = Savings(config_of(variants_per_context=2, samples_per_variant=8))
    savings.hold(0, 99)
    savings.settle(0, {"budget/saved": saved, "budget/spent": 0})
    return savings


def test_savings_pay_for_what_a_context_costs_at_most_until_more_is_known() -> None:
    assert account(17).hold(1, 99) == 0
    assert account(18).hold(1, 99) == 1
    assert account(180).hold(1, 99) == 10
    assert account(180).hold(1, 7) == 7


def test_steps_under_way_do_not_spend_the_same_samples() -> None:
    savings = account(180)
    assert [savings.hold(1, 6), savings.hold(2, 99), savings.hold(3, 99)] == [6, 4, 0]
    savings.settle(1, {"budget/saved": 20, "budget/spent": 18})
    assert savings.samples == 182
    assert savings.hold(4, 99) == pytest.approx((182 - 4 * 18) / ((18 + 18) / 7), abs=1)


@given(st.lists(st.tuples(st.integers(0, 200), st.floats(0, 1)), max_size=40), st.integers(1, 18))
def test_nothing_is_allowed_while_there_is_a_debt(steps, cost: int) -> None:
    savings = account()
    for step, (saved, share) in enumerate(steps, start=1):
        before = savings.samples
        allowed = savings.hold(step, 64)
        assert 0 <= allowed <= 64 * (before > 0)
        spent = int(allowed * share) * cost
        savings.settle(step, {"budget/saved": saved, "budget/spent": spent})
        assert savings.samples == before + saved - spent


@given(st.floats(0.1, 1), st.integers(5, 18))
def test_in_time_as_much_is_spent_as_is_saved(share: float, cost: int) -> None:
    """Whatever share of the allowed contexts is taken, and whatever they cost."""
    savings, owed = account(), 0.0
    for step in range(1, 200):
        owed += savings.hold(step, 10**6) * share
        taken, owed = int(owed), owed % 1
        savings.settle(step, {"budget/saved": 100, "budget/spent": taken * cost})
    assert abs(savings.samples) < 0.03 * 100 * 199


def test_savings_go_on_from_a_checkpoint() -> None:
    savings = account(500)
    savings.hold(1, 20)
    savings.settle(1, {"budget/saved": 3, "budget/spent": 90})
    again = Savings(config_of(variants_per_context=2, samples_per_variant=8))
    again.load_state_dict(savings.state_dict())
    assert again.state_dict() == savings.state_dict()
    assert again.hold(2, 99) == savings.hold(2, 99) > 0


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"samples": 1},
        {"samples": "1", "spent": 0, "allowed": 0},
        {"samples": 0, "spent": -1, "allowed": 0},
        {"samples": 0, "spent": 0, "allowed": 1.5},
    ],
)
def test_a_state_that_is_none_is_refused(state) -> None:
    with pytest.raises((KeyError, ValueError)):
        account().load_state_dict(state)


def test_without_a_budget_nothing_is_spent() -> None:
    savings = Savings(config_of({"first_samples": 0}))
    savings.load_state_dict({"samples": 1000, "spent": 0, "allowed": 0})
    assert savings.hold(0, 99) == 0


@pytest.mark.parametrize(("first", "least"), [(2, 0.5), (4, 0.33), (6, 0.17)])
def test_the_least_chance_is_that_after_one_right_answer_to_the_original(first: int, least: float) -> None:
    assert least_chance_to_inform(config_of({"first_samples": first}), 8) == pytest.approx(least, abs=0.01)
    assert least_chance_to_inform(config_of({"first_samples": first}), 8) == chance_to_inform(
        first_part(0, first, parent=(1, 8))
    )
