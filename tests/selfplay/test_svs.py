"""The SvS stage against the tables of the paper and its code."""

from dataclasses import replace
from fractions import Fraction

import pytest
from selfplay_world import answered, encode, problem, solved

from fastsvs.config import SelfPlayConfig
from fastsvs.errors import UserError
from fastsvs.selfplay import ORIGINAL, SYNTHESIS, VARIANT, Task
from fastsvs.selfplay.svs.shaping import within
from fastsvs.selfplay.svs.stage import load_template
from fastsvs.verify import Verdict

SYNTHESIS_TASK = Task("p0/000", SYNTHESIS, problem(), encode("REWRITE"), 9, parent="p0", parent_sample=0, judge=None)


def written(texts: list[str] | None = None):
    texts = texts or [f"```text\nWhat is {i} more than {i}?\n```" for i in range(9)]
    return answered(SYNTHESIS_TASK, texts)


def solves_of(stage, synthesis, counts: dict[int, int]) -> list:
    """The variant groups of a synthesis group, each solved as often as `counts` says for its sample."""
    return [solved(counts[task.parent_sample], task=task) for task in stage.expand(synthesis)]


@pytest.mark.parametrize("correct", range(9))
def test_contexts_are_the_correct_responses_of_half_solved_problems(make_stage, correct):
    tasks = make_stage().expand(solved(correct))
    assert len(tasks) == (correct if 1 <= correct <= 4 else 0)
    assert [task.parent_sample for task in tasks] == list(range(len(tasks)))
    assert all(task.problem == problem() for task in tasks)
    assert {(task.kind, task.samples, task.parent) for task in tasks} <= {(SYNTHESIS, 8, "p0")}


@pytest.mark.parametrize("correct", range(9))
@pytest.mark.parametrize("name", ["svs", "none"])
def test_original_groups_train_unless_all_or_none_are_correct(make_stage, name, correct):
    experience = make_stage(name).finish([solved(correct)])
    assert len(experience.groups) == (1 <= correct <= 7)
    (group,) = experience.groups or experience.discarded
    assert group.rewards == (1.0,) * correct + (0.0,) * (8 - correct)


def test_synthesis_prompt_shows_the_response_and_nothing_else_of_the_problem(make_stage):
    group = answered(
        Task("p0", ORIGINAL, problem(21), encode("SOLVE"), 2),
        [r"So $\{x\}$ {response} \boxed{42}", "no"],
        [Verdict.CORRECT, Verdict.WRONG],
    )
    (task,) = make_stage().expand(group)
    assert task.prompt_ids == encode("REWRITE\n" + group.texts[0] + "\nAS\n```text\n[your problem]\n```")
    assert task.problem.question not in "".join(map(chr, task.prompt_ids))


@pytest.mark.parametrize(
    ("config", "context"),
    [
        ({}, "So \\boxed{42}"),
        ({"context": "whole"}, "21? 42. </think>\n\nSo \\boxed{42}"),
        ({"thoughts_end": "[/T]"}, "21? 42. </think>\n\nSo \\boxed{42}"),
    ],
)
def test_thoughts_are_no_part_of_a_context_unless_they_are_asked_for(make_stage, config, context):
    texts = ["21? 42. </think>\n\nSo \\boxed{42}", "no"]
    group = answered(Task("p0", ORIGINAL, problem(21), encode("SOLVE"), 2), texts, [Verdict.CORRECT, Verdict.WRONG])
    (task,) = make_stage(**config).expand(group)
    assert task.prompt_ids == encode(f"REWRITE\n{context}\nAS\n```text\n[your problem]\n```")


def test_a_problem_in_the_thoughts_is_not_solved(make_stage):
    synthesis = written(["```text\nold\n```[/T]\n```text\nnew\n```"])
    assert [task.problem.question for task in make_stage(thoughts_end="[/T]").expand(synthesis)] == ["new"]
    assert [task.problem.question for task in make_stage().expand(synthesis)] == ["old"]


def test_synthesis_limit_is_its_own_or_the_rollouts(make_stage):
    assert make_stage(max_synthesis_tokens=33).expand(solved(1))[0].max_tokens == 33
    assert make_stage().expand(solved(1))[0].max_tokens == 200


