import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from forking import Run
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3ForCausalLM

from bench.trainer import __main__ as command
from bench.trainer import attention
from bench.trainer.flops import PEAK_BF16, case_flop
from bench.trainer.shares import share_out
from bench.trainer.suites import MODELS, PUBLISHED, SUITES, Case
from fastsvs.architecture import read_architecture

CASES = [case for suite in SUITES.values() for case in suite.cases]


def run_benchmark(suite: str, out: Path) -> CompletedProcess[str]:
    return Run("--suite", suite, "--out", str(out), module="bench.trainer").completed(timeout=200)


def test_smoke_suite_leaves_a_report(tmp_path):
    result = run_benchmark("smoke", tmp_path)
    assert result.returncode == 0, result.stderr
    (file,) = tmp_path.iterdir()
    report = json.loads(file.read_text())
    assert set(report) == {"suite", "machine", "date", "versions", "commit", "command", "rows"}
    assert report["command"].startswith("python -m bench.trainer --suite smoke")
    for case in SUITES["smoke"].cases:
        ours = [row for row in report["rows"] if (row["case"], row["provider"]) == (case.name, case.provider)]
        rows = {row["metric"]: row["value"] for row in ours}
        assert next(row["note"] for row in ours if row["metric"] == "throughput") == "attention: sdpa"
        assert sum(value for name, value in rows.items() if name.startswith("share: ")) >= 99
        assert rows["throughput"] == pytest.approx(case.tokens / rows["update"])
        assert sum(value for name, value in rows.items() if name.startswith("update: ")) == pytest.approx(
            rows["update"]
        )
        assert case.name in result.stdout


def test_what_was_measured_before_it_was_ended_is_kept(tmp_path, monkeypatch, capsys):
    first, *_, second = SUITES["smoke"].cases
    measured = command.measure

    def ended_in_the_second(policy, case, repeats):
        if case == second:
            raise KeyboardInterrupt
        return measured(policy, case, repeats)

    monkeypatch.setattr(command, "measure", ended_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        command.main(["--suite", "smoke", "--out", str(tmp_path)])
    (file,) = tmp_path.iterdir()
    assert {row["case"] for row in json.loads(file.read_text())["rows"]} == {first.name}


def test_single_cases_can_be_asked_for(tmp_path, capsys):
    command.main(["--suite", "smoke", "--only", "tiny/2k/packed", "--out", str(tmp_path)])
    (file,) = tmp_path.iterdir()
    assert {row["case"] for row in json.loads(file.read_text())["rows"]} == {"tiny/2k/packed"}
    with pytest.raises(SystemExit):
        command.main(["--suite", "smoke", "--only", "tiny", "--out", str(tmp_path)])
    assert "the cases of this suite are tiny/1k/single, tiny/2k/packed" in capsys.readouterr().err


def test_attentions_are_measured_beside_each_other(tmp_path, capsys):
    attention.main(["--suite", "smoke", "--out", str(tmp_path)])
    (file,) = tmp_path.iterdir()
    rows = json.loads(file.read_text())["rows"]
    for case in attention.SUITES["smoke"].cases:
        found = {row["metric"]: row for row in rows if row["case"] == case.name}
        assert {"first call", "forward", "backward", "forward, rate", "backward, rate"} == set(found)
        assert {row["note"] for row in found.values()} == {"what the policy takes"}
    errors = [row["value"] for row in rows if row["metric"].startswith("error of ")]
    assert len(errors) == 4
    assert max(errors) < 1e-5
    printed = capsys.readouterr().out
    assert "flash_attention_3        absent: No module named 'flash_attn_interface'" in printed
    assert "sdpa is what the policy takes" in printed


def test_work_is_shared_out_by_the_names_of_kernels():
    pieces = [
        ("nvjet_sm90_tst_128x256", 0.0, 50.0),
        ("void flash_fwd_kernel<cutlass>", 60.0, 80.0),
        ("_rms_norm_forward_kernel", 75.0, 90.0),  # on another stream
        ("triton_new", 90.0, 99.0),
        ("triton_rare", 99.0, 100.0),
    ]
    assert share_out(pieces) == pytest.approx(
        {
            "matrix products": 0.5,
            "attention": 0.2,
            "norm": 0.15,
            "nothing": 0.1,
            "triton_new": 0.09,
            "other": 0.01,
        }
    )
    assert share_out([]) == {}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_suite_says_that_there_is_no_gpu(tmp_path):
    result = run_benchmark("h200", tmp_path / "none")
    assert result.returncode == 1
    assert "sees none here: nothing was measured" in result.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rows_are_full_of_whole_sequences(case):
    lengths = case.lengths()
    assert sum(lengths) == case.tokens
    assert min(lengths) > case.prompt_tokens


def test_flop_formula_counts_the_matrix_products():
    """Of Hugging Face's model, which computes the whole square of the attention scores."""
    case = Case("tiny", 192, "single")
    config = MODELS["tiny"]()
    config._attn_implementation = "eager"
    model = Qwen3ForCausalLM(config)
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.zeros(1, case.tokens, dtype=torch.int64), logits_to_keep=case.tokens - 1).logits.sum().backward()
    architecture = read_architecture(config)
    above_the_diagonal = 6 * architecture.layers * architecture.heads * architecture.head_dim * case.tokens**2
    assert counter.get_total_flops() == pytest.approx(case_flop(case, architecture) + above_the_diagonal, rel=1e-3)


@pytest.mark.parametrize("known", PUBLISHED, ids=lambda known: known.case)
def test_formula_gives_the_published_mfu(known):
    """prime-rl's MFU follows from its throughput with our formula: the two are comparable."""
    case = next(case for case in CASES if case.name == known.case)
    flop_per_token = case_flop(case, read_architecture(MODELS[case.model]())) / case.tokens
    throughput, mfu = known.values["throughput"][0], known.values["mfu"][0]
    assert 100 * throughput * flop_per_token / PEAK_BF16["H100"] == pytest.approx(mfu, rel=2e-3)
