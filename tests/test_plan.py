"""`fastsvs plan`, and the refusals that it shares with the start of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig
from whole_runs import ROOT

from bench.plan.shipped import MODELS, Shipped, architecture_of, every_shipped
from fastsvs import open_files
from fastsvs.architecture import read_architecture, with_adapters
from fastsvs.cli import main
from fastsvs.config import PolicyConfig, TrainJob, dump, load
from fastsvs.errors import UserError
from fastsvs.plan import (
    GIB,
    Answers,
    Cluster,
    Machines,
    Present,
    assumed_step,
    certain,
    changed,
    check_fits,
    drawn_step,
    every_layout,
    known_hardware,
    layout_of,
    neighbours,
    plan_job,
    proposals,
    read_hardware,
    step_of_run,
    total,
)
from fastsvs.plan.ledger import assumed
from fastsvs.plan.shards import PINNED
from fastsvs.policy import weight_specs
from fastsvs.speeds import Speed, Speeds, passing, read_speeds, write_speeds
from fastsvs.stored_run import RunLayout

TINY = ROOT / "configs" / "tiny_svs.yaml"
ROOMY = Present("cuda", 80 * GIB, 2000 * GIB)
QWEN_32B = architecture_of("Qwen/Qwen2.5-32B-Instruct")


def job_of(config: str, *overrides: str) -> TrainJob:
    return load(TrainJob, ROOT / "configs" / f"{config}.yaml", ["run.prompts_per_step=16", *overrides])


@pytest.fixture
def plan32():
    """The plan of the 32B job on four nodes, with changes of keys."""

    def plan(*overrides: str, config: str = "qwen2.5_32b_svs", nodes: int = 4, speeds: Speeds | None = None):
        job = job_of(config, *overrides)
        machines = Machines(Cluster(nodes, 8), read_hardware("h100"), speeds)
        return plan_job(QWEN_32B, job, machines, assumed_step(job))

    return plan


def test_adapters_alone_fit_32b_on_one_node() -> None:
    machines = Machines(Cluster(1, 8), read_hardware("h100"))
    plans = []
    for overrides in ([], ["policy.lora.rank=0"]):
        job = job_of("qwen2.5_32b_svs_lora", *overrides)
        plans.append(plan_job(with_adapters(QWEN_32B, job.policy), job, machines, assumed_step(job)))
    adapters, all_weights = plans
    assert adapters.findings == []
    assert any(finding.certain and "during update" in finding.text for finding in all_weights.findings)
    weights = [lines[0].amount for lines in (plan.memory.moments["update"] for plan in plans)]
    assert weights[1] < weights[0] < 1.02 * weights[1]
    disk = [plan.memory.disk[0].amount for plan in plans]
    assert disk[0] < 0.01 * disk[1]
    products = [
        sum(line.amount for line in plan.time.phases["update"] if line.name == "matrix products") for plan in plans
    ]
    assert products[0] < 0.8 * products[1], "frozen weights have no gradient"


def test_the_command_plans_a_job_and_writes_nothing(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    machines = ["--gpu", "cpu", "--gpus", "2"]
    assert main(["plan", str(TINY), *machines, f"run.dir={tmp_path}/run", "policy.tensor_parallel=2"]) == 0
    shown = capsys.readouterr().out
    assert "TP 2 x PP 1 x DP 1" in shown
    assert "a step:" in shown
    assert main(["plan", str(TINY), *machines, "--json", f"run.dir={tmp_path}/run"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step_seconds"] == pytest.approx(
        sum(line["amount"] for lines in found["time"].values() for line in lines)
    )
    assert {"exact", "assumed"} <= {line["basis"].split(" ")[0] for line in found["host"]}
    assert main(["plan", str(TINY), *machines, "policy.tensor_parallel=4"]) == 2
    assert "does not divide the model's attention heads" in capsys.readouterr().err
    assert main(["plan", str(TINY), *machines, "rollout.engine=vllm", "rollout.server.tensor_parallel=4"]) == 2
    assert "rollout.server.tensor_parallel=4 does not suit the model's" in capsys.readouterr().err
    assert main(["plan", str(TINY), "--gpu", "h1000"]) == 2
    assert "h1000: not in the table (h100, h200" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_job_that_cannot_work_is_refused_by_the_plan_and_at_the_start(capsys, tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MODELS["Qwen/Qwen2.5-32B-Instruct"]))
    config, place = ROOT / "configs" / "qwen2.5_32b_svs.yaml", f"model.path={tmp_path}"
    few = [place, "run.prompts_per_step=16", "policy.tensor_parallel=1", "policy.pipeline_parallel=1"]
    few += ["policy.recompute_method=uniform", "policy.recompute_layers=1"]
    assert main(["plan", str(config), *few, "--nodes", "3", "--gpu", "h100"]) == 2
    said = capsys.readouterr()
    assert "will not work: a GPU during update takes" in said.out
    with pytest.raises(UserError, match="a GPU during update takes"):
        check_fits(QWEN_32B, job_of("qwen2.5_32b_svs", *few), Cluster(3, 8), ROOMY)


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ({"memory": 20 * GIB}, "a GPU during update takes .* GiB of 20.0"),
        ({"host": 100 * GIB}, "host memory takes .* GiB of 100.0"),
    ],
)
def test_a_start_refuses_what_exact_amounts_exceed(lacking: dict, message: str) -> None:
    architecture, job = QWEN_32B, job_of("qwen2.5_32b_svs")
    check_fits(architecture, job, Cluster(4, 8), ROOMY)
    with pytest.raises(UserError, match=message):
        check_fits(architecture, job, Cluster(4, 8), replace(ROOMY, **lacking))


def test_a_start_only_warns_where_assumed_amounts_decide() -> None:
    architecture, job = QWEN_32B, job_of("qwen2.5_32b_svs")
    [warning, *_] = check_fits(architecture, job, Cluster(4, 8), replace(ROOMY, memory=52 * GIB))
    assert warning.startswith("a GPU during update takes 5")


def test_replay_takes_the_bytes_of_the_experts_of_every_token() -> None:
    """Qwen3-30B-A3B: 48 layers with 8 experts of a token, two bytes each: of this step and the next on
    the main rank, and of this once for all ranks of a node."""

    def plan(replay: str):
        job = job_of("qwen3_30b_a3b_svs", f"policy.router_replay={replay}")
        machines = Machines(Cluster(4, 8), read_hardware("h100"))
        return plan_job(architecture_of(job.model.path), job, machines, step)

    step = assumed_step(job_of("qwen3_30b_a3b_svs"))
    replayed, routed = plan("rollout"), plan("none")
    more = 3 * 768 * (step.prompt_tokens + step.response_tokens)
    assert total(replayed.memory.host) - total(routed.memory.host) == more
    assert certain(replayed.memory.host) == certain(routed.memory.host), "no run is refused for assumed lengths"
    handed = 768 * sum(sum(group.responses) + group.prompt * len(group.responses) for group in step.learned) / 1e9
    assert replayed.time.seconds("rollout") - routed.time.seconds("rollout") == pytest.approx(handed)


def test_cut_experts_take_what_dealt_ones_do_and_messages_among_their_ranks() -> None:
    """Qwen3-30B-A3B on 8 ranks: experts in eighths, or in quarters of two halves."""

    def plan(dealt: int, cut: int):
        job = job_of("qwen3_30b_a3b_svs", f"policy.expert_parallel={dealt}", f"policy.expert_tensor_parallel={cut}")
        return plan_job(architecture_of(job.model.path), job, Machines(Cluster(4, 8), read_hardware("h100")), step)

    step = assumed_step(job_of("qwen3_30b_a3b_svs"))
    whole, halves = plan(8, 1), plan(4, 2)
    assert [rank.state for rank in halves.memory.ranks] == [rank.state for rank in whole.memory.ranks]
    seconds = [{line.name: line.amount for line in p.time.phases["update"]} for p in (whole, halves)]
    among = "tokens among an expert's ranks"
    assert among not in seconds[0]
    gathered, dealt = seconds[1][among], seconds[1]["tokens to experts and back"]
    # Twice as many tokens, of which half are others', in bf16 and in fp32; beside three quarters of one's own in bf16.
    assert gathered / dealt == pytest.approx(2 * 0.5 * 1.5 / 0.75)


def test_a_layout_has_as_many_ranks_as_its_experts_take() -> None:
    policy = PolicyConfig(tensor_parallel=2, pipeline_parallel=2, expert_parallel=2, expert_tensor_parallel=3)
    assert layout_of(policy, None, "cuda").ranks == 12
    assert layout_of(policy, 24, "cuda").ranks == 24


def test_more_ranks_take_less_of_each(plan32) -> None:
    few, many = plan32(nodes=4), plan32(nodes=6)
    assert many.memory.layout.data == 2 * few.memory.layout.data
    assert total(many.memory.moments["update"]) < total(few.memory.moments["update"])
    assert many.time.seconds("update") < few.time.seconds("update")


def test_stale_rollouts_cost_the_longer_of_both_and_rollouts_in_turn_the_sum(plan32) -> None:
    beside, in_turn = plan32().time, plan32(config="qwen2.5_32b_svs_colocated").time
    for time, join in ((beside, max), (in_turn, sum)):
        rest = sum(time.seconds(phase) for phase in time.phases if phase not in ("rollout", "update"))
        assert time.step == pytest.approx(rest + join([time.seconds("rollout"), time.seconds("update")]))


def test_offload_leaves_room_beside_the_server(plan32) -> None:
    kept, left = (
        plan32(f"policy.offload={what}", config="qwen2.5_32b_svs_colocated").memory for what in ("none", "optimizer")
    )
    gone = certain(kept.moments["rollout"]) - certain(left.moments["rollout"])
    assert gone == sum(line.amount for line in left.ranks[0].state if line.name != "weights")
    findings = plan32("policy.offload=none", config="qwen2.5_32b_svs_colocated").findings
    assert [finding for finding in findings if finding.text.startswith("a GPU during rollout")]


def test_a_server_on_a_cpu_has_the_cache_that_it_is_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of("tiny_svs", "rollout.engine=vllm", "rollout.max_sequences=32")
    machines = Machines(Cluster(1, 1), read_hardware("cpu"), None)
    architecture = read_architecture(AutoConfig.from_pretrained(ROOT / "models" / "tiny"))
    plans = []
    for gib in (1, 2):
        monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", str(gib))
        plans.append(plan_job(architecture, job, machines, assumed_step(job)))
    first, second = (plan.memory.engine.cache_tokens for plan in plans)
    assert second == 2 * first == 2 * GIB / (2 * 4 * 2 * 32 * 4)  # keys, values; layers; groups; width of a head; fp32
    assert not any("cache" in finding.text for plan in plans for finding in plan.findings)


@pytest.mark.parametrize("shipped", every_shipped(), ids=lambda shipped: shipped.name)
def test_shipped_configurations_suit_the_clusters_that_they_name(shipped: Shipped) -> None:
    assert shipped.plan().findings == []


def test_every_configuration_for_several_gpus_names_its_cluster() -> None:
    named = {shipped.path for shipped in every_shipped()}
    for path in (ROOT / "configs").rglob("*.yaml"):
        if "_eval" not in path.stem and "H100-80GB" in path.read_text():
            assert path in named
    assert {f"{ROOT}/configs/paper/{size}_math12k_svs.yaml" for size in ("3b", "8b", "32b")} <= set(map(str, named))


def test_evaluations_take_time_between_steps(plan32) -> None:
    often, ends, none = (
        plan32(*changes).time for changes in (["evaluation.every=8"], ["evaluation.every=0"], ["evaluation.path=null"])
    )
    assert (often.evaluations, ends.evaluations, none.evaluations) == (2 + 599 // 8, 2, 0)
    assert often.step == none.step
    assert often.run - none.run == pytest.approx(often.evaluations * total(often.evaluation))
    assert often.run > ends.run > none.run


def test_verdicts_are_waited_for_where_decoding_does_not_hide_them(plan32) -> None:
    few, many = (plan32(f"verifier.workers={n}").time.phases["rollout"] for n in (1, 16))
    assert few[1].name == many[1].name == "waiting for verdicts"
    assert few[1].amount > many[1].amount
    assert few[0].amount == many[0].amount


def test_weights_take_the_time_of_the_busiest_card(plan32) -> None:
    """16 trainers of 32 GPUs, and 4 servers of 4: each rank sends, and each worker gets, a quarter."""
    changes = ("rollout.placement=dedicated", "rollout.nodes=2", "rollout.server.tensor_parallel=4")
    one = plan32(*changes, "sync.shard_to_shard=false").time.phases["sync"]
    shards = plan32(*changes).time.phases["sync"]
    assert (one[0].name, shards[0].name) == ("weights to the servers", "weights from shard to shard")
    assert shards[0].amount == pytest.approx(one[0].amount / 4)
    few = plan32("rollout.placement=dedicated", "rollout.nodes=2", "rollout.server.tensor_parallel=1", nodes=3)
    assert few.time.phases["sync"][0].name == "weights to the servers", "8 ranks would send 16 times the model"


@pytest.mark.parametrize(("nodes", "tensor_parallel", "models"), [(2, 4, 1.0), (1, 8, 1 / 3)])
def test_a_node_holds_the_weights_that_changes_are_changes_of(
    plan32, nodes: int, tensor_parallel: int, models: float
) -> None:
    """Each of a node's 8 trainers holds an eighth of the weights. 16 send a quarter to 4 servers, of which some are the
    same; 24 send a part of 24 to a single one."""

    def host(*overrides: str) -> float:
        apart = ("rollout.placement=dedicated", f"rollout.nodes={nodes}")
        servers = f"rollout.server.tensor_parallel={tensor_parallel}"
        return total(plan32(*apart, servers, *overrides).memory.host)

    weights = sum(spec.nbytes for spec in weight_specs(QWEN_32B, torch.bfloat16))
    for sparse in ("auto", "always"):
        assert host(f"sync.sparse={sparse}") - host() == pytest.approx(PINNED * models * weights)
    beside = "rollout.placement=colocated"
    assert host(beside, "sync.sparse=auto") == host(beside), "weights do not go from shard to shard"


def test_a_checkpoint_that_is_not_written_in_time_holds_up_the_next(plan32) -> None:
    seldom, often = (plan32(f"run.save_every={every}").time for every in (600, 1))
    waits = [{line.name: line.amount for line in time.phases["save"]} for time in (seldom, often)]
    assert "waiting for the write before" not in waits[0]
    assert often.step >= often.beside["checkpoint_write"].amount


SIZES, RATES = (2**16, 2**20, 2**30), (1e9, 30e9, 300e9)


def measured(factor: float = 1.0) -> Speeds:
    """Speeds of a cluster of nodes of eight GPUs; only within a node, and of its storage."""
    operations = ("all-reduce", "all-gather", "reduce-scatter", "broadcast", "point-to-point")
    rows = [
        Speed(name, "within a node", 8, size, passing(name, size, 8) / (factor * rate))
        for name in operations
        for size, rate in zip(SIZES, RATES, strict=True)
    ]
    return Speeds("speeds.jsonl", [*rows, Speed("write", "storage", 2, 2**30, 2**30 / 5e9)])


@given(size=st.integers(1, 2**34), name=st.sampled_from(["all-gather", "point-to-point"]))
def test_measured_speeds_lie_between_those_of_the_nearest_sizes(size: int, name) -> None:
    rate = measured().rate(name, "within a node", size)
    below, above = (sum(s <= size for s in SIZES) or 1) - 1, min(sum(s <= size for s in SIZES), 2)
    assert RATES[below] * 0.999 <= rate <= RATES[above] * 1.001
    assert measured().rate(name, "between nodes", size) is None


def test_measured_speeds_take_the_place_of_the_assumed_ones(plan32) -> None:
    def messages(plan) -> dict:
        return {line.name: line for lines in plan.time.phases.values() for line in lines if line.between}

    assumed_ones, fast, slow = (messages(plan32(speeds=given)) for given in (None, measured(), measured(0.5)))
    assert assumed_ones.keys() == fast.keys()
    changed_ones = {name for name, line in fast.items() if line.basis.kind == "calibrated"}
    assert changed_ones == {"tensor parallel messages", "gradients to their owners", "new weights to all ranks"}
    for name in changed_ones:
        assert fast[name].basis.source == "speeds.jsonl"
        assert slow[name].amount == pytest.approx(2 * fast[name].amount)
    assert slow["messages between stages"] == assumed_ones["messages between stages"], "they pass between nodes"
    assert plan32(speeds=measured()).time.beside["checkpoint_write"].basis.source == "speeds.jsonl"


def test_the_command_takes_the_file_of_the_doctor(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    file = tmp_path / "speeds.jsonl"
    write_speeds(file, measured().rows)
    assert read_speeds(file).rows == measured().rows
    arguments = ["plan", str(TINY), "--gpu", "cpu", "--gpus", "2", "policy.tensor_parallel=2", "--speeds", str(file)]
    assert main(arguments) == 0
    assert "calibrated [" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"no file or folder .*none\.jsonl; `fastsvs doctor --nodes --out FILE` writes"):
        read_speeds(tmp_path / "none.jsonl")
    for text, message in (("", "holds no speeds"), ('{"operation": "shout"}\n', "operation")):
        file.write_text(text)
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_no_schedule_is_made_for_more_processes_than_there_are() -> None:
    with pytest.raises(UserError, match="--nodes 1000000000 with --gpus 8 is more than the 100,000 processes"):
        Cluster(1_000_000_000, 8)


def test_the_plan_says_that_it_counts_fp8_as_bf16(plan32) -> None:
    usual, rounded = plan32(), plan32("policy.backend=te", "policy.fp8=hybrid")
    assert rounded.time.step == usual.time.step
    assert {f.text for f in rounded.findings} - {f.text for f in usual.findings} == {
        "policy.fp8=hybrid has not been measured: products count as bf16"
    }


def test_too_few_open_files_are_seen(plan32, monkeypatch) -> None:
    assert not [f for f in plan32().findings if "open files" in f.text]
    monkeypatch.setattr(open_files, "limit", lambda: 2047)
    [found] = [f for f in plan32().findings if "open files" in f.text]
    assert found.text.startswith("a client process needs 2,048 open files"), "4 servers of 448 sequences, and 256"


def test_proposals_fit_and_the_fastest_comes_first() -> None:
    architecture, job = architecture_of("Qwen/Qwen2.5-3B-Instruct"), job_of("qwen2.5_3b_svs")
    machines, sampled = Machines(Cluster(1, 8), read_hardware("h100")), assumed_step(job)
    for changes in (neighbours(job), every_layout(job, machines.cluster)):
        found = proposals(architecture, job, machines, sampled, changes)
        steps = [proposal.plan.time.step for proposal in found]
        assert len(found) > 3
        assert steps == sorted(steps)
        assert all(total(lines) <= 79.6 * GIB for p in found for lines in p.plan.memory.moments.values())
        assert all(changed(job, p.changes).policy.tensor_parallel <= 2 for p in found), "2 key/value heads"


groups = st.tuples(st.integers(1, 50), st.lists(st.integers(1, 300), min_size=1, max_size=4))
families = st.lists(st.lists(groups, min_size=1, max_size=3), min_size=1, max_size=4)


@given(drawn=families, problems=st.integers(1, 20))
def test_a_step_is_drawn_from_whole_families(drawn, problems: int) -> None:
    made = [
        [
            Answers("p" + "/0" * depth, ("original", "synthesis", "variant")[depth], prompt, tuple(lengths), True)
            for depth, (prompt, lengths) in enumerate(family)
        ]
        for family in drawn
    ]
    job = job_of("tiny_svs", f"run.prompts_per_step={problems}", "rollout.max_response_tokens=96")
    step = drawn_step(job, made, assumed("a test"))
    assert len({group.key for group in step.groups}) == len(step.groups)
    assert sum("/" not in group.key for group in step.groups) == problems
    assert max(max(group.responses) for group in step.groups) <= 96
    assert step.response_tokens == sum(sum(group.responses) for group in step.groups)


def test_every_device_of_the_table_says_where_its_figures_are_from() -> None:
    for name in known_hardware():
        device = read_hardware(name)
        for key in ("gemm", "attention", "hbm", "nvlink", "nic", "host", "disk", "row"):
            basis = getattr(device, key).basis
            assert basis.source
            assert basis.kind == "assumed" or (ROOT / basis.source).is_file(), (name, key)


def test_a_device_of_ones_own(tmp_path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("kind: cuda\nmemory: {value: 40, source: mine}\n")
    with pytest.raises(UserError, match="gemm: Field required"):
        read_hardware(str(own))
    own.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"--gpu: cannot read .*mine\.yaml"):
        read_hardware(str(own))
    with pytest.raises(UserError, match=r"--gpu: no file or folder .*other\.yaml"):
        read_hardware(str(tmp_path / "other.yaml"))


def run_folder(folder: Path) -> Path:
    """A run of two steps whose problem has one context with two variants' solutions."""
    job = job_of("tiny_svs", f"run.dir={folder}", f"model.path={ROOT}/models/tiny", "selfplay.template=null")
    (folder / "samples").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump(job))
    shared = {"question": "Ann has 2 apples. How many?", "trained": True}
    rows = [
        shared | {"key": "7", "kind": "original", "parent": None, "responses": ["2", "3"], "tokens": [5, 90]},
        shared
        | {"key": "7/0", "kind": "synthesis", "parent": "7", "parent_sample": 1, "responses": ["q"], "tokens": [30]},
        shared | {"key": "7/0/0", "kind": "variant", "parent": "7/0", "responses": ["2"], "tokens": [6]},
    ]
    RunLayout(folder).samples(1).write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = [{"step": n, "time/update": 2.0 * n, "time/step": 3.0 * n} for n in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    return folder


def test_a_run_gives_lengths_and_stands_beside_the_plan(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    run = run_folder(tmp_path / "run")
    step = step_of_run(job_of("tiny_svs", "run.prompts_per_step=3"), run)
    assert [group.kind for group in step.groups] == ["original", "synthesis", "variant"] * 3
    assert [group.responses for group in step.groups[:3]] == [(5, 90), (30,), (6,)]
    original, synthesis, variant = (group.prompt for group in step.groups[:3])
    assert original == variant < synthesis, "the built-in prompt of synthesis is long"
    arguments = ["plan", str(TINY), "--gpu", "cpu", "--gpus", "1", "--from", str(run), "--against", str(run), "--json"]
    assert main(arguments) == 0
    found = {row["metric"]: row["measured"] for row in json.loads(capsys.readouterr().out)["compared"]}
    assert found == {"time/update": 5.0, "time/step": 7.5}
    assert main([*arguments[:-5], "--from", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: name a run folder" in capsys.readouterr().err
