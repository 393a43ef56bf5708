"""Asking half-solved problems again: as many responses as SvS asks for their variants, of the problem itself."""

from selfplay_world import solved

from fastsvs.selfplay import ORIGINAL, REPEAT, SYNTHESIS


def test_a_half_solved_problem_is_asked_again_for_every_variant_that_svs_would_ask(make_stage):
    config = {"variants_per_context": 3, "samples_per_variant": 5}
    group = solved(2, of=8)
    tasks = make_stage("upsampled", **config).expand(group)
    contexts = make_stage("svs", max_prompt_tokens=5000, **config).expand(group)
    assert [task.kind for task in contexts] == [SYNTHESIS] * 2
    assert sum(task.samples for task in tasks) == sum(task.samples for task in contexts) * config["samples_per_variant"]
    assert {(task.kind, task.samples, task.parent) for task in tasks} == {(REPEAT, 5, group.task.key)}
    assert {task.prompt_ids for task in tasks} == {group.task.prompt_ids}
    assert all(task.problem is group.task.problem for task in tasks)
    assert len({task.key for task in tasks}) == len(tasks) == 6
    assert all(task.key.startswith(f"{context.key}/") for context in contexts for task in tasks[:0] or [])
    assert {task.family for task in tasks} == {group.task.family}


def test_other_problems_and_those_asked_again_are_asked_no_further(make_stage):
    stage = make_stage("upsampled")
    assert stage.expand(solved(0, of=8)) == stage.expand(solved(5, of=8)) == stage.expand(solved(8, of=8)) == []
    assert stage.expand(solved(4, task=stage.expand(solved(4, of=8))[0])) == []


def test_repeats_are_learned_from_where_their_answers_differ(make_stage):
    stage = make_stage("upsampled", variants_per_context=2)
    group = solved(4, of=8)
    first, second, *_ = stage.expand(group)
    experience = stage.finish([group, solved(3, task=first), solved(8, task=second)])
    assert [kept.task.kind for kept in experience.groups] == [ORIGINAL, REPEAT]
    assert [left.task.key for left in experience.discarded] == [second.key]
    assert experience.counters["groups/repeat"] == 2