def test_context_over_the_prompt_limit_is_left_out_and_counted(make_stage):
    stage = make_stage(max_prompt_tokens=len(encode("REWRITE\nwork 0\nAS\n```text\n[your problem]\n```")))
    group = answered(solved(2).task, ["work 0", "longer work", *["no"] * 6], solved(2).verdicts)
    tasks = stage.expand(group)
    assert [task.parent_sample for task in tasks] == [0]
    counters = stage.finish([group, answered(tasks[0], ["-"] * 8)]).counters
    assert (counters["contexts"], counters["contexts_too_long"]) == (2, 1)


def test_variant_inherits_the_answer_and_goes_through_the_question_encoder(make_stage):
    (task,) = make_stage().expand(answered(SYNTHESIS_TASK, ["```text\nWhat is zero?\n```"]))
    assert task.prompt_ids == encode("SOLVE What is zero?")
    assert (task.kind, task.samples, task.parent, task.parent_sample) == (VARIANT, 8, "p0/000", 0)
    assert (task.problem.question, task.problem.answer, task.problem.source) == ("What is zero?", "0", "sums")
    assert task.problem.solution is None
    assert task.problem.id != problem().id


@pytest.mark.parametrize(
    ("shaping", "rewards"),
    [
        ({}, (0, 1, 1, 1, 1, 1, 0, 0, 0)),
        ({"negative": True}, (-1, 1, 1, 1, 1, 1, -1, -1, -1)),
        ({"rule": "solvable"}, (0, 1, 1, 1, 1, 1, 1, 1, 1)),
    ],
)
def test_synthesis_reward_by_number_of_correct_solutions(make_stage, shaping, rewards):
    stage = make_stage(shaping=shaping)
    variants = solves_of(stage, written(), {i: i for i in range(9)})
    experience = stage.finish([written(), *variants])
    synthesis = next(group for group in experience.groups if group.task.kind == SYNTHESIS)
    assert synthesis.rewards == rewards
    assert experience.counters["variants_positive"] == rewards.count(1)
    kept = {group.task.parent_sample for group in experience.groups if group.task.kind == VARIANT}
    assert kept == set(range(1, 8))


@pytest.mark.parametrize("counts", [{0: 0, 1: 6, 2: 7, 3: 8}, {0: 0, 1: 6, 2: 1, 3: 8}, {0: 1, 1: 1, 2: 1, 3: 1}])
def test_synthesis_group_trains_whole_iff_one_of_its_variants_is_positive(make_stage, counts):
    stage = make_stage()
    synthesis = written([f"```text\nWhat is {i} more than {i}?\n```" for i in range(4)])
    experience = stage.finish([synthesis, *solves_of(stage, synthesis, counts)])
    kept = [group for group in experience.groups if group.task.kind == SYNTHESIS]
    assert len(kept) == any(1 <= count <= 5 for count in counts.values())
    assert all(len(group.rollouts) == 4 for group in kept)


def test_degenerate_variants_are_not_solved_earn_nothing_and_are_counted_by_reason(make_stage):
    stage = make_stage(max_prompt_tokens=60)
    synthesis = written(
        [
            "```text\nWhat is one less than one?\n```",
            "I cannot",
            "```text\ncut off",
            "```text\n```",
            "```text\n[your problem]\n```",
            f"```text\n{problem().question}\n```",
            "```text\nwhat is one LESS than one?\n```",
            f"```text\n{'How long? ' * 9}\n```",
            "```text\nWhat is two less than two?\n```",
        ]
    )
    variants = solves_of(stage, synthesis, {0: 2, 8: 8})
    experience = stage.finish([synthesis, *variants])
    counters = experience.counters
    assert next(g for g in experience.groups if g.task.kind == SYNTHESIS).rewards == (1.0,) + (0.0,) * 8
    assert {name: value for name, value in counters.items() if name.startswith("rejected/")} == dict.fromkeys(
        [f"rejected/{r}" for r in ("no_marker", "unclosed", "empty", "placeholder", "copy", "duplicate", "too_long")], 1
    )
    assert (counters["variants_asked"], counters["variants_extracted"], counters["variants_valid"]) == (9, 7, 2)


