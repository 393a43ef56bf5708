"""What the kernel benchmark makes of its times: shares of the floors, verdicts on the targets, and the page."""

import json

import pytest

from bench.kernels import page, roofline
from bench.kernels.ceilings import Ceilings
from bench.kernels.suites import Case, Shape
from bench.kernels.targets import verdicts
from bench.report import Row


def test_floors_are_the_products_or_the_bytes():
    ceilings, shape = Ceilings(False), Shape("x", 100, 1000)
    assert ceilings.floor(Case("linear_policy_loss", shape, 10, ("both",)), "both", 2) is None
    ceilings.bandwidth, ceilings.products = 1e9, {"x": 1e9}
    product = 2 * 10 * 100 * 1000 / 1e9 * 1e3
    for operator, mode, expected in (
        ("linear_policy_loss", "both", 3 * product),
        ("linear_logprob_entropy", "forward", product),
        ("linear_logprob_entropy", "backward", 2 * product),
        ("linear_logprob_entropy", "both", 3 * product),
        ("logprob_entropy", "forward", 10 * 1000 * 2 / 1e9 * 1e3),
        ("logprob_entropy", "backward", 2 * 10 * 1000 * 2 / 1e9 * 1e3),
    ):
        assert ceilings.floor(Case(operator, shape, 10, (mode,)), mode, 2) == pytest.approx(expected)


def test_verdicts_compare_with_floor_and_best_peers(capsys):
    case = "linear_policy_loss/32B/8192"
    rows = [
        Row(case, "fastsvs", "both, median", 50.0, "ms", limit=45.0),
        Row(case, "fastsvs", "peak memory", 4.0, "GiB"),
        Row(case, "fastsvs, dX and dW", "both, median", 44.0, "ms", limit=45.0),
        Row(case, "fastsvs, dX and dW", "peak memory", 8.0, "GiB"),
        Row(case, "verl", "both, median", 90.0, "ms"),
        Row(case, "verl", "peak memory", 2.0, "GiB"),
        Row(case, "torch eager", "both, median", 55.0, "ms"),
        Row(case, "torch eager", "peak memory", 6.0, "GiB"),
    ]
    found = {(row.provider, row.metric): row.value for row in verdicts(rows)}
    assert found["fastsvs", f"{case}, both: of the floor"] == pytest.approx(90)
    assert found["fastsvs", f"{case}: speed over torch eager"] == pytest.approx(1.1)
    assert found["fastsvs", f"{case}: memory of torch eager over ours"] == pytest.approx(1.5)
    assert found["fastsvs", f"{case}: speed over verl"] == pytest.approx(1.8)
    assert found["fastsvs", f"{case}: memory of verl over ours"] == pytest.approx(0.5)
    assert found["fastsvs, dX and dW", f"{case}: speed over torch eager"] == pytest.approx(1.25)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["PASS", "PASS", "BELOW", "PASS", "PASS", "BELOW", "PASS", "BELOW"]
    assert ("fastsvs, dX and dW", f"{case}: speed over verl") not in found  # torch eager needs no more memory either


def test_times_are_held_to_the_aims_in_milliseconds(capsys):
    times = {
        ("linear_logprob_entropy", "fastsvs"): 64.0,
        ("linear_policy_loss", "fastsvs"): 58.0,
        ("linear_policy_loss", "fastsvs, exact=False"): 40.0,
        ("linear_policy_loss", "torch eager"): 90.0,
    }
    rows = [Row(f"{operator}/32B/8192", whose, "both, median", ms, "ms") for (operator, whose), ms in times.items()]
    rows += [Row("linear_policy_loss/32B/8192", whose, "peak memory", 4.0, "GiB") for _, whose in list(times)[1:]]
    found = {row.metric: row.value for row in verdicts(rows) if "ms over ours" in row.metric}
    assert found == {
        "linear_logprob_entropy/32B/8192: 60 ms over ours": pytest.approx(60 / 64),
        "linear_policy_loss/32B/8192: 58.3 ms over ours": pytest.approx(58.3 / 58),
        "linear_policy_loss/32B/8192: 45 ms over ours": pytest.approx(45 / 40),
    }
    assert not any("exact=False" in row.provider and "speed" in row.metric for row in verdicts(rows))


def test_the_page_counts_the_products_that_the_file_counted():
    case = {"case": "linear_logprob_entropy/3B/8", "provider": "fastsvs"}
    for products in (3, 4):
        rows = [
            case | {"metric": "forward, median", "value": 2.0, "limit": 1.5},
            case | {"metric": "both, median", "value": 9.0, "limit": 1.5 * products},
        ]
        assert page.products_of_logprobs(rows) == products
    assert page.products_of_logprobs([]) == 3


