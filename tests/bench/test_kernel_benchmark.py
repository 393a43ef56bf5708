"""The kernel benchmark runs, and its providers do the same work."""

import inspect
import json
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from bench.kernels import __main__ as command
from bench.kernels import cases, checks, measure, peers, simulated, small
from bench.kernels.budget import PASSES_BEFORE, UNKNOWN_OVERHEAD, Budget
from bench.kernels.ceilings import Ceilings
from bench.kernels.inputs import make
from bench.kernels.measure import NO_ROOM, Contender, attempt, differentiate
from bench.kernels.parts import parts
from bench.kernels.providers import Provider, providers, trl, verl
from bench.kernels.providers.fastsvs import PART
from bench.kernels.suites import SUITES, Case, Shape
from bench.kernels.targets import complete_peers
from bench.report import Row
from fastsvs.environment import describe_environment

ROOT = Path(__file__).parents[2]


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
    inputs = make(case, torch.device("cpu"), torch.float32)
    results = {}
    for provider in providers(case, gpu=False):
        if provider.complete or provider.name.startswith("fastsvs"):
            fresh = make(case, torch.device("cpu"), torch.float32) if provider.overwrites else inputs
            found, _ = attempt(provider.name, lambda work=provider.prepare, fresh=fresh: _results(work(), fresh))
            results[provider.name] = found
    expected = results.pop("torch eager")
    assert results["fastsvs"] is not None
    for name, found in results.items():
        for ours, theirs in zip(
            found or (), expected, strict=False
        ):  # into a buffer there is no gradient of the weight
            if name == PART:
                assert (ours - theirs).norm() <= 1e-2 * theirs.norm()
            else:
                torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-4, msg=name)


def _results(work, inputs):
    outputs = work(inputs)
    return [*outputs, *differentiate(outputs, inputs)]


@pytest.mark.parametrize(
    ("load", "bind"),
    [
        (lambda: verl.load().LinearCrossEntropy.forward, lambda call: call.bind(None, 1, 2, 3, 1.0, "none", None)),
        (lambda: trl.load("logprob_entropy").selective_log_softmax_and_entropy, lambda call: call.bind(1, 2)),
        (
            lambda: import_module("cut_cross_entropy").linear_cross_entropy,
            lambda call: call.bind(1, 2, 3, reduction="none", filter_eps="auto", impl="cce"),
        ),
        (
            lambda: (
                import_module(
                    "liger_kernel.ops.fused_linear_cross_entropy"
                ).LigerFusedLinearCrossEntropyFunction.forward
            ),
            lambda call: call.bind(None, 1, 2, 3),
        ),
        (
            lambda: import_module("liger_kernel.ops.grpo_loss").GrpoLossFunction.forward,
            lambda call: call.bind(None, 1, 2, None, 3, 4, None, 1.0, 0.0, 0.2, 0.28, False, "dapo"),
        ),
        (
            lambda: (
                import_module(
                    "liger_kernel.ops.fused_linear_scaled_cross_entropy"
                )._FusedLinearPPOFallbackFunction.forward
            ),
            lambda call: call.bind(None, 1, 2, 3, 1.0, -100, True),
        ),
    ],
    ids=["verl", "TRL", "cut-cross-entropy", "Liger FLCE", "Liger GRPO", "Liger loop"],
)
def test_peers_that_need_a_gpu_have_the_signatures_we_call(load, bind):
    function, reason = attempt("peer", load)
    if function is None and reason.startswith("absent"):
        pytest.skip(f"{reason} (python -m bench.kernels.peers)")
    assert function is not None, reason
    bind(inspect.signature(function))


def test_a_peer_that_pip_cannot_install_is_named_and_cutlass_comes_in_one_piece(tmp_path, capsys, monkeypatch):
    calls = []

    def pip(command, check):
        calls.append(command)
        return subprocess.CompletedProcess(command, returncode=int("verl==0.9.1" in command))

    monkeypatch.setattr(peers.subprocess, "run", pip)
    peers.main(["--into", str(tmp_path), "--cutlass", "--python", "3.12"])
    assert [call[8:] for call in calls[:-1]] == [[peer, *calls[-1][8 + len(peers.CUTLASS) :]] for peer in peers.PEERS]
    assert {"--python-version", "3.12", *peers.CUTLASS} <= set(calls[-1])
    told = capsys.readouterr().out
    assert "verl==0.9.1: left out" in told
    assert told.strip().endswith(f"{tmp_path}/site-packages:{tmp_path}/site-packages/nvidia_cutlass_dsl/dsl_packages")


