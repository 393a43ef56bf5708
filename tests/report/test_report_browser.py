"""The page in a real browser: drawn, filtered, read by keyboard, on a phone, in the dark, with 10,000 responses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hand_made import HOSTILE, evaluation, family, group, metrics, write_lines, write_run
from in_chromium import Opened, expect, figure, needs_chromium, plots

from fastsvs.files import append_jsonl, write_json
from fastsvs.report import write_report
from fastsvs.report.runs import Runs
from fastsvs.report.server import open_server

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """SvS at two seeds, one run of RLVR, one of fine-tuning."""
    root = tmp_path_factory.mktemp("runs")
    folders = [
        write_run(root / "svs3"),
        write_run(root / "svs4", run__seed=4),
        write_run(root / "rlvr", selfplay__stage="none"),
    ]
    write_json(folders[1] / "evaluations" / "step_4.json", evaluation(0.55))
    sft = root / "sft"
    write_lines(sft / "metrics.jsonl", [{"step": step, "loss": 2.0 / step, "time/step": 1.0} for step in (1, 2, 3)])
    (sft / "config.yaml").write_text("model: {path: m}\nrun: {seed: 0, steps: 3}\n")
    return [*folders, sft]


@pytest.fixture(scope="module")
def report(folders: list[Path]) -> Path:
    return write_report(folders, folders[0].parent / "report.html", 1000)


@pytest.fixture(scope="module")
def single(folders: list[Path]) -> Path:
    return write_report(folders[:1], folders[0].parent / "single.html", 1000)


def test_the_plan_is_a_section_of_its_own(visit: Callable[..., Opened], report: Path, tmp_path: Path) -> None:
    opened = visit(report)
    shown = opened.text("#plan")
    assert "on 2 x 8 h100. Lengths: assumed (as long as ever)." in shown
    assert "time/update 6 s 5 s +20%" in shown
    assert opened.page.locator("#plan caption").count() == 2  # of SvS at two seeds, and of RLVR
    assert "SvS, mean of 2 seeds on 2 x 8 h100" in shown
    (bare := write_run(tmp_path / "bare")).joinpath("plan.json").unlink()
    without = visit(write_report([bare], tmp_path / "bare.html", 10))
    assert not without.page.locator("#plan").is_visible()
    assert not without.page.locator('nav a[href="#plan"]').is_visible()


def test_what_is_spoiled_is_said_at_the_head(visit: Callable[..., Opened], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "environment.json").write_text(HOSTILE)
    for step in range(1, 4):
        (folder / "samples" / f"step_{step}.jsonl").write_text('{"responses": 1}\n{"responses": 2}\n')
    opened = visit(write_report([folder], tmp_path / "report.html", 1000))
    said = opened.text("#notices")
    assert said.startswith("Some of what these runs wrote is spoiled, and left out: ")
    assert f"{folder}/environment.json: not JSON" in said
    assert "found 1; mend or remove the line, and look at what wrote it (and 1 more in this file)" in said
    assert opened.page.locator("#notices li").count() == 4
    whole = visit(write_report([write_run(tmp_path / "whole")], tmp_path / "whole.html", 1000))
    assert not whole.page.locator("#notices").is_visible()


def test_the_numbers_of_the_files_stand_in_the_page(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    assert (
        opened.text("h1")
        == "Held-out pass@1: SvS from 30.0% to 50.0%, RLVR from 30.0% to 45.0% and SFT not evaluated yet"
    )
    rows = [" ".join(row.split()) for row in opened.page.locator("table.headline tbody tr").all_inner_texts()]
    assert rows[0] == "SvS mean of 2 seeds 4 30.0% → 50.0% 56.0% → 76.0% 60.0% → 80.0% 0.875 → 0.500 68 66 s"
    assert rows[1].startswith("svs3 4 30.0% → 45.0% 40.0–50.0%")
    assert rows[2].startswith("svs4 4 30.0% → 55.0% 50.0–60.0%")
    assert rows[3].startswith("RLVR rlvr 4 30.0% → 45.0% 40.0–50.0% 56.0% → 71.0% 70.0–80.0%")
    assert rows[4] == "SFT sft 3 of 3 – – – – → – – 3 s"
    assert opened.requests == [report.absolute().as_uri()]


def test_a_single_run_says_what_it_was(visit: Callable[..., Opened], single: Path, report: Path) -> None:
    opened = visit(single, permissions=["clipboard-read", "clipboard-write"])
    found = "Model models/tiny Hardware CPU, 2 threads a process Machines 2, with 8 × h100 each Command fastsvs train"
    assert opened.text("#facts") == f"{found} Copy"
    opened.page.get_by_role("button", name="Copy command").click()
    expect(opened.page.locator("#facts .copy")).to_have_text("Copied")
    assert opened.run("navigator.clipboard.readText()") == "fastsvs train"
    assert "rollout.engine" in opened.page.locator("table.settings tbody th").all_inner_texts()
    assert not opened.page.locator("#settings-all").is_visible()
    assert not visit(report).page.locator("#facts").is_visible()


def test_every_figure_is_drawn_with_its_series(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    # Two seeds are two thin lines and their mean; a single run is a line, of held-out figures with two edges.
    assert plots(opened, "held-out") == [("pass@1", 6, 3), ("pass@2", 6, 3), ("pass@8", 6, 3)]
    assert plots(opened, "pass-at-k") == [("pass@k", 4, 3)]
    assert plots(opened, "entropy") == [
        ("policy/entropy", 4, 4),
        ("policy/entropy/original", 4, 4),
        ("policy/entropy/variant", 4, 4),
    ]
    assert plots(opened, "responses") == [("kept_samples/*", 3, 4)] * 2
    assert plots(opened, "variants") == [("variants_*", 4, 4)] * 2
    assert plots(opened, "gradient") == [("policy/grad_norm", 4, 4), ("policy/loss", 1, 3)]
    assert plots(opened, "solved") == [("dynamics/solved/original", 5, 2)] * 2
    assert plots(opened, "experts") == [
        ("policy/experts/entropy", 4, 4),
        ("policy/experts/largest_share", 4, 4),
    ]
    by_layer = ["policy/experts/entropy", "policy/experts/largest_share"]
    assert plots(opened, "experts-by-layer") == [(name, 3, 4) for name in by_layer] * 2
    assert plots(opened, "token-entropy") == [("dynamics/entropy/all", 8, 2)]
    assert plots(opened, "entropy-at") == [("dynamics/entropy_at", 4, 10)]
    assert plots(opened, "time-split") == [("*", 5, 4), ("*", 5, 4), ("*", 1, 3)]
    opened.page.locator("#rest summary").click()
    opened.page.locator("#rest canvas").first.wait_for()
    assert "policy/surprise" in opened.run("[...document.querySelectorAll('#rest .plot')].map(e => e.dataset.name)")
    blank = opened.run(
        """[...document.querySelectorAll('canvas')].filter(canvas => {
            const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            return new Set(new Uint32Array(data.buffer)).size < 3;
        }).length"""
    )
    assert (opened.page.locator("canvas").count() > 25, blank) == (True, 0)


def test_long_runs_are_drawn_as_running_means(visit: Callable[..., Opened], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "long")
    write_lines(
        folder / "metrics.jsonl",
        [{"step": step, "policy/grad_norm": float(step % 2), "time/step": 1.0} for step in range(1, 601)],
    )
    opened = visit(write_report([folder], tmp_path / "long.html", 10))
    assert plots(opened, "gradient") == [("policy/grad_norm", 2, 600)]  # the steps, faint, under their mean
    shown = figure(opened, "gradient")
    assert shown.locator(".plot-title").first.inner_text() == "grad norm norm by steps, mean of 11 steps"
    assert shown.locator(".reading b").first.inner_text() == "0"  # the last step's own value, not the mean of its end


def test_figures_say_their_numbers(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    figure(opened, "gradient")
    assert "SvS 0.500" in figure(opened, "entropy").locator(".readout").first.inner_text()
    canvas = opened.page.locator("#figure-entropy .canvas").first
    assert canvas.get_attribute("aria-label") == "policy/entropy: step 4, SvS 0.500, RLVR 0.500"
    box = canvas.locator(".u-over").bounding_box()
    opened.page.mouse.move(box["x"] + 2, box["y"] + 20)
    assert opened.text("#figure-entropy .readout").startswith("step 1 SvS 0.875")
    assert opened.text("#figure-gradient .readout").startswith("step 1 SvS 0.5")  # the crosshair is one
    split = figure(opened, "time-split").locator(".readout").first.inner_text()
    assert " ".join(split.split()) == "step 4 sync 1 s rollout 8 s verification 2 s update 5 s rest 0.5 s"
    solved = figure(opened, "solved").locator(".readout").first.inner_text()
    assert " ".join(solved.split()) == "step 4 0 correct 5 1 correct 4 2 correct 3 3 correct 2"
    load = figure(opened, "experts-by-layer").locator(".readout").nth(1).inner_text()
    assert " ".join(load.split()) == "step 4 layer 0 50.0% layer 1 43.8% layer 2 37.5%"
    assert opened.text("#figure-clipping .note") == "Zero throughout: low."


def test_an_experiment_can_be_taken_out(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    assert plots(opened, "solve-rate")[0][1] == 4
    opened.page.get_by_role("button", name="SvS").click()
    assert plots(opened, "solve-rate")[0][1] == 1
    opened.page.get_by_role("button", name="SvS").click()
    assert plots(opened, "solve-rate")[0][1] == 4


def test_configurations_are_compared(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    keys = opened.page.locator("table.settings tbody th")
    assert "selfplay.stage" in keys.all_inner_texts()
    assert "model.path" in keys.all_inner_texts()
    opened.page.locator("#settings-search").fill("torch")
    assert keys.all_inner_texts() == ["environment.packages.torch"]


def test_filter_and_search(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    count = lambda: opened.text("#count")  # noqa: E731
    assert count() == "36 of 36 problems"
    opened.page.get_by_role("button", name="variant", exact=True).click()
    assert count() == "12 of 36 problems"
    opened.page.locator("#run").select_option(label="rlvr")
    assert count() == "4 of 36 problems"
    opened.page.locator("#from").fill("2")
    opened.page.locator("#to").fill("3")
    assert count() == "2 of 36 problems"
    opened.page.locator("#reward").select_option("positive")
    assert count() == "2 of 36 problems"
    opened.page.locator("#trained").select_option("true")
    assert count() == "0 of 36 problems"
    opened.page.locator("#trained").select_option("false")
    opened.page.locator("#outcome").select_option("mixed")
    assert count() == "2 of 36 problems"
    opened.page.locator("#outcome").select_option("unsolved")
    assert count() == "0 of 36 problems"
    opened.page.locator("#outcome").select_option("")
    opened.page.locator("#search").fill("GLOVES ounces")
    assert count() == "2 of 36 problems"
    opened.page.locator("#search").fill("hanging")
    assert count() == "0 of 36 problems"
    opened.page.get_by_role("button", name="variant", exact=True).click()
    opened.page.locator("#trained").select_option("")
    assert count() == "0 of 36 problems"
    opened.page.locator("#deep").check()
    expect(opened.page.locator("#count")).to_have_text("2 of 36 problems")


def test_a_family_from_the_original_to_the_solutions(visit: Callable[..., Opened], single: Path) -> None:
    opened = visit(single)
    opened.page.locator(".row").nth(2).click()
    family_view = opened.page.locator(".family")
    family_view.wait_for()
    assert opened.text(".flow") == "1 context → 2 problems written → 1 valid → 1 rewarded"
    assert opened.text(".family > .card > .tags") == "original 1 of 3 correct learned from"
    assert HOSTILE in family_view.locator(".question").first.inner_text()
    assert opened.page.locator(".family > .card > .strip button").all_inner_texts() == ["✗", "✓", "?", "✗"]
    assert opened.text(".context h4") == "Context: response 2, correct learned from"
    assert "Twice three is six." in opened.text(".context blockquote")
    copy, solved = opened.page.locator(".written > li").all()
    assert "rejected: a copy of the original" in copy.inner_text()
    assert [word in solved.inner_text() for word in ("reward 1", "1 of 2 correct", "discarded", "gloves")] == [True] * 4
    assert solved.locator("[data-focus]").count() == 1  # the variant is what was chosen
    formulas = solved.locator(".question math").count()
    assert formulas == 3
    assert opened.page.locator(".context blockquote math").count() == 2
    solved.locator(".strip button").nth(1).click()
    assert "Response 2: wrong, reward 0, 9 tokens" in solved.inner_text()
    first = opened.page.locator(".family > .card > .strip button").first
    first.click()
    assert first.get_attribute("aria-expanded") == "true"
    opened_text = opened.page.locator(".family > .card > .opened").first.inner_text()
    assert "cut at the token limit" in opened_text
    assert HOSTILE in opened_text
    assert (opened.page.title(), opened.page.locator("#browser :is(img, a, mglyph, b b)").count()) == (
        "SvS · FastSvS",
        0,
    )
    assert opened.requests == [single.absolute().as_uri()]


def test_by_keyboard(visit: Callable[..., Opened], single: Path) -> None:
    opened = visit(single)
    keyboard = opened.page.keyboard
    active = "document.activeElement.id || document.activeElement.dataset.group"
    keyboard.press("/")
    assert opened.run(active) == "search"
    keyboard.type("gloves")
    assert opened.text("#count") == "4 of 12 problems"
    keyboard.press("ArrowDown")
    assert opened.run(active) == "list"
    keyboard.press("j")
    keyboard.press("ArrowDown")
    keyboard.press("k")
    selected = opened.page.locator('[role=option][aria-selected="true"]')
    assert selected.get_attribute("aria-posinset") == "2"
    assert opened.page.locator("#list").get_attribute("aria-activedescendant") == selected.get_attribute("id")
    keyboard.press("Enter")
    expect(opened.page.locator('[data-group="0/2/000000/001/001"]')).to_be_focused()
    assert opened.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    keyboard.press("Escape")
    assert opened.run(active) == "list"
    assert "#problem=0%2F2%2F000000%2F001%2F001" in opened.page.url


def test_formulas_and_prices(visit: Callable[..., Opened], tmp_path: Path) -> None:
    texts = {
        "It costs $5 and $6.": 0,
        "It costs $5, and $x$ more.": 1,
        r"$ x = 3$, \(y\), \[z\], $$w$$ and \boxed{\frac{1}{2}}": 5,
        r"\begin{align*} a &= b \ c &= d \end{align*}": 1,
        r"A price of \$4, $\$4$ in formulas; \boxed{ never closed": 1,
        r"$\nosuchcommand{x}$ and $y$": 1,
        "\\[" * 5000: 0,
        "$" * 5000: 0,
    }
    folder = write_run(tmp_path / "run", steps=1)
    rows = [group(1, f"{number:06d}", "original", text, ["."]) for number, text in enumerate(texts)]
    write_lines(folder / "samples" / "step_1.jsonl", rows)
    opened = visit(write_report([folder], None, 100))
    opened.page.locator("#problems").scroll_into_view_if_needed()
    assert [row.locator("math").count() for row in opened.page.locator(".row .snippet").all()] == list(texts.values())
    assert opened.page.locator(".row").nth(5).locator("code").inner_text() == r"$\nosuchcommand{x}$"
    assert r"A price of \$4" in opened.page.locator(".row").nth(4).inner_text()


def test_an_address_opens_its_problem(visit: Callable[..., Opened], single: Path) -> None:
    opened = visit(f"{single.absolute().as_uri()}#problem=0%2F3%2F000000")
    opened.page.locator(".family").wait_for()
    assert "step 3" in opened.text(".trail")
    assert opened.page.locator("#browser .panes").bounding_box()["y"] < 900


def test_an_address_of_a_problem_that_is_not_here_says_so(visit: Callable[..., Opened], single: Path) -> None:
    opened = visit(f"{single.absolute().as_uri()}#problem=7%2F3%2F%3Cb%3E")
    assert "This page has no problem 7/3/<b>: another run's" in opened.text("#family")
    opened.run("location.hash = '#problem=0%2F3%2F000000'")
    expect(opened.page.locator(".trail")).to_contain_text("step 3")


def test_on_a_phone(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report, viewport={"width": 360, "height": 740}, has_touch=True, device_scale_factor=2)
    for name in ("held-out", "solved", "time-split"):
        figure(opened, name)
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert opened.run(fits)
    for table in ("#settings-table .scroll", "#plan-tables .scroll"):
        assert opened.run(f"(e => e.scrollWidth <= e.clientWidth)(document.querySelector('{table}'))"), table
    opened.page.locator(".row").first.tap()
    opened.page.get_by_role("button", name="← Problems").wait_for()
    assert opened.run(fits)
    assert opened.run("document.querySelector('#family').scrollWidth <= 360")
    opened.page.get_by_role("button", name="← Problems").tap()
    assert not opened.page.locator(".family").is_visible()


def test_no_page_is_wider_than_its_window(visit: Callable[..., Opened], report: Path) -> None:
    opened = visit(report)
    for width in (1440, 1000, 961, 900, 820, 737, 600, 390):
        opened.page.set_viewport_size({"width": width, "height": 900})
        assert opened.run("document.documentElement.scrollWidth") == width
        assert opened.run("(e => e.scrollWidth <= e.clientWidth)(document.querySelector('#plan-tables .scroll'))"), (
            width
        )


def test_light_and_dark(visit: Callable[..., Opened], single: Path) -> None:
    opened = visit(single, color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.body).color"
    colors = """(() => { const canvas = document.querySelector('#figure-gradient canvas');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return [...new Set(new Uint32Array(data.buffer))].map(pixel => pixel & 0xffffff); })()"""
    figure(opened, "gradient")
    dark = (opened.run(paper), opened.run(ink), opened.run(colors))
    opened.page.get_by_role("button", name="Light").click()
    figure(opened, "gradient")
    light = (opened.run(paper), opened.run(ink), opened.run(colors))
    assert (dark[0], light[0]) == ("rgb(22, 23, 26)", "rgb(252, 251, 248)")
    assert (dark[1], light[1]) == ("rgb(235, 232, 225)", "rgb(28, 27, 25)")
    dark_line, light_line = 0xB3B83F, 0x77730D  # little-endian
    assert [dark_line in dark[2], light_line in dark[2]] == [True, False]
    assert [dark_line in light[2], light_line in light[2]] == [False, True]


def test_printing_draws_everything_on_white(visit: Callable[..., Opened], single: Path) -> None:
    opened = visit(single, color_scheme="dark")
    opened.run("window.dispatchEvent(new Event('beforeprint'))")
    opened.page.emulate_media(media="print")
    assert opened.run("[...document.querySelectorAll('#learning .figure:not([hidden]) .plots:empty')].length") == 0
    assert opened.run("getComputedStyle(document.body).backgroundColor") == "rgb(252, 251, 248)"
    assert not opened.page.locator(".bar").is_visible()
    opened.run("window.dispatchEvent(new Event('afterprint'))")
    opened.page.emulate_media(media="screen")
    assert opened.run("getComputedStyle(document.body).backgroundColor") == "rgb(22, 23, 26)"


def test_ten_thousand_responses_keep_the_page_small(visit: Callable[..., Opened], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "large", steps=5)
    for step in range(1, 6):
        rows = [row for number in range(250) for row in family(step, f"{number:06d}")]
        write_lines(folder / "samples" / f"step_{step}.jsonl", rows)
    write_lines(folder / "metrics.jsonl", [metrics(step) | {"samples/original": 1996} for step in range(1, 6)])
    opened = visit(write_report([folder], None, 10_000))
    assert opened.text("#included") == "All 10,000 responses of 1 run."
    assert opened.text("#count") == "3,750 of 3,750 problems"
    nodes = "document.querySelectorAll('#browser *').length"
    before = opened.run(nodes)
    for place in (0.3, 0.7, 1.0):
        opened.run(
            f"document.querySelector('#list').scrollTop = {place} * document.querySelector('#list').scrollHeight"
        )
        assert opened.page.locator(".row").count() < 40
    opened.page.locator('.row[aria-posinset="3750"]').wait_for()
    opened.page.locator("#search").fill("gloves")
    assert opened.text("#count") == "1,250 of 3,750 problems"
    assert opened.page.locator(".row").count() < 40
    assert opened.run(nodes) < 2 * before < 4000


def test_a_live_page_follows_its_run(visit: Callable[..., Opened], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", run__steps=9)
    (folder / "summary.json").unlink()
    with open_server(Runs([folder], 1000), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        opened = visit(f"http://127.0.0.1:{server.server_address[1]}/")
        try:
            assert plots(opened, "gradient")[0][2] == 4
            assert "is at step 4 of 9" in opened.text("#standfirst")
            opened.page.locator("#search").fill("gloves")
            opened.page.locator(".row").nth(1).click()
            opened.page.locator(".family").wait_for()
            opened.page.locator(".strip button").first.click()
            opened.run("document.querySelector('#family').scrollTop = 40")
            scrolled = opened.run("[scrollY, document.querySelector('#family').scrollTop]")
            write_lines(folder / "samples" / "step_5.jsonl", family(5))
            append_jsonl(folder / "metrics.jsonl", metrics(5))
            expect(opened.page.locator("#count")).to_have_text("5 of 15 problems")
            assert "is at step 5 of 9" in opened.text("#standfirst")
            assert opened.page.locator("#search").input_value() == "gloves"
            assert opened.page.locator('[aria-selected="true"]').get_attribute("aria-posinset") == "2"
            assert "step 2" in opened.text(".trail")
            assert opened.page.locator(".response").count() == 1
            assert opened.run("[scrollY, document.querySelector('#family').scrollTop]") == scrolled
            figure(opened, "gradient")
            opened.page.locator("#figure-gradient .plot[data-points='5']").first.wait_for()
        finally:
            opened.page.close()
            server.shutdown()
            thread.join()


def test_the_tree_of_a_family_leads_to_its_parts(visit: Callable[..., Opened], single: Path) -> None:
    opened = visit(single)
    opened.page.locator(".row").first.click()
    tree = opened.page.locator(".tree button")
    said = [" ".join(each.inner_text().split()) for each in tree.all()]
    assert [said[0][:15], said[0][-10:]] == ["original: Let $", "1/3, 33.3%"]
    assert said[1] == "written from response 2 2 problems, 1 valid, 1 rewarded"
    assert [said[2][:19], said[2][-10:]] == ["variant 2: A pair of"[:19], "1/2, 50.0%"]
    assert tree.first.get_attribute("aria-current") == "true"
    tree.nth(2).focus()
    opened.page.keyboard.press("Enter")
    expect(opened.page.locator('[data-group="0/1/000000/001/001"]')).to_be_focused()
    assert opened.page.locator(".tree b").count() == 0  # what a policy wrote is text here too


def test_a_problem_is_followed_over_the_steps(visit: Callable[..., Opened], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for step, right in ((1, 0), (2, 1), (3, 4)):
        verdicts = ["correct"] * right + ["wrong"] * (4 - right)
        rows = [group(step, "000000", "original", "What is $1 + 1$?", ["."] * 4, verdicts=verdicts, problem="again")]
        write_lines(folder / "samples" / f"step_{step}.jsonl", rows)
    opened = visit(write_report([folder], None, 100))
    opened.page.locator("#search").fill("again")
    opened.page.locator(".row").nth(1).click()
    shown = opened.page.locator("#family .over-steps button")
    assert [" ".join(each.inner_text().split()) for each in shown.all()] == [
        *("0.0% step 1", "25.0% step 2", "100.0% step 3"),
    ]
    assert [each.get_attribute("aria-current") for each in shown.all()] == [None, "true", None]
    shown.nth(2).focus()
    opened.page.keyboard.press("Enter")
    expect(opened.page.locator(".trail")).to_contain_text("step 3")
    opened.page.locator("#search").fill("")
    opened.page.locator(".row", has_text="step 4").first.click()
    expect(opened.page.locator(".trail")).to_contain_text("step 4")
    assert opened.page.locator("#family .over-steps").count() == 0
