"""Models between two others: by hand, by chance as it should be, and as folders that load."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from whole_runs import ROOT

from fastsvs.cli import main
from fastsvs.commands.merge import MergePlan, merge_models
from fastsvs.errors import UserError

BASE = ROOT / "models" / "tiny"


def test_weighted_average() -> None:
    base, tuned = torch.tensor([0.0, 2.0]), torch.tensor([4.0, 2.0])
    assert MergePlan(weight=0.25).merge("a", base, tuned).tolist() == [1.0, 2.0]
    assert MergePlan(weight=0.0).merge("a", base, tuned).equal(base)
    assert MergePlan(weight=1.0).merge("a", base, tuned).equal(tuned)


def test_dare_drops_a_share_and_keeps_the_mean() -> None:
    base, tuned = torch.zeros(100_000), torch.ones(100_000)
    merged = MergePlan(weight=1.0, drop=0.2).merge("a", base, tuned)
    assert set(merged.unique().tolist()) == {0.0, 1.25}
    assert (merged == 0).float().mean() == pytest.approx(0.2, abs=0.01)
    assert merged.mean() == pytest.approx(1.0, abs=0.01)
    assert merged.equal(MergePlan(weight=1.0, drop=0.2).merge("a", base, tuned))
    assert not merged.equal(MergePlan(weight=1.0, drop=0.2).merge("b", base, tuned))
    assert not merged.equal(MergePlan(weight=1.0, drop=0.2, seed=1).merge("a", base, tuned))


@pytest.mark.parametrize("plan", [{"weight": 1.5}, {"weight": -0.1}, {"drop": 1.0}, {"drop": -0.5}])
def test_impossible_plans(plan: dict[str, float]) -> None:
    with pytest.raises(UserError, match="merge"):
        MergePlan(**plan)


def test_several_processes_do_not_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="fastsvs merge takes one process"):
        merge_models(str(BASE), str(BASE), tmp_path / "out", MergePlan(weight=0.5))


def test_a_folder_between_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    for file in BASE.iterdir():
        (tuned / file.name).write_bytes(file.read_bytes())
    weights = load_file(BASE / "model.safetensors")
    save_file({name: tensor + 1.0 for name, tensor in weights.items()}, tuned / "model.safetensors", {"format": "pt"})
    out = tmp_path / "merged"
    assert main(["merge", str(BASE), str(tuned), "--weight", "0.25", "--out", str(out)]) == 0
    merged = load_file(out / "model.safetensors")
    assert merged.keys() == weights.keys()
    assert all(torch.allclose(merged[name], weights[name] + 0.25, atol=1e-6) for name in weights)
    AutoModelForCausalLM.from_pretrained(out)
    assert main(["merge", str(BASE), str(tuned), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["merge", str(BASE), str(tuned), "--drop", "2", "--out", str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()
