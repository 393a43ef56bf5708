"""Samplers: what they keep, repeat, draw and remember, over a small world in which self-play runs for real."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import ceil
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from selfplay_world import SAMPLING, BoxVerifier, PolicyEngine, answered, decode, encode, problem

from fastsvs.algorithms import ADVANTAGES, Context, make_batch
from fastsvs.config import AlgorithmConfig, SamplerConfig, SelfPlayConfig
from fastsvs.data.records import Problem
from fastsvs.rollout.engine import Rollout
from fastsvs.selfplay import (
    ORIGINAL,
    SAMPLERS,
    SYNTHESIS,
    Draw,
    Experience,
    Group,
    PlainStage,
    Sampler,
    SamplerTools,
    StageTools,
    Task,
    collect,
    original_tasks,
)
from fastsvs.selfplay.samplers.resampling import apportion, beginnings
from fastsvs.verify import Verdict

REMEMBERING = ["adaptive_resampling", "guided_resampling", "consensus_curriculum"]
VERDICTS = st.lists(st.sampled_from(list(Verdict)), min_size=1, max_size=9)


def world(problems: int = 5, solutions: bool = True) -> list[Problem]:
    """Problem i is solved with probability i / (problems - 1)."""
    steps = "".join(f"line {line}\n" for line in range(4)) if solutions else None
    return [
        replace(problem(number), extra={"ease": number / max(problems - 1, 1)}, solution=steps and steps + "\\boxed{1}")
        for number in range(problems)
    ]


def build(
    name: str, problems: list[Problem], per_step: int = 3, samples: int = 4, seed: int = 0, **config: object
) -> Sampler:
    tools = SamplerTools(problems, per_step, samples, seed, encode, 200)
    return SAMPLERS.get(name)(SamplerConfig(name=name, **config), tools)


def play(sampler: Sampler, problems: list[Problem], step: int) -> tuple[list[Draw], Experience]:
    """One step, as a training run takes it: what was drawn, and what is learned from."""
    draws = sampler.draw(step)
    asked = [problems[draw.index] for draw in draws]
    tasks = original_tasks([(each, encode(f"SOLVE {each.id}:")) for each in asked], 0)
    tasks = [
        replace(task, samples=draw.samples, prefix=draw.prefix, prompt_ids=task.prompt_ids + encode(draw.prefix))
        for task, draw in zip(tasks, draws, strict=True)
    ]

    def policy(prompt: str, random: Random) -> str:
        known = next(each for each in problems if f"SOLVE {each.id}:" in prompt)
        right = random.random() < known.extra["ease"]
        return f"first\nthen\n\\boxed{{{known.answer if right else random.randint(100, 103)}}}"

    stage = PlainStage(SelfPlayConfig(), StageTools(encode, encode, 500, 200))
    experience = collect(stage, tasks, PolicyEngine(policy), BoxVerifier(), decode, SAMPLING, seed=step)
    return draws, sampler.observe(experience)


def labelled(verdicts: list[Verdict], key: str = "000000", kind: str = ORIGINAL) -> Group:
    """Every response of its own text, log-prob, reward and note, so that a mix-up shows."""
    texts = [f"{key}:{sample}" for sample in range(len(verdicts))]
    group = answered(Task(key, kind, problem(), encode("q"), len(verdicts)), texts, verdicts)
    return replace(
        group,
        rollouts=tuple(replace(rollout, weight_version=sample) for sample, rollout in enumerate(group.rollouts)),
        rewards=tuple(sample + (verdict is Verdict.CORRECT) / 2 for sample, verdict in enumerate(verdicts)),
        notes=tuple({"sample": sample} for sample in range(len(verdicts))),
    )


def responses(group: Group) -> list[tuple[str, Rollout, Verdict, float, object]]:
    assert group.task.samples == len(group.rollouts)
    return list(zip(group.texts, group.rollouts, group.verdicts, group.rewards, group.notes, strict=True))


def experience_of(groups: list[Group], discarded: list[Group] | None = None) -> Experience:
    kept = sum(len(group.rollouts) for group in groups if group.task.kind == ORIGINAL)
    return Experience(groups, {f"kept_samples/{ORIGINAL}": kept}, discarded or [])


def written_from(parent: Group, sample: int) -> Group:
    """What is made from one response says so."""
    task = Task(f"{parent.task.key}/{sample:03d}", SYNTHESIS, problem(), encode("q"), 1, parent.task.key, sample)
    return answered(replace(task, judge=None), [f"of {parent.texts[sample]}"])


@given(st.lists(VERDICTS, min_size=1, max_size=4), st.integers(1, 5))
def test_clipping_loses_nothing_and_keeps_families_together(outcomes, most):
    groups = [labelled(verdicts, f"{place:06d}") for place, verdicts in enumerate(outcomes)]
    children = [written_from(group, sample) for group in groups for sample in range(len(group.texts))]
    before = experience_of([*groups, *children[::2]], children[1::2])
    after = build("threshold_clipping", world(), most_correct=most).observe(before)
    for group, kept in zip(groups, after.groups, strict=False):
        assert kept.task.key == group.task.key
        assert kept.correct == min(group.correct, most)
        wrong = [response for response in responses(group) if response[2] is not Verdict.CORRECT]
        assert [response for response in responses(kept) if response[2] is not Verdict.CORRECT] == wrong
    everything = [group for group in (*after.groups, *after.discarded) if group.task.kind == ORIGINAL]
    assert Counter(text for group in everything for text in group.texts) == Counter(
        text for group in groups for text in group.texts
    )
    by_text = {response[0]: response for group in groups for response in responses(group)}
    assert all(response == by_text[response[0]] for group in everything for response in responses(group))
    by_key = {group.task.key: group for group in everything}
    for child in (*after.groups, *after.discarded):
        if child.task.kind == SYNTHESIS:
            assert child.texts[0] == f"of {by_key[child.task.parent].texts[child.task.parent_sample]}"
    surplus = sum(max(group.correct - most, 0) for group in groups)
    assert after.counters["sampler/clipped"] == surplus
    assert after.counters["kept_samples/original"] == sum(map(len, outcomes)) - surplus


def test_clipping_leaves_other_kinds_alone():
    group = labelled([Verdict.CORRECT] * 8, kind="variant")
    assert build("threshold_clipping", world(), most_correct=1).observe(experience_of([group])).groups == [group]


@given(st.lists(VERDICTS, min_size=1, max_size=4), st.integers(1, 12))
def test_padding_repeats_correct_responses_evenly_behind_the_others(outcomes, wanted):
    groups = [labelled(verdicts, f"{place:06d}") for place, verdicts in enumerate(outcomes)]
    after = build("repeat_padding", world(), padded_correct=wanted).observe(experience_of(groups))
    for group, padded in zip(groups, after.groups, strict=True):
        size = len(group.texts)
        assert padded.correct == (max(group.correct, wanted) if group.correct else 0)
        assert responses(padded)[:size] == responses(group)
        assert set(padded.texts[size:]) <= {group.texts[i] for i in range(size) if group.verdicts[i] is Verdict.CORRECT}
        assert all(response in responses(group) for response in responses(padded))
        counts = Counter(text for text, *_, verdict, _, _ in responses(padded) if verdict is Verdict.CORRECT)
        assert max(counts.values(), default=0) - min(counts.values(), default=0) <= 1
    assert after.counters["kept_samples/original"] == sum(len(group.texts) for group in after.groups)
    assert after.counters["sampler/repeated"] == sum(len(group.texts) for group in after.groups) - sum(
        map(len, outcomes)
    )


def test_padding_makes_as_many_correct_as_samples_are_asked():
    group = labelled([Verdict.CORRECT, Verdict.WRONG, Verdict.WRONG])
    [padded] = build("repeat_padding", world(), samples=4).observe(experience_of([group])).groups
    assert padded.correct == 4


def test_copies_count_in_the_baseline_of_their_group():
    """One of eight correct: padded to eight, a copy earns less than the lone response did, and all of them more."""
    verdicts = [Verdict.CORRECT] + [Verdict.WRONG] * 7
    group = replace(labelled(verdicts), rewards=(1.0,) + (0.0,) * 7)
    [padded] = build("repeat_padding", world(), padded_correct=8).observe(experience_of([group])).groups
    alone, together = (make_batch([each]) for each in (group, padded))
    assert together.groups.tolist() == [0] * 15
    context = Context(AlgorithmConfig(normalize_by_std=False))
    before, after = (ADVANTAGES.get("grpo")(batch, context) for batch in (alone, together))
    correct = [0, *range(8, 15)]
    torch.testing.assert_close(before[0], torch.tensor(1 - 1 / 8))
    torch.testing.assert_close(after[correct], torch.full((8,), 1 - 8 / 15))
    torch.testing.assert_close(after[1:8], torch.full((7,), -8 / 15))
    assert after[correct].sum() > before[0] > after[0]


WEIGHTS = st.lists(st.fractions(Fraction(1, 20), Fraction(1), max_denominator=20), min_size=1, max_size=12)


@given(WEIGHTS, st.integers(0, 3), st.integers(0, 60))
def test_apportioned_samples_add_up_and_follow_their_weights(weights, least, rest):
    counts = apportion(least * len(weights) + rest, weights, least)
    assert sum(counts) == least * len(weights) + rest
    for count, weight in zip(counts, weights, strict=True):
        assert count >= least
        assert abs(count - least - rest * weight / sum(weights)) < 1
    order = sorted(range(len(weights)), key=lambda place: weights[place])
    assert all(counts[a] <= counts[b] for a, b in pairwise(order) if weights[a] < weights[b])


@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99), st.sampled_from(SAMPLERS.names()))
def test_every_step_asks_no_more_than_its_share(problems, per_step, samples, seed, name):
    """And draws nothing that is not there, whatever was learned before."""
    made = world(problems)
    sampler = build(name, made, per_step, samples, seed)
    for step in range(4):
        draws, _ = play(sampler, made, step)
        assert all(0 <= draw.index < problems and draw.samples >= min(samples, 2) for draw in draws)
        surveys = name == "consensus_curriculum" and step < ceil(problems / per_step)
        assert len(draws) == (min(per_step, problems - step * per_step) if surveys else per_step)
        assert sum(draw.samples for draw in draws) == samples * len(draws)


@pytest.mark.parametrize("name", REMEMBERING)
@given(cut=st.integers(0, 5), seed=st.integers(0, 9), solutions=st.booleans())
def test_what_is_drawn_follows_from_seed_step_and_state(name, cut, seed, solutions):
    made = world(6, solutions)
    whole = build(name, made, seed=seed)
    for step in range(cut):
        play(whole, made, step)
    state = whole.state_dict()
    text = json.dumps(state)
    resumed = build(name, made, seed=seed)
    resumed.load_state_dict(json.loads(text))
    for step in range(cut, 7):
        assert play(whole, made, step) == play(resumed, made, step)
    assert json.dumps(state) == text, "later steps do not alter it"


def test_problems_that_fail_are_sampled_more():
    made = world(3)
    sampler = build("adaptive_resampling", made, per_step=3, samples=6)
    assert {draw.samples for draw in play(sampler, made, 0)[0]} == {6}, "nothing is known yet"
    draws, experience = play(sampler, made, 1)
    samples = {draw.index: draw.samples for draw in draws}
    assert samples[0] > samples[1] > samples[2] >= 2
    assert experience.counters["sampler/samples_least"] == samples[2]
    assert experience.counters["sampler/samples_most"] == samples[0]


def test_only_problems_that_failed_are_guided():
    made = world(3)
    sampler = build("guided_resampling", made, per_step=3)
    draws, experience = play(sampler, made, 0)
    assert [draw.prefix for draw in draws] == [""] * 3
    seen = set()
    for step in range(1, 12):
        draws, experience = play(sampler, made, step)
        prefixes = {draw.index: draw.prefix for draw in draws}
        assert prefixes[2] == "", "it is always solved"
        assert made[0].solution.startswith(prefixes[0])
        assert experience.counters["sampler/guided"] == sum(map(bool, prefixes.values()))
        guided = [g for g in (*experience.groups, *experience.discarded) if g.task.prefix]
        assert all(text.startswith(group.task.prefix) for group in guided for text in group.texts)
        assert experience.counters["sampler/guided_solved"] == sum(group.correct > 0 for group in guided)
        seen.add(prefixes[0])
    assert seen == {"".join(f"line {line}\n" for line in range(most)) for most in range(1, 5)}


def test_what_the_policy_once_wrote_guides_where_there_is_no_solution():
    made = world(2, solutions=False)
    sampler = build("guided_resampling", made, per_step=2)
    play(sampler, made, 0)
    _, experience = play(sampler, made, 1)
    assert experience.counters["sampler/guided"] == 0
    assert experience.counters["sampler/unguided"] == 1, "problem 0 has never been solved by anybody"
    forgetful = [replace(each, extra={"ease": 0.0}) for each in made]
    play(sampler, forgetful, 2)
    draws, _ = play(sampler, forgetful, 3)
    assert {draw.index: draw.prefix for draw in draws}[1] in {"first\n", "first\nthen\n"}


LINES = st.lists(st.sampled_from(["a\n", "bb\n", "\n", " \n", "#### 3\n", "\\boxed{3}\n", "done"]), max_size=8)


@given(LINES, st.integers(0, 12))
def test_beginnings_give_no_answer_away(lines, most):
    solution = "".join(lines)
    found = beginnings(solution, encode, most)
    for text in found:
        assert solution.startswith(text)
        assert len(text) < len(solution)
        assert text.endswith("\n")
        assert text.strip()
        assert "boxed" not in text
        assert "####" not in text
        assert len(text) <= most
    assert len(set(found)) == len(found)


def test_beginnings_by_hand():
    solution = "3+4=7\n\n7*2=14 apples\n\\boxed{14}"
    assert beginnings(solution, encode, 100) == ["3+4=7\n", "3+4=7\n\n7*2=14 apples\n"]
    assert beginnings(solution, encode, 10) == ["3+4=7\n"]
    assert beginnings("\\boxed{14}", encode, 100) == beginnings("", encode, 100) == []
    assert beginnings("the answer\nis 4", encode, 100) == ["the answer\n"]


@pytest.mark.parametrize(("share", "pool"), [(1 / 3, 2), (0.5, 3), (1.0, 6), (0.01, 1)])
def test_the_curriculum_surveys_all_problems_and_then_keeps_to_the_easiest(share, pool):
    made = world(6)
    sampler = build("consensus_curriculum", made, per_step=4, samples=8, easiest_share=share)
    asked, votes = [], {}
    for step in range(2):
        draws, experience = play(sampler, made, step)
        asked += [draw.index for draw in draws]
        assert experience.groups == []
        assert experience.counters["kept_samples/original"] == 0
        for group in experience.discarded:
            answers = Counter(text.rpartition("{")[2] for text in group.texts)
            votes[group.task.problem.id] = max(answers.values()) / len(group.texts)
    assert sorted(asked) == list(range(6)), "each once"
    later = [draw.index for step in range(2, 20) for draw in play(sampler, made, step)[0]]
    assert len(set(later)) == pool
    shares = [votes[each.id] for each in made]
    others = [share for index, share in enumerate(shares) if index not in later]
    assert min(shares[index] for index in set(later)) >= max(others, default=0)
    counts = Counter(later)
    assert max(counts.values()) - min(counts.values()) <= 1, "in epochs"


def test_what_the_curriculum_surveyed_stays_in_the_record():
    made = world(4)
    sampler = build("consensus_curriculum", made, per_step=4)
    _, experience = play(sampler, made, 0)
    assert len(experience.discarded) == 4
    assert 0 < experience.counters["sampler/surveyed"] <= 4
    _, experience = play(sampler, made, 1)
    assert experience.counters["sampler/surveyed"] == 0
