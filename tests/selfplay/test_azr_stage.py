"""AZR's stage: what it asks in a step, what it makes of proposals, what it remembers."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from azr_world import DOUBLE, SQUARES, TRIPLE, block, invalid, make_azr, of_kind, solved_by, valid
from selfplay_world import SAMPLING, BoxVerifier, PolicyEngine, decode

from fastsvs.config import SandboxConfig
from fastsvs.sandbox import Sandbox
from fastsvs.selfplay import Experience, collect
from fastsvs.selfplay.azr import KINDS, AzrJudge, AzrStage, Exercise, Rejection
from fastsvs.selfplay.azr.exercises import IDENTITY


def test_a_step_begins_with_proposals_for_every_task() -> None:
    tasks = make_azr().begin(0, [])
    assert Counter(task.kind for task in tasks) == {
        f"propose_{name}": 4 for name in ("deduction", "abduction", "induction")
    }
    assert len({task.key for task in tasks}) == 12
    assert {task.judge for task in tasks} == {"azr"}
    assert {task.samples for task in tasks} == {1}
    assert set(KINDS) == {
        f"{role}_{name}" for role in ("propose", "solve") for name in ("deduction", "abduction", "induction")
    }
    assert [task.kind for task in make_azr(tasks=("abduction",)).begin(0, [])] == ["propose_abduction"] * 4


def test_proposers_are_shown_programs_of_their_buffer() -> None:
    stage = make_azr(references=6, prompts_per_task=20)
    known = [Exercise(f"def f(x): return x + {number}", ("1",), ("2",)) for number in range(10)]
    stage.buffers["deduction"].push(known)
    programs = {exercise.program for exercise in (IDENTITY, *known)}
    tasks = stage.begin(0, [])
    for task in of_kind(tasks, "propose_deduction"):
        shown = task.problem.extra["references"]
        assert len(set(shown)) == 6
        assert set(shown) <= programs
        assert decode(task.prompt_ids) == "Write a program and an input for its output.\n" + "\n".join(shown)
    assert {task.problem.extra["references"][0] for task in of_kind(tasks, "propose_abduction")} == {IDENTITY.program}
    assert {task.problem.extra["program"] for task in of_kind(tasks, "propose_induction")} <= programs
    assert len({task.problem.extra["program"] for task in of_kind(tasks, "propose_induction")}) > 3


def test_what_is_drawn_follows_from_seed_and_step() -> None:
    def prompts(step: int, seed: int) -> list[tuple[int, ...]]:
        stage = make_azr(seed=seed, solve_from_buffer=2)
        stage.buffers["deduction"].push(Exercise(f"def f(x): return {n}", ("1",), (str(n),)) for n in range(50))
        return [task.prompt_ids for task in stage.begin(step, [])]

    assert prompts(3, 0) == prompts(3, 0)
    assert prompts(3, 0) != prompts(4, 0)
    assert prompts(3, 0) != prompts(3, 1)


def test_references_that_do_not_fit_are_left_out() -> None:
    stage = make_azr(max_prompt_tokens=100)
    stage.buffers["deduction"].push(Exercise(f"def f(x): return x + {number}", ("1",), ("2",)) for number in range(10))
    for task in of_kind(stage.begin(0, []), "propose_deduction"):
        assert len(task.problem.extra["references"]) == 2
        assert len(task.prompt_ids) <= 100


def test_a_valid_proposal_is_solved_in_the_same_step() -> None:
    stage = make_azr(samples_per_proposal=5)
    first, second, *_ = of_kind(stage.begin(0, []), "propose_deduction")
    [task] = stage.expand(valid(first, DOUBLE))
    assert (task.kind, task.samples, task.parent, task.parent_sample) == ("solve_deduction", 5, first.key, 0)
    assert task.key.startswith(first.key)
    assert decode(task.prompt_ids) == "def f(x): return 2 * x\nWhat is f(3)?"
    assert task.problem.answer == "6"
    assert stage.expand(invalid(second)) == []
    assert stage.expand(solved_by(task, 2)) == []
    [abduction] = stage.expand(valid(of_kind(stage.begin(0, []), "propose_abduction")[0], DOUBLE))
    assert decode(abduction.prompt_ids) == "def f(x): return 2 * x\nWhich x gives 6?"
    [induction] = stage.expand(valid(of_kind(stage.begin(0, []), "propose_induction")[0], SQUARES))
    assert "f(3)=9" in decode(induction.prompt_ids)
    assert "f(4)" not in decode(induction.prompt_ids)


def played(stage: AzrStage, step: int = 0) -> Experience:
    """Deduction: two valid proposals (solved once of four, and always) and two invalid ones; abduction: one, never
    solved; induction: none."""
    groups = []
    tasks = stage.begin(step, [])
    plan = {"propose_deduction": [(DOUBLE, 1), (TRIPLE, 4)], "propose_abduction": [(DOUBLE, 0)]}
    for kind in dict.fromkeys(task.kind for task in tasks if task.kind.startswith("propose")):
        for index, task in enumerate(of_kind(tasks, kind)):
            proposals = plan.get(kind, [])
            if index < len(proposals):
                exercise, right = proposals[index]
                group = valid(task, exercise)
                groups += [group, *(solved_by(child, right) for child in stage.expand(group))]
            else:
                groups.append(invalid(task, Rejection.BANNED))
    groups += [solved_by(task, 1) for task in tasks if task.kind.startswith("solve")]
    return stage.finish(sorted(groups, key=lambda group: group.task.key))


def test_everything_is_rewarded_counted_and_kept() -> None:
    experience = played(stage := make_azr())
    by_kind = {kind: [g.rewards for g in experience.groups if g.task.kind == kind] for kind in KINDS}
    assert by_kind["propose_deduction"] == [(0.75,), (-0.5,), (-1.0,), (-1.0,)]
    assert by_kind["propose_abduction"] == [(-0.5,), (-1.0,), (-1.0,), (-1.0,)]
    assert by_kind["propose_induction"] == [(-1.0,)] * 4
    assert by_kind["solve_deduction"] == [(1.0, -0.5, -0.5, -0.5), (1.0,) * 4]
    assert by_kind["solve_abduction"] == [(-0.5,) * 4]
    assert experience.discarded == []
    expected = {
        "valid/deduction": 2,
        "valid/abduction": 1,
        "valid/induction": 0,
        "learnable/deduction": 1,
        "learnable/abduction": 0,
        "proposal_solve_rate/deduction": 0.625,
        "program_nodes/deduction": 7,
        "rejected/banned": 9,
        "rejected/failed": 0,
        "rejected/too_long": 0,
        "buffer/deduction": 3,
        "buffer/induction": 0,
        "repeated/deduction": 0,
        "prompts_too_long/deduction": 0,
        "frozen/deduction": 0,
        "from_buffer/deduction": 0,
        "solve_rate/propose_deduction": 0.5,
        "solve_rate/solve_deduction": 0.625,
    }
    assert {name: experience.counters.get(name) for name in expected} == expected
    assert "proposal_solve_rate/induction" not in experience.counters
    assert stage.buffers["deduction"].exercises == [IDENTITY, DOUBLE, TRIPLE]
    assert stage.buffers["abduction"].exercises == [IDENTITY, DOUBLE]


def test_proposals_are_solved_from_the_buffer_in_the_step_after() -> None:
    stage = make_azr(solve_from_buffer=2, samples_from_buffer=3)
    first = of_kind(stage.begin(0, []), "solve_deduction")
    assert [task.problem.extra["exercise"]["program"] for task in first] == [IDENTITY.program]
    experience = played(stage)
    assert experience.counters["from_buffer/deduction"] == 1
    assert experience.counters["from_buffer/induction"] == 0
    second = of_kind(stage.begin(1, []), "solve_deduction")
    assert [task.problem.extra["exercise"]["program"] for task in second] == [TRIPLE.program, DOUBLE.program]
    assert {(task.samples, task.parent) for task in second} == {(3, None)}
    assert played(stage, 1).counters["repeated/deduction"] == 2


def test_a_frozen_proposer_teaches_the_solver_only() -> None:
    experience = played(make_azr(freeze_proposer=True))
    assert {group.task.kind for group in experience.groups} == {"solve_deduction", "solve_abduction"}
    assert len(experience.discarded) == 12
    assert all(group.rewards for group in experience.discarded)
    assert experience.counters["frozen/deduction"] == 4
    assert experience.counters["kept_groups/propose_deduction"] == 0
    assert experience.counters["kept_groups/solve_deduction"] == 2


def test_intrinsic_terms_reach_the_reward() -> None:
    terms = {"edit_distance": {"coefficient": 1.0, "max": 0.1}}
    rewards = [
        group.rewards for group in played(make_azr(intrinsic=terms)).groups if group.task.kind == "propose_deduction"
    ]
    assert rewards == [(0.85,), (-0.5,), (-1.0,), (-1.0,)]


def test_a_proposal_whose_problem_does_not_fit_is_invalid() -> None:
    stage = make_azr(max_prompt_tokens=80, prompts_per_task=1, tasks=("deduction",))
    [task] = stage.begin(0, [])
    long = replace(DOUBLE, program="def f(x):\n" + "    x += 1\n" * 10 + "    return x")
    group = valid(task, long)
    assert stage.expand(group) == []
    experience = stage.finish([group])
    assert experience.groups[0].rewards == (-1.0,)
    assert experience.counters["rejected/too_long"] == 1
    assert len(stage.buffers["deduction"]) == 1


def test_prompts_that_do_not_fit_are_counted() -> None:
    stage = make_azr(max_prompt_tokens=10)
    assert stage.begin(0, []) == []
    assert stage.finish([]).counters["prompts_too_long/abduction"] == 4


def test_the_state_brings_a_stage_to_where_another_was() -> None:
    stage, again = make_azr(solve_from_buffer=3), make_azr(solve_from_buffer=3)
    played(stage)
    again.load_state_dict(json.loads(json.dumps(stage.state_dict())))
    assert [task.prompt_ids for task in again.begin(1, [])] == [task.prompt_ids for task in stage.begin(1, [])]
    assert again.state_dict() == stage.state_dict()


def right_answer(prompt: str) -> str:
    if "What is" in prompt:
        return block("output", "10")
    return block("input", "5") if "Which x" in prompt else block("python", "def f(x): return 2 * x")


@pytest.mark.parametrize("schedule", ["streaming", "phased"])
def test_a_whole_step_over_the_real_sandbox_in_any_order(schedule: str) -> None:
    def policy(prompt: str, random) -> str:
        if "inputs and a hint" in prompt:
            return "\n".join([*(block("input", str(n)) for n in range(4)), block("message", "twice")])
        if prompt.startswith("Write a program"):
            return block("python", "def f(x): return x + x") + block("input", "5")
        return right_answer(prompt) if random.random() < 0.5 else block("output", "0")

    def step(order) -> tuple[list, dict, dict]:
        stage = make_azr(prompts_per_task=3, samples_per_proposal=6, solve_from_buffer=1)
        with Sandbox(SandboxConfig()) as sandbox:
            judge = AzrJudge(stage.azr, stage.templates, sandbox)
            engine = PolicyEngine(policy, order, collective=False)
            made = collect(
                stage,
                stage.begin(0, []),
                engine,
                BoxVerifier(),
                decode,
                SAMPLING,
                7,
                judges={"azr": judge},
                schedule=schedule,
            )
        return made.groups, made.counters, stage.state_dict()

    first, last = step(lambda waiting: 0), step(lambda waiting: waiting - 1)
    assert first == last
    groups, counters, state = first
    assert counters["valid/deduction"] == counters["valid/abduction"] == 3
    assert counters["valid/induction"] == 3
    rates = {counters[f"solve_rate/solve_{name}"] for name in ("deduction", "abduction")}
    assert all(0 < rate < 1 for rate in rates)
    assert len(state["deduction"]["exercises"]) == 2
    assert {len(group.rewards) for group in groups} == {1, 6}