def test_a_provider_that_fails_is_named_and_stops_nothing(capsys, monkeypatch):
    case = SUITES["smoke"].cases[0]

    def fails_later(inputs):
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("no such kernel\nand a long trace")
        return (inputs.hidden.sum() + inputs.weight.sum(),)

    def fails_at_once(inputs):
        raise torch.OutOfMemoryError

    calls: list[int] = []
    wrong = [Provider("later", lambda: fails_later), Provider("at once", lambda: fails_at_once)]
    right = [provider for provider in providers(case, gpu=False) if provider.name in ("fastsvs", "torch eager")]
    monkeypatch.setattr(cases, "providers", lambda case, gpu: iter([*wrong, *right]))
    budget = Budget(SUITES["smoke"])
    rows = list(cases.run_case(case, budget, Ceilings(False), torch.device("cpu"), without=["torch eager"]))
    notes = {row.provider: row.note for row in rows if row.metric == "measured"}
    assert notes == {"later": "failed: RuntimeError: no such kernel", "at once": "does not fit this device"}
    assert {row.provider for row in rows if row.metric == "both, median"} == {"fastsvs"}


def test_a_provider_that_takes_the_gpu_along_ends_the_run(monkeypatch):
    def fails():
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(measure, "answers", lambda: False)
    with pytest.raises(SystemExit, match=r"verl failed: RuntimeError: an illegal .* Next time: --without 'verl'"):
        attempt("verl", fails)


