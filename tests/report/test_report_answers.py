"""Held-out answers in a real browser: before against after, by keyboard, on a phone, by address."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from math import sqrt
from pathlib import Path

import pytest
from hand_made import HOSTILE, answer_tokens_of, answered, write_evaluation, write_lines, write_run
from in_chromium import Opened, expect, needs_chromium

from fastsvs.config import SamplingPlan
from fastsvs.evaluate import Answered, figures
from fastsvs.files import read_jsonl
from fastsvs.report import write_report

pytestmark = needs_chromium

BEFORE = ["wwww", "cwww", "cccc", "ccww", "cwww"]
AFTER = ["cwww", "ccww", "wwww", "ccww", "cccc"]
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluations")
    folders = [
        write_evaluation(root / "base", 0.3, aime=BEFORE, maths=["cc"]),
        write_evaluation(root / "trained", 0.4, aime=AFTER, maths=["cw"]),
    ]
    return write_report(folders, root / "report.html", 1000)


def test_a_page_of_evaluations_alone(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    assert opened.text("h1") == "pass@1 on aime: base 30.0% and trained 40.0%"
    rows = [" ".join(row.split()) for row in opened.page.locator("#evaluated tbody tr").all_inner_texts()]
    assert [row.split()[:4] for row in rows] == [
        ["aime", "base", "5", "4"],
        ["aime", "trained", "5", "4"],
        ["maths", "base", "1", "2"],
        ["maths", "trained", "1", "2"],
    ]
    shown = [link.inner_text() for link in opened.page.locator("nav a").all() if link.is_visible()]
    assert shown == ["Result", "Held-out answers", "Configuration"]
    assert [opened.page.locator(f"#{name}").is_visible() for name in ("learning", "time", "problems")] == [False] * 3
    assert opened.requests == [report.absolute().as_uri()]


def test_the_difference_is_that_of_the_pairs(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    rows = [" ".join(row.split()) for row in opened.page.locator(".pair-table tbody tr").all_inner_texts()]
    gains = [after.count("c") / 4 - before.count("c") / 4 for before, after in zip(BEFORE, AFTER, strict=True)]
    mean, reach = statistics.mean(gains), 1.96 * statistics.stdev(gains) / sqrt(len(gains))
    said = " to ".join(f"{100 * end:+.1f}".replace("-", "−") for end in (mean - reach, mean + reach))
    assert rows[0] == f"pass@1 30.0% 25.0–35.0% 40.0% 35.0–45.0% {100 * mean:+.1f} {said}"
    assert rows[2] == "pass@8 60.0% 55.0–65.0% 70.0% 65.0–75.0% –"  # no problem has eight samples


def test_the_difference_of_the_majority_is_that_of_its_figures(visit: Callable[..., Opened], tmp_path: Path) -> None:
    folders = [write_evaluation(tmp_path / name, aime=each) for name, each in (("base", BEFORE), ("trained", AFTER))]
    plan = SamplingPlan(samples=4, k=(1, 3, 4))
    means = []
    for folder in folders:
        found = figures([Answered.from_row(row) for row in read_jsonl(folder / "aime.samples.jsonl")], plan)
        (folder / "aime.json").write_text(json.dumps(found))
        means.append({name: 100 * found[name]["mean"] for name in ("maj@3", "maj@4")})
    opened = visit(write_report(folders, tmp_path / "report.html", 1000))
    rows = [" ".join(row.split()).split() for row in opened.page.locator(".pair-table tbody tr").all_inner_texts()]
    differences = {row[0]: float(row[5].replace("−", "-")) for row in rows}
    assert set(differences) == {"pass@1", "pass@3", "pass@4", "maj@3", "maj@4"}
    for name in ("maj@3", "maj@4"):
        assert differences[name] == pytest.approx(means[1][name] - means[0][name], abs=0.051)
    assert differences["maj@3"] != differences["maj@4"]


def test_what_flipped_can_be_picked_out(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    buttons = opened.page.locator(".turns button").all_inner_texts()
    assert buttons == [
        *("newly solved 1", "solved more often 2", "as before 1", "no longer solved 1"),
    ]
    opened.page.get_by_role("button", name="no longer solved").click()
    assert opened.text("#answer-count") == "1 of 5 problems"
    row = opened.page.locator("#answer-list .row")
    assert " ".join(row.inner_text().split()).startswith("no longer solved set/2 4/4 → 0/4")
    row.click()
    opened.page.locator("#answer .answered").first.wait_for()
    assert opened.text("#answer .flow") == "No longer solved: 4/4 → 0/4"
    assert opened.text("#answer .answered h4") == "Before: base 4 of 4 correct"
    opened.page.locator("#answer .strip button").first.click()
    response = opened.page.locator("#answer .response")
    assert HOSTILE in response.inner_text()
    assert "Response 1: correct, 32 tokens" in response.inner_text()
    assert response.locator("math").count() == 1
    assert opened.page.locator("#answers :is(img, a, b b)").count() == 0
    opened.page.get_by_role("button", name="no longer solved").click()
    opened.page.locator("#answer-order").select_option("gained")
    assert "set/4" in opened.text("#answer-list .row")
    opened.page.locator("#answer-search").fill("set/3")
    assert opened.text("#answer-count") == "1 of 5 problems"


def test_another_pair_can_be_chosen(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    opened.page.locator("#answer-set").select_option("maths")
    expect(opened.page.locator("#answer-count")).to_have_text("1 of 1 problem")
    assert opened.page.locator(".turns button").all_inner_texts() == ["solved less often 1"]
    opened.page.locator("#answer-before").select_option("")
    expect(opened.page.locator(".turns button")).to_have_count(0)
    assert opened.page.locator(".pair-table thead th").all_inner_texts() == ["Figure", "Share"]


def test_a_single_evaluation_is_compared_with_nothing(visit: Callable[..., Opened], tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "base", aime=BEFORE, maths=AFTER)
    opened = visit(write_report([folder], None, 1000))
    assert opened.text("#answers-title") == "Held-out problems"
    for absent in ("#answers-intro", "#answer-before", "#answer-after", "#answer-order"):
        assert not opened.page.locator(absent).is_visible()
    assert opened.text(".pair-table caption").startswith("base: 5 problems.")
    two = [folder, write_evaluation(tmp_path / "tuned", aime=AFTER)]
    assert visit(write_report(two, tmp_path / "two.html", 9)).text("#answers-title").endswith(", before and after")


def test_answers_of_a_run_over_its_training(visit: Callable[..., Opened], tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for step, verdicts in ((0, "wwww"), (2, "cwww"), (4, "ccww")):
        write_lines(run / "evaluations" / f"step_{step}.samples.jsonl", [answered(0, verdicts)])
    opened = visit(write_report([run], None, 1000))
    assert opened.text("#answer-before option:checked") == "run, step 0"
    opened.page.locator("#answer-list .row").click()
    opened.page.locator(".over-steps").wait_for()
    assert opened.text(".over-steps") == "0.0% step 0 25.0% step 2 50.0% step 4"
    opened.page.locator("#answer-before").select_option(label="run, step 2")
    expect(opened.page.locator("#answer .answered h4").first).to_have_text("Before: run, step 21 of 4 correct")
    assert "Verdicts ✓✗✗✗; the page has no room" in opened.text("#answer .answered .note")


def test_by_keyboard(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    keyboard = opened.page.keyboard
    active = "document.activeElement.id"
    keyboard.press("/")
    assert opened.run(active) == "answer-search"
    keyboard.press("ArrowDown")
    assert opened.run(active) == "answer-list"
    keyboard.press("j")
    keyboard.press("Enter")
    expect(opened.page.locator("#answer")).to_be_focused()
    assert "#answer=aime%2F000001" in opened.page.url
    keyboard.press("Escape")
    assert opened.run(active) == "answer-list"


def test_an_address_opens_its_problem_or_says_that_it_is_not_here(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(f"{report.absolute().as_uri()}#answer=maths%2F000000")
    assert opened.text("#answer .trail") == "set/0 Copy address"
    assert opened.text("#answer-set option:checked") == "maths"
    gone = visit(f"{report.absolute().as_uri()}#answer=maths%2F000009")
    assert "This page has no held-out problem maths/000009" in gone.text("#answer")
    gone.run("location.hash = '#answer=aime%2F000003'")
    expect(gone.page.locator("#answer .trail")).to_contain_text("set/3")


@pytest.mark.parametrize("width", [390, 820])
def test_on_a_narrow_screen(visit: Callable[..., Opened], report: Path, width: int) -> None:
    opened = visit(report, viewport={"width": width, "height": 844}, has_touch=True)
    assert opened.run(FITS)
    opened.page.locator("#answer-list .row").first.tap()
    opened.page.locator("#answer .answered").first.wait_for()
    assert opened.run(FITS)
    back = opened.page.get_by_role("button", name="← Held-out problems")
    assert back.is_visible() == (width < 736)


def test_answers_token_by_token(visit: Callable[..., Opened], tmp_path: Path) -> None:
    """Tokens are coloured by log-prob as in the browser of problems; of the policy nothing is known."""
    folders = [write_evaluation(tmp_path / name, aime=each) for name, each in (("base", BEFORE), ("trained", AFTER))]
    for folder in folders:
        row = read_jsonl(folder / "aime.samples.jsonl")[3]
        write_lines(folder / "aime.tokens.jsonl", [answer_tokens_of(row)])
    opened = visit(write_report(folders, tmp_path / "report.html", 1000))
    opened.page.locator("#answers").get_by_label("with tokens").check()
    expect(opened.page.locator("#answer-count")).to_have_text("1 of 5 problems")
    opened.page.locator("#answer-list .row").click()
    after = opened.page.locator("#answer .answered").nth(1)
    expect(opened.page.locator("#answer .prompt")).to_have_count(2)
    after.locator(".strip button").first.click()
    after.get_by_label("Response as").select_option("logprob")
    tokens = after.locator(".tokens i")
    expect(tokens.first).to_be_visible()
    colours = [tokens.nth(place).evaluate("each => getComputedStyle(each).backgroundColor") for place in range(4)]
    assert colours[0] == colours[3] != colours[1] != colours[2]
    tokens.nth(1).hover()
    expect(after.locator(".readout")).to_contain_text("token 2 of")
    expect(after.locator(".readout")).to_contain_text("log-prob −2.000 of the engine")
    after.get_by_label("Response as").select_option("entropy")
    assert "no figures of the policy" in after.locator(".scales").inner_text()
    assert opened.page.locator("#answers :is(img, a, b b)").count() == 0
    opened.page.locator("#answers").get_by_label("with tokens").uncheck()
    opened.page.locator("#answer-list .row").first.click()
    expect(opened.page.locator("#answer .trail")).to_contain_text("set/0")
    assert opened.page.locator("#answer .prompt").count() == 0
