"""Tokens of responses and rendered prompts: what of a run's files the page has, and how it shows them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hand_made import CONTEXT, HOSTILE, family, tokens_of, write_lines, write_run, write_tokens
from in_chromium import Opened, expect, needs_chromium

from fastsvs.report import families, tokens, write_report
from fastsvs.report.document import build
from fastsvs.report.families import choose
from fastsvs.report.folder import read_run
from fastsvs.report.runs import Runs
from fastsvs.report.server import open_server

FAMILIES = [f"{number:06d}" for number in range(20)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Twenty families at step 1, with the tokens of the last two."""
    folder = write_run(tmp_path / "run", steps=1)
    rows = [row for key in FAMILIES for row in family(1, key)]
    write_lines(folder / "samples" / "step_1.jsonl", rows)
    kept = [tokens_of(row) for row in rows if row["key"][:6] in FAMILIES[-2:]]
    write_lines(folder / "samples" / "step_1.tokens.jsonl", kept)
    write_lines(folder / "metrics.jsonl", [{"step": 1}])
    return folder


def test_families_with_tokens_come_first_where_not_all_fit(run: Path) -> None:
    (samples,), included = choose(read_run(run), 40)
    roots = [group["key"] for group in samples.groups if "/" not in group["key"]]
    assert len(roots) == 5
    assert set(FAMILIES[-2:]) < set(roots)
    assert samples.tokens.keys() == {group["key"] for group in samples.groups if group["logged"]}
    assert {key[:6] for key in samples.tokens} == set(FAMILIES[-2:])
    assert included.with_tokens == 16


def test_the_page_holds_no_more_tokens_than_it_has_room_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for row in family(1) if row["kind"] == "original"]
    families = [[tokens_of(row)] for row in rows * 3]
    size = tokens.tokens_of(families[0][0])
    assert [len(tokens.fitting(families, room)) for room in (0, size, 2 * size - 1, 2 * size, 9 * size)] == [
        1,
        1,
        1,
        2,
        3,
    ]
    assert tokens.fitting([], 0) == []
    monkeypatch.setattr("fastsvs.report.families.MOST_TOKENS", 1)
    assert choose(read_run(run), 1000)[1].with_tokens == 8


def test_one_more_step_is_read_without_those_before(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=5)
    write_tokens(folder)
    choose(read_run(folder), 1000)
    before = families._read_step.cache_info()
    write_lines(folder / "samples" / "step_6.jsonl", family(6))
    write_tokens(folder, 6)
    choose(read_run(folder), 1000)
    after = families._read_step.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (5, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"texts": [["a"], ["b"], ["c"], ["d"]]}, "not a figure for each token"),
        ({"entropies": [None, None]}, "not a figure for each token"),
        ({"prompt": 5}, "prompt: Input should be a valid string, found 5"),
        ({"engine_logprobs": "x"}, "engine_logprobs: Input should be a valid list"),
    ],
)
def test_rows_of_other_shapes_are_left_out(run: Path, change: dict[str, Any], said: str) -> None:
    rows = [tokens_of(row) | (change if not number else {}) for number, row in enumerate(family(1))]
    write_lines(run / "samples" / "step_1.tokens.jsonl", rows)
    document = build([run], 1000)
    (notice,) = document.head["runs"][0]["notices"]
    assert notice.startswith(f"{run}/samples/step_1.tokens.jsonl: group '000000': ")
    assert said in notice
    assert document.tokens[0, 1].keys() == {"000000/001", "000000/001/001"}


def test_a_live_page_gets_the_tokens_and_sees_them_change(run: Path) -> None:
    runs = Runs([run], 1000)
    document = runs.document()
    assert runs.answer("/data/tokens/0/1") is not None
    assert runs.answer("/data/tokens/0/2") is None
    (run / "samples" / "step_1.tokens.jsonl").unlink()
    assert runs.document() is not document
    assert runs.answer("/data/tokens/0/1") is None


