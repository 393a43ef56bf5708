"""Nothing of a row is dropped in silence: named columns, system messages, inputs, replies; each with the key that
decides."""

import json
from pathlib import Path

import pytest
from chat_templates import DEAF
from chats import chat

from fastsvs.config import DataConfig, SftDataConfig, TrainJob, load
from fastsvs.data import (
    Problem,
    encode_problems,
    load_dialogues,
    load_problems,
    load_tokenizer,
    messages_of,
    read_inputs,
)
from fastsvs.errors import UserError
from fastsvs.selfplay import SYNTHESIS, Group, Task
from fastsvs.training.preflight import build_stage

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "models" / "tiny")
CASES = ROOT.parent / "shared" / "cases" / "data"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the collected cases are not here")

CHAT = [{"role": "system", "content": "Think in French."}, {"role": "user", "content": "1+1?"}]


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def answers(path: str, **keys: object) -> list[str]:
    return [problem.answer for problem in load_problems(DataConfig(path=path, **keys))[0]]


@pytest.mark.parametrize("column", ["solution", "rationale", "response", "completion", "output"])
def test_a_column_that_the_user_names_is_the_answer(tmp_path: Path, column: str) -> None:
    values = ["$x + 1$", "They are \\boxed{8}.", "x = 3", "so it is seven", "so\n#### 12", "A", 0.5]
    path = write(tmp_path / "x.jsonl", *({"prompt": f"q{n}", column: value} for n, value in enumerate(values)))
    wanted = ["x + 1", "8", "x = 3", "so it is seven", "12", "A", "0.5"]
    assert answers(path, answer_column=column) == wanted


def test_a_named_answer_leaves_another_column_to_be_the_solution(tmp_path: Path) -> None:
    row = {"problem": "q", "solution": "7", "rationale": "4 and 3", "answer": "wrong"}
    path = write(tmp_path / "x.jsonl", row)
    [problem], report = load_problems(DataConfig(path=path, answer_column="solution"))
    assert (problem.answer, problem.solution, problem.row) == ("7", "4 and 3", row)
    assert report.columns == ("x: question from 'problem', answer from 'solution'; not read: answer",)


def test_worked_solutions_without_a_mark_are_counted_with_the_key_that_takes_them(tmp_path: Path) -> None:
    values = ["$7$", "so \\boxed{8}", "1,234", "3/4", "it is seven", "$1$ and $2$", "x = 3"]
    path = write(tmp_path / "x.jsonl", *({"problem": f"q{n}", "solution": value} for n, value in enumerate(values)))
    problems, report = load_problems(DataConfig(path=path))
    assert [problem.answer for problem in problems] == ["7", "8", "1,234", "3/4"]
    assert (len(report.unmarked), report.left_out, report.rows) == (3, 3, 7)
    said = "3 rows whose solution ends in no \\boxed{} and no ####: left out (first: x/4, x/5, x/6)"
    assert any(said in line and "data.answer_column" in line for line in report.describe())


def test_rows_of_a_mixed_file_are_all_counted(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "solution": "$1$"}, {"prompt": CHAT, "solution": "\\boxed{2}"}]
    rows += [{"prompt": "c", "answer": "3"}, {"query": "d", "solution": "4"}]
    problems, report = load_problems(DataConfig(path=write(tmp_path / "x.jsonl", *rows), answer_column="solution"))
    assert [problem.answer for problem in problems] == ["1", "2"]
    assert "2 rows without a question or an answer: left out (first: x/2, x/3)" in "\n".join(report.describe())
    assert report.columns == ("x: question from 'prompt', answer from 'solution'; not read: answer, query",)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": CHAT, "answer": "2"},
        {"messages": [CHAT[0] | {"role": "system"}, CHAT[1]], "answer": "2"},
        {
            "conversations": [{"from": "system", "value": "Think in French."}, {"from": "human", "value": "1+1?"}],
            "gt": 2,
        },
        {"question": "1+1?", "answer": "2", "system": "Think in French."},
        {"question": "1+1?", "answer": "2", "System_Prompt": "Think in French."},
        {"prompt": CHAT, "reward_model": {"ground_truth": "2"}, "data_source": "x"},
    ],
)
def test_system_messages_of_a_data_set_are_sent(tmp_path: Path, row: dict) -> None:
    path = write(tmp_path / "x.jsonl", row)
    [problem], report = load_problems(DataConfig(path=path))
    assert (problem.question, problem.answer, problem.system) == ("1+1?", "2", "Think in French.")
    assert "1 rows bring a system message: it is sent" in report.notes
    config = DataConfig(path=path, suffix="")
    assert messages_of(problem.question, config, "train", problem.system) == CHAT
    merf = DataConfig(path=path, suffix="", prompt="merf", rules="Be right.")
    assert messages_of("1+1?", merf, "train", problem.system)[0]["content"] == "Think in French.\n\nBe right."


