"""SELF's chains in the small world: what follows from what, what is kept, and what everything is called."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from selfplay_world import SAMPLING, BoxVerifier, PolicyEngine, answered, decode, encode, problem

from fastsvs.config import SelfConfig
from fastsvs.errors import UserError
from fastsvs.selfplay import Experience, Group, Task, collect, original_tasks
from fastsvs.selfplay.refinement import APPROVAL, FATES, FEEDBACK, REFINEMENT, SelfStage
from fastsvs.verify import Verdict


@pytest.fixture
def templates(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "feedback.txt").write_text("JUDGE {question} | {response}")
    (tmp_path / "refinement.txt").write_text("MEND {question} | {response} | {feedback}")
    return {name: str(tmp_path / f"{name.split('_')[0]}.txt") for name in ("feedback_template", "refinement_template")}


def policy(prompt: str, random: Random) -> str:
    """Answers with a number from 0 to 3, calls 2 and 3 good, mends by adding one."""
    number = re.findall(r"boxed\{(\d+)\}", prompt.split(" | ")[1])[0] if " | " in prompt else ""
    if prompt.startswith("JUDGE"):
        return "GOOD" if int(number) >= 2 else f"BAD {number}"
    if prompt.startswith("MEND"):
        assert prompt.endswith("| GOOD" if int(number) >= 2 else f"| BAD {number}")
        return f"\\boxed{{{int(number) + 1}}}"
    return f"work \\boxed{{{random.randrange(4)}}}"


def play(stage: SelfStage, samples: int = 6, problems: int = 3, order=lambda waiting: 0) -> Experience:
    asked = [(problem(number), encode(f"SOLVE {number}")) for number in range(problems)]
    tasks = original_tasks(asked, samples)
    return collect(stage, tasks, PolicyEngine(policy, order), BoxVerifier(), decode, SAMPLING, seed=1)


def groups_of(experience: Experience) -> list[Group]:
    return sorted([*experience.groups, *experience.discarded], key=lambda group: group.task.key)


def test_every_response_is_commented_mended_and_judged(templates) -> None:
    stage = SelfStage(SelfConfig(approval="^GOOD$", **templates), encode, 500)
    experience = play(stage)
    chains = stage.chains(groups_of(experience))
    assert len(chains) == 18
    for chain in chains:
        first = int(re.findall(r"\d+", chain.response)[0])
        assert chain.feedback == ("GOOD" if first >= 2 else f"BAD {first}")
        assert chain.refinement == f"\\boxed{{{first + 1}}}"
        assert chain.approval == ("GOOD" if first + 1 >= 2 else "BAD 1")
        right = chain.answer == str(first + 1)
        assert chain.refinement_verdict == (Verdict.CORRECT if right else Verdict.WRONG)
        assert chain.fate == ("disapproved" if first == 0 else "kept")
    assert 0 < len(experience.groups) == Counter(chain.fate for chain in chains)["kept"] < 18
    assert {group.task.kind for group in experience.groups} == {REFINEMENT}


def test_counters_say_what_was_kept_and_why_not(templates) -> None:
    stage = SelfStage(SelfConfig(approval="GOOD", **templates), encode, 500)
    experience = play(stage)
    chains, counters = stage.chains(groups_of(experience)), experience.counters
    assert {fate: counters[fate] for fate in FATES} == {
        fate: sum(chain.fate == fate for chain in chains) for fate in FATES
    }
    assert sum(counters[fate] for fate in FATES) == counters["samples/original"] == len(chains)
    kept = [chain for chain in chains if chain.fate == "kept"]
    assert counters["kept_right"] == sum(chain.refinement_verdict == "correct" for chain in kept) / len(kept)
    agree = [(chain.approval == "GOOD") == (chain.refinement_verdict == "correct") for chain in chains]
    assert counters["approval_accuracy"] == sum(agree) / len(agree)
    assert counters["solve_rate/refinement"] == sum(c.refinement_verdict == "correct" for c in chains) / len(chains)


@pytest.mark.parametrize("order", [lambda waiting: waiting - 1, lambda waiting: waiting // 2])
def test_the_order_of_generation_does_not_matter(templates, order) -> None:
    stage = SelfStage(SelfConfig(approval="GOOD", **templates), encode, 500)
    assert play(stage, order=order) == play(stage)


def test_chains_that_get_too_long_are_counted_where_they_end(templates) -> None:
    config = SelfConfig(approval="GOOD", **templates)
    lengths = dict.fromkeys((FEEDBACK, REFINEMENT, APPROVAL), 0)
    for group in groups_of(play(SelfStage(config, encode, 500), problems=1)):
        if group.task.kind in lengths:
            lengths[group.task.kind] = max(lengths[group.task.kind], len(group.task.prompt_ids))
    assert lengths[REFINEMENT] > lengths[FEEDBACK]
    stage = SelfStage(config, encode, lengths[FEEDBACK])
    experience = play(stage, problems=1)
    chains = stage.chains(groups_of(experience))
    assert {chain.fate for chain in chains} == {"too_long"}
    assert all(chain.feedback is not None and chain.refinement is None for chain in chains)
    assert experience.counters["too_long"] == len(chains)
    assert "kept_right" not in experience.counters


def test_a_cut_refinement_is_not_put_to_the_judge(templates) -> None:
    stage = SelfStage(SelfConfig(approval="GOOD", **templates), encode, 500)
    task = Task("000000/000/000", REFINEMENT, problem(), encode("MEND"), 1, parent="000000/000", parent_sample=0)
    group = answered(task, ["\\boxed{0}"], [Verdict.CORRECT])
    assert [child.kind for child in stage.expand(group)] == [APPROVAL]
    cut = Group(task, (group.rollouts[0].__class__((1,), (0.0,), "length", 1),), group.texts, group.verdicts)
    assert stage.expand(cut) == []
    assert (stage.ended(cut), stage.ended(group)) == (1, 0)


def test_the_chains_all_end_once(templates) -> None:
    stage = SelfStage(SelfConfig(approval="GOOD", **templates), encode, 45)
    groups = groups_of(play(stage))
    assert {group.task.kind for group in groups} != {"original"}
    assert sum(stage.ended(group) for group in groups) == len(stage.chains(groups))


def test_what_a_response_says_of_places_stays(templates) -> None:
    stage = SelfStage(SelfConfig(**templates), encode, 500)
    task = Task("000000", "original", problem(), encode("SOLVE"), 1)
    (child,) = stage.expand(answered(task, ["{question}{feedback}"], [Verdict.WRONG]))
    assert decode(child.prompt_ids) == "JUDGE What is 0 + 0? | {question}{feedback}"


def test_the_built_in_templates_serve_the_default_approval() -> None:
    stage = SelfStage(SelfConfig(), encode, 5000)
    task = Task("000000", "original", problem(), encode("SOLVE"), 1)
    (child,) = stage.expand(answered(task, ["so it is \\boxed{0}"], [Verdict.CORRECT]))
    prompt = decode(child.prompt_ids)
    assert "so it is \\boxed{0}" in prompt
    assert problem().question in prompt
    assert re.search(SelfConfig().approval, prompt)  # it asks for the mark that approves
    assert not re.search(SelfConfig().approval, "step 2 is wrong \\boxed{0}")


@pytest.mark.parametrize(
    ("text", "message"), [("{question} {response}", r"must contain \{feedback\}"), (None, "cannot be read")]
)
def test_templates_that_cannot_be_used_are_refused(templates, tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "bad.txt"
    if text:
        path.write_text(text)
    with pytest.raises(UserError, match=f"evolution.refinement_template: {path} {message}"):
        SelfStage(SelfConfig(**templates | {"refinement_template": str(path)}), encode, 500)
