"""The page of a pair of rows of the paper: from nothing, from a part and from all of it, with figures known by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from whole_runs import ROOT

from bench.experiments.page import UNREAD
from bench.reproduce.paper import main
from bench.reproduce.paper.measure import mean_gain
from fastsvs.config import EvalJob, TrainJob, dump, load
from fastsvs.files import write_json, write_jsonl

CONFIGS = ROOT / "configs" / "paper"
PAIR = "3b_math12k"
NINE = ("gsm8k", "math500", "minerva", "olympiadbench", "gaokao2023en", "amc23", "aime24", "aime25", "beyond_aime")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_evaluation(stem: str, correct: Mapping[str, Sequence[int]]) -> None:
    """Write the evaluation of a model with so many of four samples right, for each problem of each set."""
    job = load(EvalJob, CONFIGS / f"{stem}_eval.yaml")
    folder = Path(job.output)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump(job))
    for name, counts in correct.items():
        rows = [{"id": f"{n}", "verdicts": ["correct"] * c + ["wrong"] * (4 - c)} for n, c in enumerate(counts)]
        write_jsonl(folder / f"{name}.samples.jsonl", rows[:: -1 if "svs" in stem else 1])
    rates = {name: {"pass@1": {"mean": sum(counts) / 4 / len(counts)}} for name, counts in correct.items()}
    write_json(folder / "summary.json", {"sets": rates})


def write_run(stem: str, steps: int, **changes: object) -> None:
    job = load(TrainJob, CONFIGS / f"{stem}.yaml", [f"{key}={value}" for key, value in changes.items()])
    folder = Path(job.run.dir)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump(job))
    write_json(folder / "environment.json", {"gpus": ["H100"] * 8, "commit": "abcdef0123456789"})
    rows = [
        {"step": n, "samples/original": 2048, "time/step": 36.0, "policy/entropy": 1 / n} for n in range(1, steps + 1)
    ]
    write_jsonl(folder / "metrics.jsonl", rows)


def page(monkeypatch: pytest.MonkeyPatch, config: str = f"{PAIR}_svs") -> str:
    words = ["--paper", str(CONFIGS / f"{config}.yaml"), "--out", ".", "--page", "page.md"]
    monkeypatch.setattr(sys, "argv", ["bench.reproduce", *words])
    main()
    return Path("page.md").read_text()


def line(text: str, beginning: str) -> list[str]:
    [found] = [each for each in text.splitlines() if each.startswith(f"| {beginning} |")]
    return found.strip("| ").split(" | ")[1:]


def test_of_nothing_every_cell_is_named_with_its_command(monkeypatch) -> None:
    text = page(monkeypatch)
    assert line(text, "SvS, published")[-1] == "40.8"
    assert line(text, "SvS, here") == ["-"] * 10
    assert f"- SvS: not evaluated: {', '.join(NINE)}; `fastsvs eval {CONFIGS}/{PAIR}_svs_eval.yaml`" in text
    assert f"- base: not evaluated: {', '.join(NINE)}; `fastsvs eval {CONFIGS}/3b_base_eval.yaml`" in text
    assert f"- RLVR: 0 of 300 steps are trained; `torchrun ... -m fastsvs train {CONFIGS}/{PAIR}_rlvr.yaml`" in text


def test_of_all_of_it_nothing_is_missing(monkeypatch) -> None:
    """Whichever of the pair is named. SvS solves one sample of four more than RLVR, whatever the order of the files."""
    for stem, counts in (("3b_base", (0, 1)), (f"{PAIR}_rlvr", (1, 3)), (f"{PAIR}_svs", (2, 4))):
        write_evaluation(stem, dict.fromkeys(NINE, counts))
    for method in ("rlvr", "svs"):
        write_run(f"{PAIR}_{method}", 300)
    text = page(monkeypatch, f"{PAIR}_rlvr")
    assert line(text, "base, here") == ["12.5"] * 10
    assert line(text, "SvS, here") == ["75.0"] * 10
    assert line(text, "SvS over RLVR, here") == ["+25.0 [+25.0, +25.0]"] * 10
    assert line(text, "SvS over RLVR, published")[0] == "+2.5"
    assert line(text, "SvS") == ["300 of 300", "614,400", "3.0", "1.000 to 0.003", "H100", "abcdef012345"]
    assert "## What is missing\n\nNone." in text
    assert "## Departures from the configurations\n\nNone." in text
    [figures] = Path().glob("paper-3b_math12k-*.json")
    rows = {(r["case"], r["provider"], r["metric"]): r["value"] for r in json.loads(figures.read_text())["rows"]}
    assert rows["aime24", "fastsvs", "SvS pass@1"] == 0.75
    assert rows["aime24", "table2", "SvS pass@1"] == pytest.approx(0.105)
    assert rows["average", "bootstrap", "SvS - RLVR pass@1 low"] == 0.25


def test_of_a_part_there_is_no_average_and_departures_are_named(monkeypatch) -> None:
    some = dict.fromkeys(NINE[:3], (1, 2))
    for stem in ("3b_base", f"{PAIR}_rlvr", f"{PAIR}_svs"):
        write_evaluation(stem, some)
    write_run(f"{PAIR}_svs", 12, **{"run.prompts_per_step": 64, "rollout.server.tensor_parallel": 2})
    text = page(monkeypatch)
    assert line(text, "RLVR, here") == ["37.5"] * 3 + ["-"] * 7
    assert line(text, "SvS over RLVR, here") == ["+0.0 [+0.0, +0.0]"] * 3 + ["-"] * 7
    assert "- SvS: 12 of 300 steps are trained" in text
    departures = text.partition("## Departures from the configurations")[2].partition("##")[0]
    assert departures.strip() == "- SvS: run.prompts_per_step: 64 -> 256"


def test_a_reading_stays_with_its_figures(monkeypatch) -> None:
    text = page(monkeypatch)
    Path("page.md").write_text(text.replace(UNREAD, "Read by hand."))
    assert "Read by hand." in page(monkeypatch)


def test_a_gain_over_other_problems_is_refused(monkeypatch, capsys) -> None:
    write_evaluation(f"{PAIR}_svs", {"gsm8k": [4, 2]})
    write_evaluation(f"{PAIR}_rlvr", {"gsm8k": [4, 2, 1]})
    with pytest.raises(SystemExit) as refused:
        page(monkeypatch)
    assert refused.value.code == 2
    assert "gsm8k: runs/paper/3b_math12k_svs_eval has the answers to 2 problems" in capsys.readouterr().err


def test_a_configuration_of_no_row_is_refused(monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        page(monkeypatch, "3b_dapo17k_svs")
    assert "no published row has this configuration (known: 32b_dapo17k_rlvr, " in capsys.readouterr().err


def test_the_average_of_sets_weighs_them_alike() -> None:
    small, large = np.array([1.0, 0.0]), np.zeros(1000)
    gain = mean_gain([small, large])
    assert gain.value == 0.25
    assert (gain.low, gain.high) == (0.0, 0.5)
