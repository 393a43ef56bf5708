"""Evaluations on the page: folders of `fastsvs eval`, and the held-out answers of runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hand_made import answer_tokens_of, answered, write, write_evaluation, write_lines, write_run

from fastsvs.cli import main
from fastsvs.report.document import build
from fastsvs.report.page import page
from fastsvs.report.runs import Runs


def test_evaluations_have_a_sheet_for_each_set(tmp_path: Path) -> None:
    before = write_evaluation(tmp_path / "before", 0.2, aime=["cw", "ww"], maths=["cc"])
    after = write_evaluation(tmp_path / "after", 0.4, aime=["cc", "cw"])
    document = build([before, after], 1000)
    facts = [(sheet["label"], sheet["set"], sheet["problems"], sheet["samples"]) for sheet in document.head["sheets"]]
    assert facts == [("before", "aime", 2, 2), ("before", "maths", 1, 2), ("after", "aime", 2, 2)]
    assert list(document.head["sheets"][2]["rates"]) == ["pass@1", "pass@2", "pass@8"]
    assert document.head["sheets"][2]["rates"]["pass@1"] == pytest.approx([0.4, 0.35, 0.45])
    assert [problem["verdicts"] for problem in document.answers[2].problems] == ["cc", "cw"]
    assert "<title>before and after · FastSvS</title>" in page(document)


def test_an_evaluation_that_goes_on_has_no_figures_yet(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "eval", aime=["cw"])
    (folder / "aime.json").unlink()
    [sheet] = build([folder], 10).head["sheets"]
    assert (sheet["problems"], sheet["rates"]) == (1, {})


def test_a_run_has_a_sheet_for_each_evaluation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for step, verdicts in ((0, "wwww"), (2, "cwww"), (4, "ccww")):
        write_lines(run / "evaluations" / f"step_{step}.samples.jsonl", [answered(0, verdicts)])
    document = build([run, write_evaluation(tmp_path / "eval", aime=["cw"])], 1000)
    assert [(sheet["step"], sheet["run"]) for sheet in document.head["sheets"]] == [
        *((0, 0), (2, 0), (4, 0)),
        (None, None),
    ]
    # Responses of the first and the newest evaluation are on the page; verdicts of all.
    assert [len(answers.blocks) for answers in document.answers] == [1, 0, 1, 1]
    assert [answers.problems[0]["verdicts"] for answers in document.answers] == ["wwww", "cwww", "ccww", "cw"]


@pytest.mark.parametrize("samples", [1, 7, 100, 399, 400, 5000])
def test_responses_keep_to_their_number_and_lie_evenly(tmp_path: Path, samples: int) -> None:
    folder = write_evaluation(tmp_path / "eval", aime=["cw"] * 200)
    document = build([folder], samples)
    [answers], [sheet] = document.answers, document.head["sheets"]
    with_texts = [index for index, problem in enumerate(answers.problems) if problem["block"] is not None]
    assert sheet["responses"] == sum(len(texts) for block in answers.blocks for texts in block.values())
    assert sheet["responses"] == min(400, samples // 2 * 2)
    assert (sheet["of_responses"], len(answers.problems)) == (400, 200)
    for problem in answers.problems:
        assert problem["block"] is None or len(answers.blocks[problem["block"]][problem["key"]]) == 2
    gaps = [after - before for before, after in zip([-1, *with_texts], [*with_texts, 200], strict=True)]
    assert max(gaps) <= 2 * 200 / (len(with_texts) + 1) + 2


def test_what_is_spoiled_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_evaluation(tmp_path / "eval", aime=["cw", "cc"])
    rows = [answered(0, "cw"), answered(1, "cc", tokens=["many"])]
    write_lines(folder / "aime.samples.jsonl", rows)
    write(folder / "environment.json", "nothing")
    assert main(["report", str(folder)]) == 0
    said = capsys.readouterr()
    assert said.out == f"report: {folder}/report.html\n"
    assert f"left out: {folder}/environment.json: not JSON" in said.err
    assert "group '000001': tokens.0" in said.err


def test_the_live_page_gives_answers_and_nothing_else(tmp_path: Path) -> None:
    runs = Runs([write_evaluation(tmp_path / "eval", aime=["cw"])], 10)
    found = runs.answer("/data/answers/0")
    assert found is not None
    assert runs.answer("/data/responses/0/0") is not None
    for path in (
        "answers/1",
        "answers/-1",
        "responses/0/1",
        "responses/1/0",
        f"responses/{'9' * 300}/0",
        "answers/0/0",
    ):
        assert runs.answer(f"/data/{path}") is None
    write_evaluation(tmp_path / "eval", aime=["cw", "cc"])
    again = runs.answer("/data/answers/0")
    assert again is not None
    assert again[1] != found[1]


def test_tokens_of_answers_come_with_their_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Problems whose tokens were kept come first where not all responses fit, and tokens have a room of their own."""
    folder = write_evaluation(tmp_path / "eval", aime=["cw"] * 200)
    kept = ["000037", "000111"]
    tokens = [answer_tokens_of(answered(int(key), "cw")) for key in kept]
    write_lines(folder / "aime.tokens.jsonl", tokens)
    [answers] = build([folder], 7).answers
    logged = {problem["key"]: problem["block"] for problem in answers.problems if problem["logged"]}
    assert logged.keys() == set(kept)
    for (key, block), row in zip(logged.items(), tokens, strict=True):
        assert answers.blocks[block][key] == answered(int(key), "cw")["responses"]
        assert answers.tokens[block][key] == {name: row[name] for name in row if name not in ("step", "key")}
    assert sum(problem["block"] is not None for problem in answers.problems) == 3
    monkeypatch.setattr("fastsvs.report.sheets.MOST_TOKENS", 1)
    [answers] = build([folder], 7).answers
    assert sum(problem["logged"] for problem in answers.problems) == 1


def test_of_a_run_the_first_and_the_newest_evaluation_bring_tokens(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    rows = [answered(0, "cw"), answered(1, "cc")]
    for step in (0, 2, 4):
        write_lines(run / "evaluations" / f"step_{step}.samples.jsonl", rows)
        write_lines(run / "evaluations" / f"step_{step}.tokens.jsonl", [answer_tokens_of(rows[1])])
    document = build([run], 1000)
    assert [answers.problems[1]["logged"] for answers in document.answers] == [True, False, True]
    assert [len(answers.tokens) for answers in document.answers] == [1, 0, 1]


def test_the_live_page_sees_tokens_of_answers_change(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "eval", aime=["cw"])
    runs = Runs([folder], 10)
    before = runs.answer("/data/response_tokens/0/0")
    write_lines(folder / "aime.tokens.jsonl", [answer_tokens_of(answered(0, "cw"))])
    assert runs.answer("/data/response_tokens/0/0") != before
    spoiled = {**answer_tokens_of(answered(0, "cw")), "texts": []}
    write_lines(folder / "aime.tokens.jsonl", [spoiled])
    [notice] = runs.document().notices()
    assert "aime.tokens.jsonl: group '000000': " in notice