def test_a_provider_that_does_not_come_back_ends_the_run():
    code = (
        "import time; from bench.kernels import measure; measure.PATIENCE = 1; "
        "measure.attempt('quick', lambda: None); measure.attempt('stuck', lambda: time.sleep(60)); print('on')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=50)
    assert found.returncode
    assert "on" not in found.stdout
    assert "attempt" in found.stderr


def test_a_study_that_fails_stops_nothing(capsys, monkeypatch):
    def fails(*_):
        raise ValueError("no such part")

    monkeypatch.setattr(command, "parts", fails)
    case = SUITES["smoke"].cases[0]
    studies = command.first_of_operator(case, Ceilings(False), torch.device("cpu"), without=["torch eager"])
    (failure,), errors = studies
    assert (failure.provider, failure.metric, failure.note) == (
        "fastsvs",
        "measured",
        "failed: ValueError: no such part",
    )
    assert "fastsvs, dX and dW" in {row.provider for row in errors}


@pytest.mark.parametrize(("note", "fails"), [("failed: ValueError: no", True), (NO_ROOM, False)])
def test_it_fails_where_ours_did_but_not_for_want_of_memory(note, fails, tmp_path, capsys, monkeypatch):
    row = Row("case", "fastsvs", "measured", 0.0, "yes/no", note=note)
    monkeypatch.setattr(command, "run", lambda *_: iter([[row]]))
    with pytest.raises(SystemExit, match="fastsvs itself failed") if fails else nullcontext():
        command.main(["--suite", "smoke", "--out", str(tmp_path)])


def test_every_part_of_the_policy_loss_is_timed():
    case = SUITES["smoke"].cases[0]
    rows = list(parts(case, torch.device("cpu"), Ceilings(False), rounds=2))
    assert len(rows) == 6
    assert all(row.value > 0 for row in rows)


def test_peaked_rows_are_as_a_rollout_left_them():
    case = Case("linear_policy_loss", Shape("odd", 64, 2000), 512, ("both",))
    found = {peaked: make(case, torch.device("cpu"), torch.float32, peaked=peaked) for peaked in (False, True)}
    for peaked, inputs in found.items():
        logp = (inputs.hidden @ inputs.weight.t()).log_softmax(-1)
        entropy = -(logp.exp() * logp).sum(-1).mean()
        chosen = logp.gather(-1, inputs.targets[:, None]).squeeze(-1)
        assert (chosen - inputs.old_logprobs).abs().max() < 0.6
        assert (entropy < 4) == peaked
        assert (chosen.median() > -1) == peaked


def test_the_small_cases_are_of_every_kernel_and_finite():
    found = list(small.run(torch.device("cpu")))
    names = {name for name, _ in found}
    for wanted in ("keep_logits=True", "keep_logits=False", "sapo, exact=False", "ppo, exact=True", "torch.float32"):
        assert any(wanted in name for name in names)
    assert all(small.finite(values) for _, values in found)
    assert not small.finite([torch.tensor([1.0, torch.nan])])


@pytest.mark.parametrize(("status", "passes"), [(0, 1.0), (9, 0.0)])
def test_memcheck_says_what_the_sanitizer_says(status, passes, tmp_path, capsys, monkeypatch):
    """A stand-in for it runs nothing: what the command runs on a GPU is tested above."""
    tool = tmp_path / checks.SANITIZER
    tool.write_text(f'#!/bin/sh\necho "$@"\necho "ERROR SUMMARY: some"\nexit {status}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    row = checks.memcheck(30)
    assert row.value == passes
    assert checks.is_broken(row) == (status != 0)
    assert status == 0 or "-m bench.kernels.small / ERROR SUMMARY: some" in (row.note or "")
    monkeypatch.setenv("PATH", "/nowhere")
    absent = checks.memcheck(30)
    assert "is not installed" in (absent.note or "") or absent.value
    assert not checks.is_broken(absent)


def test_entropies_are_drawn_as_published():
    torch.manual_seed(0)
    tokens = simulated.draw(20_000)
    assert (tokens.entropy < 0.01).double().mean() == pytest.approx(0.5064, abs=0.02)
    assert (tokens.entropy > 0.672).double().mean() == pytest.approx(0.2, abs=0.02)
    assert tokens.hit.double().mean() == pytest.approx(float(tokens.likely.mean()), abs=0.02)
    shares = [1 - float(simulated.that_count(tokens, tau).double().mean()) for tau in simulated.SHARES.values()]
    assert 0.3 < shares[0] < shares[1] < shares[2] < 0.95


def test_the_budget_scales_what_a_case_took():
    suite = replace(SUITES["h200"], limit_seconds=100, case_seconds=10, rounds=20)
    small = Case("linear_policy_loss", Shape("x", 100, 1000), 1000, ("both",))
    budget = Budget(suite)
    assert budget.expected(small) == UNKNOWN_OVERHEAD[True] + 10
    contender = Contender(None, None, None, None, milliseconds={"both": [200.0] * 20})
    budget.learn(small, [contender], seconds=4.0 + 0.2 * PASSES_BEFORE + 3)
    assert budget.expected(small) == pytest.approx(3 + 0.2 * PASSES_BEFORE + 4.0)
    assert budget.expected(replace(small, tokens=4000)) == pytest.approx(3 + 0.8 * PASSES_BEFORE + 10.8)
    assert budget.fits(small)
    assert not budget.fits(replace(small, tokens=80_000))
    assert budget.expected(replace(small, peers=False)) == UNKNOWN_OVERHEAD[False] + 10


def test_a_case_without_the_time_for_its_peers_is_measured_alone(capsys, monkeypatch):
    suite = SUITES["smoke"]
    alone = replace(suite.cases[0], peers=False)
    monkeypatch.setattr(Budget, "fits", lambda self, case: case == alone)
    rows = [row for more in command.run(suite, without=[]) for row in more if row.metric == "both, median"]
    assert {row.case for row in rows} == {alone.name}
    assert all(row.provider.startswith("fastsvs") for row in rows)
    told = capsys.readouterr().out
    assert f"{alone.name}: without peers, it would not end within 300 s" in told
    assert told.count("left out, it would not end") == len(suite.cases) - 1


def test_the_suite_holds_what_the_targets_are_about():
    names = [case.name for case in SUITES["h200"].cases]
    assert names[:3] == [
        f"{operator}/32B/8192" for operator in ("linear_policy_loss", "linear_logprob_entropy", "logprob_entropy")
    ]
    assert len(set(names)) == len(names)
    heads = {f"{size}/{tokens}" for size in ("3B", "7B", "32B") for tokens in (2048, 8192, 32768)}
    for operator in ("linear_policy_loss", "linear_logprob_entropy"):
        assert {f"{operator}/{head}" for head in heads} <= set(names)
    lengths = {head for head in heads if not head.startswith("7B")}  # the vocabulary of 32B
    assert {f"logprob_entropy/{head}" for head in lengths} <= set(names)
    assert {f"linear_policy_loss/32B-TP{ranks}/8192" for ranks in (2, 4, 8)} <= set(names)
    assert set(complete_peers()) >= {"torch eager", "torch.compile", "Liger scaled CE", "TRL chunked", "verl"}


def test_a_copy_without_git_is_told_its_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    assert describe_environment()["commit"] is None
    monkeypatch.setenv("FASTSVS_COMMIT", "abc123")
    assert describe_environment()["commit"] == "abc123"


def test_it_needs_torch_alone():
    heavy = ("pydantic", "transformers", "megatron", "matplotlib", "fastsvs.config")
    code = f"import sys, bench.kernels.__main__; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