@pytest.fixture
def page(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "page", steps=2)
    write_tokens(folder)
    return write_report([folder], tmp_path / "page.html", 1000)


def opened_response(opened: Opened, number: int) -> Any:
    """The element of a response of the family that is opened."""
    opened.page.locator(".family > .card > .strip button").nth(number).click()
    return opened.page.locator(".family > .card > .opened .response").last


def colours(opened: Opened) -> list[str]:
    return opened.run(
        "[...document.querySelectorAll('.opened .tokens i')].map(e => getComputedStyle(e).backgroundColor)"
    )


@needs_chromium
def test_tokens_are_coloured_by_the_chosen_figure(visit: Callable[..., Opened], page: Path) -> None:
    opened = visit(page)
    assert "Tokens of 8 are here, too." in opened.text("#included")
    opened.page.locator("#logged").check()
    assert opened.text("#count") == "3 of 6 problems"
    opened.page.locator(".row").first.click()
    response = opened_response(opened, 1)
    assert response.locator(".as-text math").count() == 2
    assert not response.locator(".tokens").is_visible()
    choice = response.get_by_label("Response as")
    labels = ["text", "tokens by log-prob", "tokens by entropy", "tokens by ratio"]
    assert choice.locator("option").all_inner_texts() == labels
    choice.select_option("logprob")
    expect(response.locator(".tokens")).to_be_visible()
    expect(response.locator(".tokens i")).to_have_count(12)
    assert not response.locator(".as-text").is_visible()
    assert response.locator(".tokens").inner_text().replace("↵", "").split() == (
        CONTEXT.replace("\\boxed{6}", "\\boxed{6}<|end|>").split()
    )
    by_logprob = colours(opened)
    assert by_logprob[0] == by_logprob[3] != by_logprob[1] != by_logprob[2]
    legend = [" ".join(each.split()) for each in response.locator("[data-scale=logprob] li").all_inner_texts()]
    assert legend == ["0", "−1", "−2", "−3", "−4 or less"]
    choice.select_option("entropy")
    assert len(set(colours(opened))) == 1
    choice.select_option("ratio")
    assert len(set(colours(opened))) == 1
    assert "over that under the engine" in response.locator(".scales").inner_text()
    unlearned = opened_response(opened, 0)
    assert unlearned.get_by_label("Response as").input_value() == "ratio", "one choice holds for all responses"
    assert "No update learned from this response" in unlearned.locator(".scales").inner_text()
    expect(unlearned.locator(".tokens i").first).to_have_css("background-color", "rgba(0, 0, 0, 0)")
    assert HOSTILE.split()[0] in unlearned.locator(".tokens").inner_text()
    assert (opened.page.title(), opened.page.locator("#browser :is(img, a, mglyph, b b)").count()) == (
        "SvS · FastSvS",
        0,
    )


@needs_chromium
def test_the_figures_of_a_token_by_pointer_and_by_keyboard(visit: Callable[..., Opened], page: Path) -> None:
    opened = visit(page)
    opened.page.locator(".row", has_text="original").first.click()
    response = opened_response(opened, 1)
    response.get_by_label("Response as").select_option("entropy")
    tokens = response.locator(".tokens i")
    tokens.nth(2).hover()
    said = "“ is”, token 3 of 12, log-prob −8.000 of the engine, −7.950 of the policy, ratio 1.051, entropy 0.500"
    expect(response.locator(".readout")).to_have_text(said)
    assert tokens.nth(2).get_attribute("title") == said
    response.get_by_label("Response as").focus()
    opened.page.keyboard.press("Tab")
    expect(response.locator(".tokens")).to_be_focused()
    opened.page.keyboard.press("Home")
    opened.page.keyboard.press("ArrowRight")
    expect(response.locator(".readout")).to_contain_text("“ three”, token 2 of 12, log-prob −2.000")
    opened.page.keyboard.press("End")
    expect(response.locator(".readout")).to_contain_text("“<|end|>”, token 12 of 12")
    opened.page.keyboard.press("ArrowRight")
    expect(response.locator(".readout")).to_contain_text("token 12 of 12")
    assert response.locator(".tokens i.at").count() == 1


