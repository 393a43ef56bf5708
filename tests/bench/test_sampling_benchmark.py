"""The benchmark of sampling options runs, and counts what the runs count."""

from __future__ import annotations

from pathlib import Path

import pytest
from whole_runs import ROOT

from bench import report
from bench.sampling.__main__ import main
from bench.sampling.figures import of_budget
from fastsvs.files import write_jsonl
from fastsvs.stored_run import StoredRun


def test_smoke_suite_leaves_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    main(["--suite", "smoke", "--out", str(tmp_path)])
    (file,) = tmp_path.iterdir()
    found = {(row.provider, row.metric): row for row in report.read(file)}
    asked = {provider: found[provider, "problems asked a step"].value for provider in ("refills 0", "refills 3")}
    assert asked["refills 0"] == 4
    assert 4 < asked["refills 3"] <= 16
    for provider in asked:
        learned = found[provider, "problems learned from a step"]
        assert 0 < learned.value <= learned.limit == 4
        ratio = found[provider, "problems asked for one learned from"].value
        assert ratio == pytest.approx(asked[provider] / learned.value)
    saved = found["first 4", "solutions of variants saved"].value
    assert (saved > 0) == (found["first 4", "variants stopped a step"].value > 0)
    assert ("first 4", "held-out pass@1 after training") not in found
    assert 0 < found["buffer 6", "length of an answer, last 5 steps"].value <= 24


def test_what_a_budget_would_have_saved_and_lost_is_told_from_plain_runs(tmp_path: Path) -> None:
    """One right answer of eight to the original: after four or six wrong answers to a variant it is stopped."""
    variants = ["wwwwwwww", "wwwwrwww", "rwrwrwrw"]
    rows = [
        {"key": "0", "kind": "original", "parent": None, "verdicts": ["correct"] + ["wrong"] * 7},
        {"key": "0/0", "kind": "synthesis", "parent": "0", "verdicts": []},
        *(
            {
                "key": f"0/0/{number}",
                "kind": "variant",
                "parent": "0/0",
                "verdicts": [{"r": "correct", "w": "wrong"}[answer] for answer in answers],
            }
            for number, answers in enumerate(variants)
        ),
    ]
    (tmp_path / "samples").mkdir()
    write_jsonl(tmp_path / "samples" / "step_1.jsonl", rows)
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": 1, "samples/variant": 24, "kept_groups/variant": 2}])
    write_jsonl(tmp_path / "summary.json", [{"after": {}}])
    found = {figure.metric: figure.value for figure in of_budget([StoredRun(tmp_path)])}
    assert found["responses sampled for a group learned from"] == 12
    for chance in ("0.5", "1"):
        assert found[f"first 4 and chance {chance}: solutions of variants saved"] == pytest.approx(8 / 24)
        assert found[f"first 4 and chance {chance}: informative groups lost"] == pytest.approx(1 / 2)
        assert found[f"first 6 and chance {chance}: solutions of variants saved"] == pytest.approx(2 / 24)
        assert found[f"first 6 and chance {chance}: informative groups lost"] == 0
    assert found["informative after 4 wrong answers, found"] == 0.5
    assert found["informative after 4 wrong answers, foreseen"] == pytest.approx(1 / 3)
    assert "informative after 4 right answers, found" not in found