@pytest.mark.parametrize(("told", "sent"), [("Be brief.", ["Be brief."]), ("", [])])
def test_data_system_prompt_decides_over_them(tmp_path: Path, told: str, sent: list[str]) -> None:
    config = DataConfig(path=write(tmp_path / "x.jsonl", {"prompt": CHAT, "answer": "2"}), system_prompt=told)
    [problem], report = load_problems(config)
    messages = messages_of(problem.question, config, "train", problem.system)
    assert [turn["content"] for turn in messages if turn["role"] == "system"] == sent
    assert report.notes == ("1 rows bring a system message: data.system_prompt stands in its place",)


def test_the_same_question_under_another_system_message_is_another_problem(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "1", "system": system} for system in ("a", "b", "a")]
    _, report = load_problems(DataConfig(path=write(tmp_path / "x.jsonl", *rows)))
    assert (report.kept, report.duplicates) == (2, 1)


def test_a_system_column_of_something_else_is_no_message(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {"question": "q", "answer": "1", "system": 3})
    [problem], report = load_problems(DataConfig(path=path))
    assert problem.system is None
    assert report.columns[0].endswith("; not read: system")


def test_variants_of_a_problem_inherit_its_system_message_and_row(tmp_path: Path) -> None:
    job = load(TrainJob, ROOT / "configs" / "tiny_svs.yaml", ["data.suffix=", f"run.dir={tmp_path}"])
    tokenizer = load_tokenizer(TINY)
    stage = build_stage(job, tokenizer)
    problem = Problem("p", "1+1?", "2", system="Think in French.", row={"level": 3})
    synthesis = Task("0/0", SYNTHESIS, problem, (1,), 1, parent="0", parent_sample=0, judge=None)
    [task] = stage.expand(Group(synthesis, (), ("```text\nTom has 1 pen and gets 1 more. How many?\n```",)))
    assert (task.problem.system, task.problem.row, task.problem.answer) == ("Think in French.", {"level": 3}, "2")
    assert "Think in French." in tokenizer.decode(task.prompt_ids)


@pytest.mark.parametrize(
    ("row", "question"),
    [
        ({"instruction": "Add.", "input": "2 and 3", "output": "5"}, "Add.\n2 and 3"),
        ({"instruction": "Add 2 and 3.", "input": "", "output": "5"}, "Add 2 and 3."),
        ({"Instruction": "Add.", "Input": "2 and 3", "answer": "5"}, "Add.\n2 and 3"),
        ({"input": "2 and 3", "output": "5"}, "2 and 3"),
    ],
)
def test_alpaca_s_input_is_a_part_of_the_question(tmp_path: Path, row: dict, question: str) -> None:
    path = write(tmp_path / "x.jsonl", row, {**row, **{key: "" for key in row if key.lower() == "input"}})
    problems, _ = load_problems(DataConfig(path=path, deduplicate=False))
    assert (problems[0].question, problems[0].answer) == (question, "5")
    if "instruction" in row:
        dialogues, _ = load_dialogues(SftDataConfig(path=path))
        assert dialogues[0] == chat(question, "5")
        named = load_problems(DataConfig(path=path, question_column="instruction"))[0]
        assert named[0].question == question


def test_a_system_column_goes_before_dialogues(tmp_path: Path) -> None:
    rows = [
        {"system": "Be brief.", "instruction": "Add.", "input": "2 and 3", "output": "5"},
        {"system": "", "instruction": "Add.", "input": "2 and 3", "output": "5"},
    ]
    dialogues, report = load_dialogues(SftDataConfig(path=write(tmp_path / "x.jsonl", *rows)))
    assert dialogues == [chat("Add.\n2 and 3", "5", system="Be brief."), chat("Add.\n2 and 3", "5")]
    assert report.columns == ("x: from 'system', 'instruction', 'input', 'output'",)
    rows = [{"system": "Be brief.", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}]
    rows += [{"system": "Be brief.", "conversations": [*CHAT, {"role": "assistant", "content": "2"}]}]
    dialogues, _ = load_dialogues(SftDataConfig(path=write(tmp_path / "y.jsonl", *rows)))
    assert dialogues == [chat("q", "a", system="Be brief."), chat("1+1?", "2", system="Think in French.")]