@needs_chromium
def test_the_prompt_as_it_was_rendered(visit: Callable[..., Opened], page: Path) -> None:
    opened = visit(page)
    opened.page.locator(".row", has_text="original").first.click()
    prompt = opened.page.locator(".family > .card > .prompt")
    assert not prompt.locator("pre").is_visible()
    prompt.locator("summary").focus()
    opened.page.keyboard.press("Enter")
    row = family(1)[0]
    expect(prompt.locator("pre")).to_have_text(f"<|user|>{row['question']}<|assistant|>")
    assert opened.page.locator(".context > .prompt").count() == 1
    opened.page.locator("#logged").uncheck()
    opened.page.locator(".row", has_text="step 2").first.click()
    expect(opened.page.locator(".trail")).to_contain_text("step 2")
    assert opened.page.locator("#family :is(.prompt, .response-text)").count() == 0, "as of a run that kept none"


@needs_chromium
def test_responses_without_tokens_among_those_with_them_are_text(visit: Callable[..., Opened], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=1)
    rows = family(1)
    fewer = rows[0] | {"responses": rows[0]["responses"][:1]}
    write_lines(folder / "samples" / "step_1.tokens.jsonl", [tokens_of(fewer)])
    opened = visit(write_report([folder], tmp_path / "page.html", 1000))
    opened.page.locator(".row").first.click()
    assert [opened_response(opened, number).locator(".token-choice").count() for number in (0, 1)] == [1, 0]


@needs_chromium
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 820, 390])
def test_coloured_tokens_can_be_read_and_fit(visit: Callable[..., Opened], page: Path, width: int, theme: str) -> None:
    opened = visit(page, viewport={"width": width, "height": 900}, color_scheme=theme)
    opened.page.locator(".row", has_text="original").first.click()
    opened_response(opened, 1)
    response = opened_response(opened, 2)
    response.get_by_label("Response as").select_option("ratio")
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert opened.run(fits)
    assert opened.run("document.querySelector('#family').scrollWidth <= document.querySelector('#family').clientWidth")
    for scale in ("ratio", "logprob"):
        response.get_by_label("Response as").select_option(scale)
        response.locator(".tokens").scroll_into_view_if_needed()  # it is drawn when it comes into view
        expect(response.locator(".tokens i").first).to_be_visible()
        assert json.loads(opened.run(CONTRAST)) >= 4.5


@needs_chromium
def test_a_live_page_shows_tokens_when_they_come(visit: Callable[..., Opened], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=1)
    with open_server(Runs([folder], 1000), 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        opened = visit(f"http://127.0.0.1:{server.server_address[1]}/")
        try:
            opened.page.locator(".row").first.click()
            expect(opened.page.locator(".family .prompt")).to_have_count(0)
            write_tokens(folder)
            expect(opened.page.locator(".family > .card > .prompt")).to_have_count(1)
            expect(opened.page.locator("#included")).to_contain_text("Tokens of 8 are here, too.")
        finally:
            opened.page.close()
            server.shutdown()
            thread.join()


CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const painted = (...layers) => {
    layers.forEach((colour) => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); });
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
  const ground = getComputedStyle(document.body).backgroundColor;
  const swatches = [...document.querySelectorAll(".opened .tokens i, .scale li i")];
  const contrast = (element) => {
    const [high, low] = [
      light(painted(ground, getComputedStyle(element).backgroundColor)),
      light(painted(getComputedStyle(document.querySelector(".tokens")).color)),
    ].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  return JSON.stringify(Math.min(...swatches.map(contrast)));
})()"""
"""Smallest contrast (WCAG 2) of a token's text with its ground, over all tokens and all colours of the legends."""
