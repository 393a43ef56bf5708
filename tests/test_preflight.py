"""What a run refuses, its dry run refuses in the same words, before anything is written: exit status 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from forking import Run
from whole_runs import ROOT, SFT, TRAIN, Refuse

from fastsvs import distributed
from fastsvs.cli import main
from fastsvs.config import EvalJob, SelfJob, load
from fastsvs.selfplay import PlainStage

pytestmark = pytest.mark.usefixtures("at_root")

PLAIN = (*TRAIN, "selfplay.stage=none")
UNLABELLED = (*PLAIN, "algorithm.reward=majority")
REPLAYED = (
    *("model.path=models/tiny_moe", "model.tokenizer=models/tiny", "model.initialize=random"),
    "policy.router_replay=rollout",
)
HYBRID = ("model.path=models/tiny_hybrid", "model.tokenizer=models/tiny", "model.initialize=random")
SERVERS = (*TRAIN, "rollout.engine=vllm")
TIS = "algorithm.rollout_correction=tis"
EXTERNAL = ("rollout.placement=external", "rollout.server.urls=['http://127.0.0.1:1']")
EVAL = ("eval", "configs/tiny_eval.yaml", "sets.heldout.data.limit=8")
SELF = ("self", "configs/tiny_self.yaml", "model.path=models/tiny", "data.limit=8", "evolution.replay=null")
AZR = ("train", "configs/tiny_azr.yaml", "model.path=models/tiny", "evaluation.path=null")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # the configuration
        (("train", "configs/none.yaml"), "config file configs/none.yaml does not exist"),
        (("train", "configs"), "config file configs cannot be read"),
        ((*TRAIN, "rollout.temprature=0.7"), "rollout.temprature: unknown key; did you mean 'temperature'?"),
        ((*TRAIN, "policy.optimizer.betas=[0.9,1]"), "policy.optimizer.betas"),
        # names
        ((*TRAIN, "rollout.engine=locl"), "unknown rollout engine 'locl'. Did you mean 'local'?"),
        ((*TRAIN, "algorithm.advantage=grop"), "unknown advantage 'grop'. Did you mean 'grpo'?"),
        ((*TRAIN, "algorithm.verl.base=verl"), "algorithm.verl.base is the advantage that verl shapes"),
        ((*TRAIN, "algorithm.reward=majorty"), "unknown reward 'majorty'. Did you mean 'majority'?"),
        ((*TRAIN, "algorithm.loss=pp0"), "unknown policy loss 'pp0'. Did you mean 'ppo'?"),
        ((*TRAIN, "algorithm.loss=nowhere:loss"), "policy loss 'nowhere:loss' cannot be imported"),
        ((*TRAIN, "sampler.name=epoch"), "unknown sampler 'epoch'. Did you mean 'epochs'?"),
        ((*TRAIN, "merging.hook=marge"), "unknown checkpoint hook 'marge'. Did you mean 'merge'?"),
        ((*TRAIN, "dynamics.metrics=[entropi]"), "unknown metric 'entropi'. Did you mean 'entropy'?"),
        ((*TRAIN, "dynamics.metrics=[rank,entropy,rank]"), "dynamics.metrics names 'rank' twice"),
        ((*TRAIN, "selfplay.stage=svz"), "unknown experience stage 'svz'. Did you mean 'svs'?"),
        ((*TRAIN, "selfplay.stage=test_preflight:Unjudged"), "unknown judge 'nobody'"),
        ((*TRAIN, "data.prompt=chta"), "unknown prompt 'chta'. Did you mean 'chat'?"),
        ((*TRAIN, "logging.loggers=[wandbb]"), "unknown logger 'wandbb'. Did you mean 'wandb'?"),
        # what does not go together
        ((*TRAIN, "algorithm.reward=majority"), "set selfplay.stage=none, or algorithm.reward=verified"),
        ((*UNLABELLED, "sampler.name=adaptive_resampling"), "sampler.name=adaptive_resampling goes by which responses"),
        ((*UNLABELLED, "sampler.name=guided_resampling"), "sampler.name=guided_resampling goes by which responses"),
        ((*UNLABELLED, "sampler.name=threshold_clipping"), "sampler.name=threshold_clipping goes by which responses"),
        ((*UNLABELLED, "sampler.name=repeat_padding"), "sampler.name=repeat_padding goes by which responses"),
        (
            (*UNLABELLED, "sampler.refills=2"),
            "looks at responses alone, and learns from such answers too",
        ),
        ((*AZR, "sampler.refills=2"), "selfplay.stage=azr makes a step's first tasks itself"),
        ((*TRAIN, "sampler.refills=2", "algorithm.denominator=all"), "algorithm.denominator=all counts such answers"),
        (
            (*TRAIN, "sampler.refills=2", "sampler.name=guided_resampling"),
            "sampler.name=guided_resampling draws problems in a way of its own",
        ),
        ((*TRAIN, "sampler.refills=2", "data.limit=8"), "a step asks all of the 8 problems that there are"),
        ((*TRAIN, "sampler.refills=-1"), "sampler.refills"),
        (
            (*TRAIN, "selfplay.budget.first_samples=2", "selfplay.stage=rise"),
            "selfplay.stage=rise is not that of SvS and writes no variants",
        ),
        ((*AZR, "selfplay.budget.first_samples=4"), "set selfplay.budget.first_samples=0 or selfplay.stage=svs"),
        (
            (*TRAIN, "selfplay.budget.first_samples=4"),
            "budget.first_samples (4) must leave some of samples_per_variant (4) to be asked later",
        ),
        ((*TRAIN, "selfplay.budget.first_samples=-1"), "selfplay.budget.first_samples"),
        ((*TRAIN, "selfplay.budget.chance=0"), "selfplay.budget.chance"),
        ((*TRAIN, "selfplay.budget.context_chance=1.5"), "selfplay.budget.context_chance"),
        ((*TRAIN, "train.staleness=1"), "use servers (rollout.engine=vllm) or train.staleness=0"),
        ((*SERVERS, "train.staleness=1"), "set algorithm.rollout_correction to tis or icepop"),
        ((*TRAIN, "algorithm.icepop_range=[2,1]"), "algorithm.icepop_range must be 0 <= low < high, got 2.0 and 1.0"),
        ((*TRAIN, "algorithm.ratio_min=9"), "algorithm.ratio_min, ratio_max must be 0 <= low < high"),
        ((*TRAIN, "data.path=none"), "data.path=none, but for selfplay.stage=svs it must be a data set"),
        (
            (*AZR, "data.limit=8", "data.path=tiny:train"),
            "data.path=tiny:train, but for selfplay.stage=azr it must be 'none'",
        ),
        ((*TRAIN, "data.prompt=merf"), "say it in data.rules"),
        # files
        ((*TRAIN, "data.path=missing.jsonl"), "data path missing.jsonl does not exist"),
        ((*TRAIN, "evaluation.path=missing.parquet"), "data path missing.parquet does not exist"),
        ((*TRAIN, "model.path=no-such-folder"), "no-such-folder"),
        ((*TRAIN, "model.tokenizer=no-such-folder"), "no-such-folder"),
        ((*TRAIN, "selfplay.template=missing.txt"), "selfplay.template: missing.txt cannot be read"),
        (
            (*TRAIN, "selfplay.stage=rise", "selfplay.rise.template=README.md"),
            "verification template: README.md must contain {question} and {response}",
        ),
        ((*AZR, "selfplay.azr.templates=missing"), "selfplay.azr.templates: missing"),
        ((*AZR, "selfplay.azr.seed_file=missing.jsonl"), "selfplay.azr.seed_file: "),
        # lengths
        ((*TRAIN, "data.max_prompt_tokens=3"), "64 longer than 3 tokens: left out"),
        ((*TRAIN, "policy.tokens_per_micro_batch=200"), "raise the latter or lower the former"),
        ((*TRAIN, "algorithm.overlong_buffer=97"), "algorithm.overlong_buffer (97) is longer than the longest answer"),
        ((*TRAIN, "rollout.max_response_tokens=1000"), "has positions for 512: lower data.max_prompt_tokens or"),
        ((*TRAIN, "evaluation.max_response_tokens=512"), "evaluation: the longest prompt and the response limit make"),
        # layout and schedule
        ((*TRAIN, "policy.tensor_parallel=4"), "does not divide the model's attention heads (6); possible: 1, 2, 3, 6"),
        ((*TRAIN, "policy.pipeline_parallel=3"), "does not divide the model's layers (4); possible: 1, 2, 4"),
        ((*TRAIN, "policy.expert_parallel=2"), "policy.expert_parallel=2: the model has no experts, leave the key out"),
        (
            (*SFT, *REPLAYED[:3], "policy.expert_tensor_parallel=7"),
            "feed-forward width of an expert (160); possible: 1,",
        ),
        ((*TRAIN, "policy.router_replay=rollout"), "policy.router_replay=rollout: the model has no experts"),
        ((*SFT, *REPLAYED), "and nothing that is learned from is sampled here"),
        (
            (*SERVERS, *REPLAYED, "rollout.server.arguments={no-enable-prefix-caching: true}"),
            "policy.router_replay=rollout needs vLLM's prefix cache",
        ),
        ((*TRAIN, "policy.optimizer.warmup_steps=99"), "warmup_steps=99 must be less than the run's 3 updates"),
        ((*TRAIN, "policy.optimizer.min_learning_rate=1"), "min_learning_rate=1.0 must not exceed learning_rate="),
        # determinism
        (
            (*TRAIN, "rollout.deterministic=true", "policy.tensor_parallel=2"),
            "policy.tensor_parallel=2 adds parts of products that the engine computes whole: set it to 1",
        ),
        ((*TRAIN, "rollout.deterministic=true", "policy.lora.rank=4"), "computes adapters beside the weights"),
        ((*TRAIN, "rollout.deterministic=true", "rollout.top_p=0.9"), "cut-off distribution: set top_p to 1 and top_k"),
        ((*TRAIN, "rollout.deterministic=true", "rollout.top_k=40"), "cut-off distribution: set top_p to 1 and top_k"),
        ((*TRAIN, "rollout.deterministic=true", "policy.dtype=bf16"), "computes in fp32: set policy.dtype=fp32"),
        (
            (*TRAIN, "rollout.deterministic=true", "policy.dtype=bf16", "policy.backend=te", "policy.recompute=full"),
            "policy.backend=te computes otherwise: set it to local",
        ),
        ((*TRAIN, "rollout.deterministic=true", *REPLAYED), "is for dense models"),
        ((*TRAIN, "rollout.deterministic=true", *HYBRID), "this one has gated delta nets"),
        (
            (*EVAL, "rollout.deterministic=true", "dtype=bf16", "model.path=models/tiny"),
            "computes in fp32: set policy.",
        ),
        ((*SELF, "rollout.deterministic=true", "policy.dtype=bf16"), "computes in fp32: set policy.dtype=fp32"),
        (
            (*SERVERS, "rollout.deterministic=true", "rollout.server.arguments={attention-backend: flashinfer}"),
            "attention-backend=flashinfer, which is not batch-invariant in vLLM: name FLASH_ATTN, FLEX_ATTENTION or",
        ),
        (
            (*SERVERS, "rollout.deterministic=true", *EXTERNAL),
            "set the variable there, and leave the key out",
        ),
        # layout of servers
        (
            (*SERVERS, "rollout.server.tensor_parallel=4"),
            "does not suit the model's attention heads (6); possible: 1, 2",
        ),
        ((*SERVERS, "rollout.server.tensor_parallel=3"), "feed-forward width (320), key/value heads (2); possible: 1"),
        # modes of servers
        ((*TRAIN, "rollout.speculative.method=ngram"), "is an option of servers: set rollout.engine=vllm, or leave it"),
        ((*EVAL, "rollout.speculative.method=ngram"), "is an option of servers: set rollout.engine=vllm, or leave it"),
        ((*SERVERS, "rollout.speculative={method: ngram, lookup_min: 9}"), "lookup_min (9) must not exceed lookup_max"),
        ((*SERVERS, *EXTERNAL, "rollout.speculative.method=ngram"), "give them vLLM's --speculative-config there"),
        ((*TRAIN, "rollout.quantization=fp8", TIS), "rollout.quantization=fp8 is an option of servers: set rollout."),
        ((*SERVERS, "rollout.quantization=fp8", TIS), "rounds a model of 16 bits: set policy.dtype=bf16"),
        (
            (*SERVERS, "rollout.quantization=fp8", "policy.dtype=bf16"),
            "which the loss must correct: set algorithm.rollout_correction to tis or icepop, or algorithm.old_logprobs",
        ),
        ((*EVAL, "rollout.engine=vllm", "rollout.quantization=fp8", "dtype=fp32"), "rounds a model of 16 bits"),
        ((*TRAIN, "policy.fp8=e4m3", "policy.backend=te", "policy.dtype=bf16"), "which the loss must correct: set"),
        # servers
        ((*TRAIN, "rollout.placement=dedicated"), "dedicated needs servers: set rollout.engine: vllm"),
        ((*SERVERS, "rollout.temperature=3"), "rollout.temperature=3.0: servers of rollout.engine=vllm sample at"),
        ((*SERVERS, "evaluation.temperature=0.001"), "evaluation.temperature=0.001: servers of rollout.engine=vllm"),
        ((*SERVERS, "rollout.server.host=8.8.8.8"), "rollout.server.host: 8.8.8.8 can be reached from everywhere"),
        ((*SERVERS, "rollout.server.host=0.0.0.0"), "rollout.server.host: 0.0.0.0 can be reached from everywhere"),
        # fine-tuning
        ((*SFT, "policy.tokens_per_micro_batch=100"), "data.max_tokens (256) is over policy.tokens_per_micro_batch"),
        ((*SFT, "policy.optimizer.warmup_steps=9"), "policy.optimizer.warmup_steps=9 must be less than the run's 2"),
        ((*SFT, "policy.optimizer.min_learning_rate=1"), "min_learning_rate=1.0 must not exceed learning_rate="),
        ((*SFT, "policy.tensor_parallel=4"), "does not divide the model's attention heads (6); possible: 1, 2, 3, 6"),
        ((*SFT, "data.max_tokens=5"), "16 longer than 5 tokens: left out"),
        ((*SFT, "data.path=missing.jsonl"), "data path missing.jsonl does not exist"),
        ((*SFT, "model.tokenizer=no-such-folder"), "no-such-folder"),
        ((*SFT, "logging.loggers=[wandbb]"), "unknown logger 'wandbb'. Did you mean 'wandb'?"),
        ((*SFT, "export=README.md"), f"export: {ROOT}/README.md is a file; name a folder"),
        # rounds of fine-tuning
        ((*SELF, "policy.optimizer.warmup_steps=99"), "warmup_steps=99 must be less than the run's 60 updates"),
        ((*SELF, "policy.pipeline_parallel=3"), "does not divide the model's layers (4); possible: 1, 2, 4"),
        ((*SELF, "rollout.engine=locl"), "unknown rollout engine 'locl'. Did you mean 'local'?"),
        ((*SELF, "rollout.engine=vllm", "rollout.temperature=3"), "servers of rollout.engine=vllm sample at"),
        ((*SELF, "rollout.max_response_tokens=512"), "rollout: the longest prompt and the response limit make"),
        ((*SELF, "rollout.placement=dedicated"), "fastsvs self starts servers of its own"),
        ((*SELF, "evolution.feedback_template=nowhere.txt"), "nowhere.txt cannot be read"),
        ((*SELF, "evolution.replay=missing.jsonl"), "data path missing.jsonl does not exist"),
        # evaluation
        ((*EVAL, "rollout.engine=locl"), "unknown rollout engine 'locl'. Did you mean 'local'?"),
        ((*EVAL, "rollout.engine=vllm", "sets.heldout.temperature=3"), "sets.heldout.temperature=3.0: servers of"),
        ((*EVAL, "rollout.engine=vllm", "rollout.server.host=8.8.8.8"), "8.8.8.8 can be reached from everywhere"),
        ((*EVAL, "sets.heldout.max_response_tokens=512"), "sets.heldout: the longest prompt and the response limit"),
        ((*EVAL, "rollout.placement=dedicated"), "an evaluation starts servers of its own"),
        ((*EVAL, "sets.heldout.data.path=missing.jsonl"), "data path missing.jsonl does not exist"),
        ((*EVAL, "model.path=no-such-folder"), "no-such-folder"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_both_refuse_alike(refuse: Refuse, arguments: tuple[str, ...], message: str) -> None:
    assert message in refuse(*arguments)


class Unjudged(PlainStage):
    """A stage that wants a judge whom nobody knows."""

    judges = ("nobody",)


def test_a_model_ends_on_its_own_tokens(refuse: Refuse, tmp_path: Path) -> None:
    settings = json.loads((ROOT / "models" / "tiny" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"eos_token_id": settings["vocab_size"]}))
    message = refuse(*TRAIN, f"model.path={tmp_path}", "model.tokenizer=models/tiny")
    assert "lie outside the model's vocabulary of" in message


def test_a_dry_run_without_torchrun_leaves_the_number_of_processes_open(refuse: Refuse, tmp_path: Path) -> None:
    for job, message in (
        ("policy.pipeline_parallel=2", "needs a multiple of 2 processes, there are 1: start with torchrun"),
        ("rollout.placement=dedicated", "start torchrun with --nnodes 2 or more"),
    ):
        assert message in refuse(*SERVERS, job, dry=False)
        assert main([*SERVERS, job, f"run.dir={tmp_path}/run", "--dry-run"]) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="servers run on the GPU")
def test_a_dry_run_without_torchrun_does_not_know_where_servers_will_run(refuse: Refuse, tmp_path: Path) -> None:
    assert "vLLM 0.32 says the experts of tokens only where Triton runs" in refuse(*SERVERS, *REPLAYED, dry=False)
    assert main([*SERVERS, *REPLAYED, f"run.dir={tmp_path}/run", "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*TRAIN, "policy.pipeline_parallel=4"), "needs a multiple of 4 processes, there are 2"),
        ((*SERVERS, "rollout.placement=dedicated"), "rollout.nodes=1 of the job's 1 node(s) would run servers"),
        ((*UNLABELLED, "sampler.name=adaptive_resampling"), "sampler.name=adaptive_resampling goes by which responses"),
        ((*TRAIN, "policy.expert_parallel=2"), "policy.expert_parallel=2: the model has no experts, leave the key out"),
        ((*TRAIN, "policy.router_replay=rollout"), "policy.router_replay=rollout: the model has no experts"),
        ((*SFT, *REPLAYED), "and nothing that is learned from is sampled here"),
        ((*TRAIN, "policy.optimizer.warmup_steps=99"), "warmup_steps=99 must be less than the run's 3 updates"),
        ((*SFT, "policy.pipeline_parallel=4"), "needs a multiple of 4 processes, there are 2"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_a_rank_of_two_refuses_alike(capsys, monkeypatch, tmp_path: Path, arguments: tuple[str, ...], message: str):
    """What rank 0 says without waiting for the other: nothing collective comes before the refusal."""
    for name, value in (("WORLD_SIZE", 2), ("LOCAL_WORLD_SIZE", 2), ("RANK", 0), ("LOCAL_RANK", 0)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(distributed, "initialize", lambda *_: None)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    errors = []
    for more in ([], ["--dry-run"]):
        assert main([*arguments, f"run.dir={tmp_path}/run", *more]) == 2
        errors.append(capsys.readouterr().err.partition("fastsvs: error: ")[2])
    assert errors[0] == errors[1]
    assert message in errors[0]
    assert not any(tmp_path.iterdir())


def test_two_processes_refuse_alike(tmp_path: Path) -> None:
    def refuse(*more: str) -> set[str]:
        arguments = (*TRAIN, "policy.pipeline_parallel=4", f"run.dir={tmp_path}/run", *more)
        ended = Run(*arguments, processes=2).completed(120)
        assert ended.returncode == 1
        return {line for line in ended.stderr.splitlines() if "error: " in line}

    [message] = refuse()
    assert "needs a multiple of 4 processes, there are 2: start with torchrun" in message
    assert refuse("--dry-run") == {message}
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("job", [TRAIN, SFT, SELF, EVAL], ids=lambda job: job[0])
def test_a_file_is_no_folder_to_write_to(capsys, job: tuple[str, ...]) -> None:
    place = "output" if job is EVAL else "run.dir"
    for more in ([], ["--dry-run"]):
        assert main([*job, f"{place}=README.md/run", *more]) == 2
        assert f"{place}: {ROOT}/README.md is a file; name a folder" in capsys.readouterr().err


@pytest.mark.parametrize("job", [SELF, EVAL], ids=lambda job: job[0])
def test_a_dry_run_writes_nothing(capsys, tmp_path: Path, job: tuple[str, ...]) -> None:
    place = "output" if job is EVAL else "run.dir"
    assert main([*job, f"{place}={tmp_path}/new", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "8 prompts of 8 rows" in shown
    schema = EvalJob if job is EVAL else SelfJob
    (tmp_path / "resolved.yaml").write_text(shown)
    assert load(schema, tmp_path / "resolved.yaml") == load(schema, job[1], [*job[2:], f"{place}={tmp_path}/new"])
    assert not (tmp_path / "new").exists()