def test_the_page_shows_what_the_file_holds(tmp_path):
    out = tmp_path / "page.md"
    page.main(["--results", str(tmp_path), "--out", str(out)])
    assert "No GPU has run this suite yet" in out.read_text()
    ours, errors = {"case": "k/3B/8", "provider": "fastsvs"}, {"case": "k/3B/error, flat rows", "unit": "nats"}
    result = {
        "machine": "Some GPU",
        "date": "2026-01-02",
        "versions": {"torch": "2.11.0"},
        "commit": "abc",
        "command": "python -m bench.kernels",
        "rows": [
            {"case": "ceilings", "provider": "torch", "metric": "copy", "value": 4.25, "unit": "TB/s"},
            ours | {"metric": "both, median", "value": 2.0, "unit": "ms", "limit": 1.5, "note": "no dW"},
            ours | {"metric": "both, p20", "value": 1.9, "unit": "ms"},
            ours | {"metric": "both, p80", "value": 2.1, "unit": "ms"},
            ours | {"metric": "peak memory", "value": 3.25, "unit": "GiB"},
            ours | {"metric": "same bits twice", "value": 1.0, "unit": "yes/no"},
            ours
            | {"provider": "verl", "metric": "measured", "value": 0.0, "unit": "yes/no", "note": "absent: no verl"},
            errors | {"provider": "fastsvs", "metric": "log-prob, mean", "value": 1e-6},
            errors | {"provider": "torch eager", "metric": "log-prob, mean", "value": 9e-3},
            {"case": "targets", "provider": "fastsvs", "metric": "speed", "value": 1.2, "unit": "x", "limit": 1.15},
        ],
    }
    (tmp_path / "kernels-h200-some-gpu-2026-01-02.json").write_text(json.dumps(result))
    row = {"case": "simulated/tokens left out", "provider": "fastsvs, exact=False, tau=2^-9", "metric": "tokens"}
    without_gpu = {key: result[key] for key in ("date", "command")} | {"machine": "Some CPU"}
    without_gpu["rows"] = [row | {"value": 61.0, "unit": "%", "note": "simulated"}]
    (tmp_path / "kernels-simulated-some-cpu-2026-01-02.json").write_text(json.dumps(without_gpu))
    page.main(["--results", str(tmp_path), "--out", str(out)])
    text = out.read_text()
    assert "## Simulated\n\nWithout a GPU: Some CPU" in text
    assert "| fastsvs, exact=False, tau=2^-9 | 61 |" in text
    assert "| torch | copy | 4.25 TB/s |  |" in text
    assert "a product is 2 x tokens x hidden x vocabulary FLOP" in text
    assert "| fastsvs | both | 2 [1.9, 2.1] | 75% | 3.25 |  | yes | no dW |" in text
    assert "verl: absent: no verl." in text
    assert "The locked set of this repository has torch 2." in text
    assert "liger-kernel==" in text
    assert "leave out the all-gather" in text
    assert "`fastsvs, dX and dW`, which makes both gradients" in text
    assert "| provider | log-prob, mean (nats) |" in text
    assert "| torch eager | 0.009 |" in text
    assert "| speed | fastsvs | 1.2 x | 1.15 | PASS |" in text
    assert text.index("Targets") < text.index("Ceilings")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("page.png", "page-roofline.png"))


def test_a_rate_is_its_roofs_share():
    rows = [
        {"case": "ceilings", "metric": "copy", "value": 4.0},
        {"case": "product/32B", "metric": "dX", "value": 700.0},
        {"case": "product/32B", "metric": "dW", "value": 800.0},
        {"case": "product/32B-TP2", "metric": "dW", "value": 900.0},
        {"case": "linear_policy_loss/32B/8192", "metric": "both, median", "value": 60.0, "limit": 48.0},
        {"case": "linear_policy_loss/32B-TP2/8192", "metric": "both, median", "value": 60.0, "limit": 48.0},
        {"case": "linear_policy_loss/32B/8192", "metric": "both, p20", "value": 60.0},
        {"case": "logprob_entropy/3B/2048", "metric": "forward, median", "value": 2.0, "limit": 1.5},
    ]
    rows = [{"provider": "fastsvs"} | row for row in rows]
    for operator, shape, tokens, mode, rate in (
        ("linear_policy_loss", "32B", 8192, "both", 640.0),
        ("logprob_entropy", "3B", 2048, "forward", 3.0),
    ):
        roofs = roofline.roofs_of(operator, rows)
        assert list(roofline.points(operator, rows, roofs)) == [roofline.Point(shape, tokens, mode, "fastsvs", rate)]
