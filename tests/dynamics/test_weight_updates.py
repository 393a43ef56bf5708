"""Sparsity of updates: counted by hand, additive, and the same whatever stores the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastsvs.dynamics import compare, paired
from fastsvs.dynamics.updates import change_of, module_of
from fastsvs.errors import UserError


def test_counted_by_hand() -> None:
    old = torch.tensor([1.0, 2.0, 3.0, 0.0])
    new = torch.tensor([1.0, 2.0 + 1e-6, 3.0 + 1e-3, 4.0])
    figures = change_of(old, new).figures()
    assert figures["sparsity/exact"] == 1 / 4
    assert figures["sparsity/bf16"] == 3 / 4  # bf16 steps at 3 are 1/64
    assert figures["sparsity/tolerance"] == 2 / 4
    assert figures["relative_change"] == pytest.approx(((1e-3) ** 2 + 16) ** 0.5 / 14**0.5, rel=1e-4)


def test_storing_in_bf16_is_no_change() -> None:
    old = torch.randn(100)
    assert change_of(old, old.bfloat16()).figures()["sparsity/exact"] == 1.0


@given(st.lists(st.tuples(st.floats(-2, 2, width=32), st.floats(-2, 2, width=32)), min_size=2, max_size=30))
def test_parts_add_up_and_nothing_changes_into_itself(values: list[tuple[float, float]]) -> None:
    old, new = torch.tensor(values).unbind(1)
    cut = len(values) // 2
    parts = change_of(old[:cut], new[:cut]) + change_of(old[cut:], new[cut:])
    whole = change_of(old, new)
    assert parts.figures() == pytest.approx(whole.figures())
    assert whole.same <= whole.same_in_bf16
    assert whole.same <= whole.within
    assert change_of(old, old).figures()["sparsity/exact"] == 1.0


def test_by_layer_and_by_module() -> None:
    names = [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_proj.bias",
    ]
    names += ["model.layers.1.mlp.down_proj.weight", "model.layers.1.input_layernorm.weight", "model.norm.weight"]
    ones = [(name, torch.ones(4), torch.ones(4) * (1 + (i == 3))) for i, name in enumerate(names)]
    update = compare(ones)
    assert update.total().values == 24
    assert {name: change.same for name, change in update.by_layer().items()} == {
        "embedding": 4,
        "0": 8,
        "1": 4,
        "norm": 4,
    }
    assert update.by_module()["down_proj"].same == 0
    assert update.by_module()["norm"].values == 8
    assert module_of("lm_head.weight") == "head"
    assert module_of("model.layers.11.self_attn.k_norm.weight") == "norm"


def model(**tensors: Tensor) -> list[tuple[str, Tensor]]:
    return list(tensors.items())


@pytest.mark.parametrize(
    "other",
    [model(a=torch.ones(2)), model(a=torch.ones(2), c=torch.ones(1)), model(a=torch.ones(2), b=torch.ones(2)),
     model(a=torch.ones(2), b=torch.ones(1), c=torch.ones(1))],
    ids=["fewer", "another name", "another shape", "more"],
)  # fmt: skip
def test_models_of_two_architectures(other: list[tuple[str, Tensor]]) -> None:
    with pytest.raises(UserError, match="the models differ"):
        list(paired(model(a=torch.ones(2), b=torch.ones(1)), other))


def test_pairs_are_read_one_by_one() -> None:
    read: list[str] = []

    def stream(side: str) -> list[tuple[str, Tensor]]:
        for name in ("a", "b", "c"):
            read.append(side + name)
            yield name, torch.ones(1)

    for name, _, _ in paired(stream("old "), stream("new ")):
        assert read[-2:] == [f"old {name}", f"new {name}"]


def test_a_run_against_its_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from whole_runs import ROOT, SMALL

    from fastsvs.cli import main
    from fastsvs.commands.analyze import analyze_models, analyze_run, analyze_step
    from fastsvs.files import read_jsonl

    run = tmp_path / "run"
    config = str(ROOT / "configs" / "tiny_svs.yaml")
    quick = ["evaluation.path=null", "dynamics.every=2", f"model.path={ROOT}/models/tiny", f"run.dir={run}"]
    template = f"selfplay.template={ROOT}/configs/tiny_synthesis.txt"
    assert main(["train", config, *SMALL, *quick, template]) == 0
    rows = read_jsonl(run / "metrics.jsonl")
    assert ["dynamics/sparsity/exact" in row for row in rows] == [True, False, True]
    assert rows[0]["dynamics/sparsity/exact"] == 1.0  # before the first update
    result = analyze_run(run, 1e-5, None)
    assert (run / "dynamics.json").exists()
    for row in (rows[0], rows[2]):  # the same figures from the files as in the run
        logged = {name.removeprefix("dynamics/"): value for name, value in row.items() if name.startswith("dynamics/")}
        recomputed = result["steps"][row["step"]]
        assert {name: logged[name] for name in recomputed} == recomputed
    assert sorted(result["updates"]) == [2, 3]
    between = analyze_models(str(run / "checkpoints" / "step_00000002"), str(run), 1e-5, tmp_path / "between.json")
    assert 0 <= between["total"]["sparsity/exact"] < 1
    before_last = result["updates"][2]["total"]
    assert rows[2]["dynamics/sparsity/exact"] == before_last["sparsity/exact"]  # the last step looks before it learns
    assert analyze_models(str(run), str(run), 1e-5, None)["total"]["sparsity/exact"] == 1.0
    logged = {
        name.removeprefix("dynamics/"): value for name, value in rows[2].items() if "entropy" in name or "rank" in name
    }
    looked = analyze_step(run, 3, str(run / "checkpoints" / "step_00000002"), None)[
        "figures"
    ]  # the policy that sampled
    assert looked == pytest.approx({name: logged[name] for name in looked}, rel=1e-3, abs=1e-5)
    unseen = tmp_path / "unseen"
    blind = [*quick, "dynamics.every=0", f"run.dir={unseen}"]
    assert main(["train", config, *SMALL, *blind, template]) == 0
    assert analyze_models(str(run), str(unseen), 0.0, None)["total"]["sparsity/exact"] == 1.0  # looking changes nothing
    assert main(["analyze", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err
