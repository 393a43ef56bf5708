"""The kernel benchmark runs, its providers do the same work, and its page comes from its JSON."""

import inspect
import json

import pytest
import torch

from bench.kernels import __main__ as command
from bench.kernels import page
from bench.kernels.inputs import make
from bench.kernels.measure import differentiate
from bench.kernels.providers import AbsentError, providers, trl, verl
from bench.kernels.suites import SUITES, Case
from bench.kernels.targets import verdicts
from bench.report import Row

SAME = {"torch eager", "Liger scaled CE", "fastsvs", "fastsvs, own dW buffer", "fastsvs, in place"}
"""Providers of all of the work, on a CPU."""


def test_smoke_leaves_every_kind_of_row(tmp_path, capsys):
    command.main(["--suite", "smoke", "--out", str(tmp_path)])
    (file,) = tmp_path.glob("kernels-smoke-*.json")
    rows = json.loads(file.read_text())["rows"]
    assert {row["case"] for row in rows} >= {case.name for case in SUITES["smoke"].cases}
    assert {row["provider"] for row in rows} >= {"fastsvs", "torch eager"}
    ours = [row for row in rows if row["provider"].startswith("fastsvs") and row["metric"] == "same bits twice"]
    assert ours
    assert all(row["value"] == 1 for row in ours)
    assert "say nothing about speed on a GPU" in capsys.readouterr().out


def test_a_gpu_suite_without_a_gpu_says_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="sees none here"):
        command.main(["--suite", "h200", "--out", str(tmp_path)])


@pytest.mark.parametrize("case", SUITES["smoke"].cases, ids=lambda case: case.operator)
def test_providers_of_the_same_work_agree(case: Case):
    results = {}
    for provider in providers(case, gpu=False):
        if provider.name not in SAME:
            continue
        try:
            work = provider.prepare()
        except (AbsentError, ImportError):
            continue
        inputs = make(case, torch.device("cpu"), torch.float32)
        outputs = work(inputs)
        results[provider.name] = [*outputs, *differentiate(outputs, inputs)]
    expected = results.pop("torch eager")
    assert "fastsvs" in results
    for name, found in results.items():
        for ours, theirs in zip(found, expected, strict=False):  # into a buffer there is no gradient of the weight
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-4, msg=name)


def test_peers_that_need_a_gpu_still_have_the_signatures_we_call():
    found = 0
    for load, bind in (
        (lambda: verl.load().LinearCrossEntropy.forward, lambda call: call.bind(None, 1, 2, 3, 1.0, "none", None)),
        (lambda: trl.load().selective_log_softmax_and_entropy, lambda call: call.bind(1, 2)),
    ):
        try:
            bind(inspect.signature(load()))
        except (AbsentError, ImportError):
            continue
        found += 1
    if not found:
        pytest.skip("no peer is installed (python -m bench.kernels.peers)")


def test_verdicts_compare_with_floor_and_best_peer(capsys):
    case = "linear_policy_loss/32B/8192"
    rows = [
        Row(case, "fastsvs", "both, median", 50.0, "ms", limit=45.0),
        Row(case, "fastsvs", "peak memory", 4.0, "GiB"),
        Row(case, "verl", "both, median", 90.0, "ms"),
        Row(case, "torch eager", "both, median", 55.0, "ms"),
        Row(case, "torch eager", "peak memory", 3.0, "GiB"),
    ]
    found = {row.metric: row.value for row in verdicts(rows)}
    assert found[f"{case}, both: of the floor"] == pytest.approx(90)
    assert found[f"{case}: speed over torch eager"] == pytest.approx(1.1)
    assert found[f"{case}: memory of torch eager over ours"] == pytest.approx(0.75)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["PASS", "BELOW", "BELOW"]


def test_the_page_shows_what_the_file_holds(tmp_path):
    out = tmp_path / "page.md"
    page.main(["--results", str(tmp_path), "--out", str(out)])
    assert "No GPU has run this suite yet" in out.read_text()
    row = {"case": "k/3B/8", "provider": "fastsvs"}
    result = {
        "machine": "Some GPU",
        "date": "2026-01-02",
        "versions": {"torch": "2.11.0"},
        "commit": "abc",
        "command": "python -m bench.kernels",
        "rows": [
            row | {"metric": "both, median", "value": 2.0, "unit": "ms", "limit": 1.5},
            row | {"metric": "peak memory", "value": 3.25, "unit": "GiB"},
        ],
    }
    (tmp_path / "kernels-h200-some-gpu-2026-01-02.json").write_text(json.dumps(result))
    page.main(["--results", str(tmp_path), "--out", str(out)])
    text = out.read_text()
    assert "| fastsvs | both, median | 2 ms | 1.5 | 75% |" in text
    assert "| fastsvs | peak memory | 3.25 GiB |" in text
    assert (tmp_path / "page.png").stat().st_size > 1000