def test_counters_before_and_after_the_filters(make_stage):
    stage = make_stage()
    synthesis = written()
    groups = [solved(2), synthesis, *solves_of(stage, synthesis, {i: i for i in range(9)})]
    counters = stage.finish(groups).counters
    assert (counters["groups/variant"], counters["samples/variant"]) == (9, 72)
    assert (counters["kept_groups/variant"], counters["kept_samples/variant"]) == (7, 56)
    assert (counters["kept_samples/original"], counters["kept_samples/synthesis"]) == (8, 9)
    assert counters["solve_rate/original"] == 0.25
    assert counters["solve_rate/variant"] == 0.5
    assert counters["reward/synthesis"] == pytest.approx(5 / 9)
    assert counters["reward/mean"] == pytest.approx((2 + 5 + 36) / (8 + 9 + 72))


def test_unverified_answers_are_counted_and_called_neither_right_nor_wrong(make_stage):
    """B3: one failed check must not move a group across a limit, be a context, or make a group look mixed."""
    stage = make_stage()
    assert solved(4, of=9, unverified=1).accuracy == Fraction(1, 2)
    assert len(stage.expand(solved(4, of=9, unverified=1))) == 4
    assert stage.expand(solved(0, of=8, unverified=8)) == []
    for group in (solved(7, of=8, unverified=1), solved(0, of=8, unverified=3), solved(0, of=8, unverified=8)):
        experience = stage.finish([group])
        assert experience.groups == []
        assert experience.counters["unverified/original"] == group.unverified
    (kept,) = stage.finish([solved(3, of=8, unverified=2)]).groups
    assert kept.rewards == (1.0,) * 3 + (0.0,) * 5


def test_unverified_solutions_make_no_variant_positive(make_stage):
    stage = make_stage()
    synthesis = written(["```text\nWhat is zero?\n```", "```text\nWhat is nil?\n```"])
    variants = [
        solved(c, unverified=u, task=t) for t, c, u in zip(stage.expand(synthesis), (0, 5), (8, 3), strict=True)
    ]
    experience = stage.finish([synthesis, *variants])
    assert experience.discarded[0].rewards == (0.0, 0.0)
    assert "solve_rate/variant" in experience.counters
    assert experience.counters["unverified/variant"] == 11


@pytest.mark.parametrize(("low", "high"), [(0.3, 0.3), (0.1, 0.3), (0.3, 0.7)])
def test_range_ends_are_inclusive_for_any_number_of_samples(low, high):
    for of in (10, 20, 30, 70, 1000):
        inside = [c for c in range(of + 1) if within(solved(c, of=of), (low, high))]
        assert inside == list(range(round(low * of), round(high * of) + 1))


def test_defaults_are_the_papers_constants():
    config = SelfPlayConfig()
    assert (config.context_range, config.positive_range) == ((0.125, 0.5), (0.125, 0.625))
    assert (config.variants_per_context, config.samples_per_variant) == (8, 8)


def test_default_template_takes_the_response_once():
    assert load_template(None).count("{response}") == 1


def test_unusable_templates_are_refused(tmp_path):
    path = tmp_path / "template.txt"
    with pytest.raises(UserError, match="cannot be read"):
        load_template(str(path))
    path.write_text("Write a problem for {REPLACE}")
    with pytest.raises(UserError, match=r"must contain \{response\}"):
        load_template(str(path))
    path.write_bytes(b"{response} \xff")
    with pytest.raises(UserError, match="cannot be read"):
        load_template(str(path))


def test_work_of_finish_is_linear_in_the_number_of_groups(make_stage):
    """B10: the reference code finds a group's relatives by scanning lists, once for every sample."""
    comparisons = 0

    class Key(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal comparisons
            comparisons += 1
            return str.__eq__(self, other)

    def family(number: int) -> list:
        task = replace(SYNTHESIS_TASK, key=Key(f"p{number}"), samples=1)
        variant = Task(Key(f"p{number}/0"), VARIANT, problem(), encode("SOLVE"), 8, Key(f"p{number}"), 0)
        return [answered(task, ["```text\nWhat is zero?\n```"]), solved(3, task=variant)]

    families = 300
    experience = make_stage().finish([group for number in range(families) for group in family(number)])
    assert experience.counters["variants_positive"] == families
    assert comparisons < 10 * families