def test_an_assistant_s_turn_after_the_question_is_kept_and_said(tmp_path: Path) -> None:
    row = {"messages": [*CHAT, {"role": "assistant", "content": "It is 2."}], "answer": "2"}
    [problem], report = load_problems(DataConfig(path=write(tmp_path / "x.jsonl", row)))
    assert problem.solution == "It is 2."
    assert "1 chats go on with an assistant's turn: it is not sent, but kept as solution" in report.notes


def test_what_else_a_turn_holds_is_kept_or_said(tmp_path: Path) -> None:
    said = {"role": "assistant", "content": "2", "reasoning_content": "1+1", "weight": 0, "name": None}
    path = write(tmp_path / "x.jsonl", {"messages": [*CHAT, said], "answer": "2"})
    [dialogue], report = load_dialogues(SftDataConfig(path=path))
    assert dialogue.messages[-1] == {"role": "assistant", "content": "2", "reasoning_content": "1+1"}
    assert report.notes == ("chat turns hold weight as well: not read",)
    assert "chat turns hold weight as well: not read" in load_problems(DataConfig(path=path))[1].notes


def test_a_completion_that_is_a_whole_chat_stands_alone(tmp_path: Path) -> None:
    whole = [*CHAT, {"role": "assistant", "content": "2"}]
    for completion in (whole, whole[2:]):
        path = write(tmp_path / "x.jsonl", {"prompt": CHAT, "chosen": completion})
        assert load_dialogues(SftDataConfig(path=path))[0] == [chat("1+1?", "2", system="Think in French.")]


@pytest.mark.parametrize(
    "roles", [("tool", "user"), ("assistant", "user"), ("user", "tool"), ("user", "assistant") * 2]
)
def test_other_turns_are_refused(tmp_path: Path, roles: tuple[str, ...]) -> None:
    row = {"prompt": [{"role": role, "content": "x"} for role in roles], "answer": "2"}
    with pytest.raises(UserError, match=r"x\.jsonl row 0: the question is a chat (of|with)"):
        load_problems(DataConfig(path=write(tmp_path / "x.jsonl", row)))


def test_held_out_problems_have_a_split_of_their_own_and_an_overlap_is_said(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", *({"question": f"Tom has {n} pens.", "answer": n} for n in range(5)))
    write(tmp_path / "test.jsonl", *({"question": f"Tom has {n} pens.", "answer": n} for n in range(4, 7)))
    config = [f"data.path={tmp_path}", f"evaluation.path={tmp_path}", f"model.path={TINY}"]

    def facts(*more: str) -> tuple[int, str]:
        inputs = read_inputs(load(TrainJob, ROOT / "configs" / "tiny_rlvr.yaml", [*config, *more]))
        return len(inputs.held_out), "\n".join(inputs.facts)

    assert facts("evaluation.split=test")[0] == 3
    assert "warning: 1 of the 3 held-out problems are trained on too" in facts("evaluation.split=test")[1]
    assert "warning: 5 of the 5 held-out problems are trained on too" in facts()[1]
    with pytest.raises(UserError, match=r"^evaluation\.path: folder .* has no file of split=validation"):
        facts("evaluation.split=validation")


def test_a_prompt_counts_what_the_template_moved() -> None:
    tokenizer = load_tokenizer(TINY)
    tokenizer.chat_template = DEAF
    problems = [Problem("1", "1+1?", "2", system="Be brief."), Problem("2", "1+2?", "3")]
    _, report = encode_problems(problems, tokenizer, DataConfig(path="x"), "train")
    assert report.notes[0].startswith("1 system messages stand at the beginning of the user's")


@needs_cases
@pytest.mark.parametrize(
    ("name", "keys", "kept", "first"),
    [
        ("r6_trl.jsonl", {"answer_column": "solution"}, 7, "8"),
        ("r6_mixed.jsonl", {"answer_column": "solution"}, 8, "8"),
        ("r5_system.jsonl", {}, 8, "8"),
        ("d01_verl.parquet", {}, 6, "6"),
        ("s7_alpaca.jsonl", {"deduplicate": False}, 4, "5"),
        ("d08_splits", {}, 3, "6"),
        ("d08_splits", {"split": "test"}, 3, "60"),
        ("d13_float_sci.parquet", {}, 3, "0.00000000000000000016"),
        ("d23_nan.jsonl", {}, 1, "8"),
        ("u3_surrogate_answer.jsonl", {}, 1, "9"),
    ],
)
def test_the_collected_cases(name: str, keys: dict, kept: int, first: str) -> None:
    problems, report = load_problems(DataConfig(path=str(CASES / name), **keys))
    assert (len(problems), problems[0].answer) == (kept, first)
    assert report.rows == report.kept + report.left_out
