"""RISE: the policy's own responses come back as verification problems whose answer is the verifier's verdict."""

import pytest
from selfplay_world import decode, solved

from fastsvs.errors import UserError
from fastsvs.selfplay import ORIGINAL, VERIFICATION
from fastsvs.selfplay.rise import load_verification_template, verification_prompt
from fastsvs.verify import Verdict


def test_a_response_is_asked_about_with_its_verdict_as_the_answer(make_stage):
    stage = make_stage("rise", max_prompt_tokens=5000, rise={"critiques_per_problem": 8, "samples_per_critique": 5})
    group = solved(3, of=8)
    tasks = stage.expand(group)
    assert [task.parent_sample for task in tasks] == list(range(8))
    assert [task.problem.answer for task in tasks] == ["1"] * 3 + ["0"] * 5
    assert {(task.kind, task.samples, task.parent) for task in tasks} == {(VERIFICATION, 5, "p0")}
    for task in tasks:
        prompt = decode(task.prompt_ids)
        assert group.task.problem.question in prompt
        assert f"work {task.parent_sample}\n" in prompt
        assert prompt == task.problem.question
    assert stage.expand(solved(4, task=tasks[0])) == []


def test_responses_that_could_not_be_checked_are_not_asked_about(make_stage):
    stage = make_stage("rise", max_prompt_tokens=5000, rise={"critiques_per_problem": 8})
    tasks = stage.expand(solved(2, of=8, unverified=4))
    assert [task.parent_sample for task in tasks] == [0, 1, 6, 7]
    assert stage.expand(solved(0, of=8, unverified=8)) == []


def test_the_choice_is_random_but_made_again(make_stage):
    stage = make_stage("rise", max_prompt_tokens=5000, rise={"critiques_per_problem": 2})
    again = make_stage("rise", max_prompt_tokens=5000, rise={"critiques_per_problem": 2})
    other = make_stage("rise", max_prompt_tokens=5000, tools={"seed": 1}, rise={"critiques_per_problem": 2})
    chosen = [[task.parent_sample for task in each.expand(solved(4, of=64))] for each in (stage, again, other)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len(chosen[0]) == 2


def test_both_kinds_are_rewarded_and_filtered_alike_and_counted(make_stage):
    stage = make_stage("rise", max_prompt_tokens=5000, rise={"critiques_per_problem": 2, "samples_per_critique": 4})
    original = solved(3, of=8)
    first, second = stage.expand(original)
    experience = stage.finish([original, solved(1, of=4, task=first), solved(4, of=4, task=second)])
    assert [group.task.kind for group in experience.groups] == [ORIGINAL, VERIFICATION]
    assert experience.groups[1].rewards == (1.0, 0.0, 0.0, 0.0)
    assert [group.task.key for group in experience.discarded] == [second.key]
    right = sum(original.verdicts[task.parent_sample] is Verdict.CORRECT for task in (first, second))
    counters = experience.counters
    assert (counters["critiques"], counters["critiques_of_right"], counters["critiques_too_long"]) == (2, right, 0)


def test_prompts_that_are_too_long_are_counted(make_stage):
    stage = make_stage("rise", max_prompt_tokens=50, rise={"critiques_per_problem": 3})
    group = solved(3, of=8)
    assert stage.expand(group) == []
    assert stage.finish([group]).counters["critiques_too_long"] == 3


def test_a_template_of_ones_own(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("Q {question} R {response}")
    template = load_verification_template(str(path))
    assert verification_prompt(template, "what is {response}?", "{question}") == "Q what is {response}? R {question}"
    path.write_text("Q {question}")
    with pytest.raises(UserError, match=r"must contain \{response\}"):
        load_verification_template(str(path))
    with pytest.raises(UserError, match="cannot be read"):
        load_verification_template(str(tmp_path / "none.txt"))
