"""Configuration: every fault is named with what would be right, and what is dumped loads again."""

from pathlib import Path

import pytest

from fastsvs.config import EvalJob, SelfJob, SftJob, TrainJob, dump, load
from fastsvs.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
MINIMAL = "model: {path: m}\ndata: {path: d}\nrun: {dir: r}\n"


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "job.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_defaults_are_the_constants_of_the_paper(write) -> None:
    job = load(TrainJob, write(MINIMAL))
    assert job.run.prompts_per_step == 256
    assert job.rollout.samples_per_prompt == job.selfplay.variants_per_context == job.selfplay.samples_per_variant == 8
    assert job.selfplay.context_range == (0.125, 0.5)
    assert job.selfplay.positive_range == (0.125, 0.625)
    assert (job.algorithm.clip_low, job.algorithm.clip_high, job.algorithm.dual_clip) == (0.2, 0.28, 3.0)
    assert job.algorithm.samples_per_update == 2048
    assert job.policy.optimizer.learning_rate == 1e-6
    assert (job.data.max_prompt_tokens, job.rollout.max_response_tokens) == (4096, 8192)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (MINIMAL + "polcy: {}\n", [], r"polcy: unknown key; did you mean 'policy'\?"),
        (MINIMAL, ["policy.tensor_paralel=2"], r"tensor_paralel: unknown key; did you mean 'tensor_parallel'\?"),
        (
            MINIMAL,
            ["sync.sparse=auto", "sync.shard_to_shard=false"],
            r"sync: .*set shard_to_shard: true",
        ),
        (MINIMAL, ["policy.tensor_parallel=0"], r"policy\.tensor_parallel: .*greater than or equal to 1 \(got 0\)"),
        (MINIMAL, ["selfplay.context_range=[0.5,0.1]"], r"selfplay: context_range must be \[low, high\].*0\.1\]$"),
        (MINIMAL, ["evaluation.k=[]"], r"evaluation\.k: .*at least 1 item"),
        (MINIMAL, ["evaluation.k=[16]"], r"must lie in 1\.\.samples \(8\)"),
        (MINIMAL + "rollout:\n", [], r"rollout: .*\(got None; write an empty section as \{\}, or leave it out\)"),
        (MINIMAL, ["run.dir="], r"run\.dir: .*\(got None; quote a word .*, or give the key a value\)"),
        (MINIMAL, ["rollout=8"], r"rollout: .*\(got 8; it is a section, with keys of its own\)"),
        (MINIMAL, ["policy.optimizer.learning_rate=.inf"], r"learning_rate: .*finite number \(got inf\)"),
        (MINIMAL, ["rollout.temperature=.nan"], r"temperature: .*finite number \(got nan\)"),
        (MINIMAL + "1: a\n", [], r"1: Keys should be strings"),
        (MINIMAL, ["run.seed"], "must look like section.key=value"),
        (MINIMAL, [".=1"], "'.=1' must look like section.key=value"),
        (MINIMAL, ["policy..dtype=fp32"], "must look like section.key=value"),
        (MINIMAL, ["evaluation.k=8"], r"evaluation\.k: .*\(got 8; write a list: \[8\]\)"),
        (MINIMAL, ["run.keep_checkpoints=true"], r"keep_checkpoints: .*must be a number \(got True\)"),
        (MINIMAL, ["run.save_minutes=yes"], r"save_minutes: .*must be a number \(got True\)"),
        (MINIMAL, ["data.limit=off"], r"data\.limit: .*must be a number \(got False\)"),
        (MINIMAL, ["run.timeout_seconds=1e300"], r"timeout_seconds: .*less than or equal to 200000"),
        (MINIMAL, ["sync.timeout_seconds=99999999"], r"timeout_seconds: .*less than or equal to 200000"),
        (MINIMAL, ["model.path.x=1"], "'path' is a value, not a section"),
        (MINIMAL, ["run.steps=["], "cannot be read as YAML"),
        ("data: {path: d}\nrun: {dir: r}\n", [], r"model: Field required$"),
        ("- a\n- b\n", [], "must hold a mapping"),
        ("a: [\n", [], "cannot be read as YAML"),
    ],
)
def test_faults_are_named(write, text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(TrainJob, write(text), overrides)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load(TrainJob, tmp_path / "none.yaml")
    with pytest.raises(UserError, match=r"~nobody-here/none\.yaml does not exist"):
        load(TrainJob, "~nobody-here/none.yaml")


def test_a_link_to_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(UserError, match=r"loop\.yaml cannot be read as YAML: .*symbolic links"):
        load(TrainJob, tmp_path / "loop.yaml")


@pytest.mark.parametrize("name", ["tiny_svs", "tiny_svs.yaml", "configs/tiny_svs.yaml"])
def test_a_missing_file_that_is_shipped_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"does not exist: .*; FastSvS ships one as fastsvs:tiny_svs$"):
        load(TrainJob, name)


def test_a_configuration_of_another_command_is_named() -> None:
    with pytest.raises(UserError, match=r"it is a configuration of `fastsvs train`$"):
        load(EvalJob, "fastsvs:tiny_svs")
    with pytest.raises(UserError, match=r"it is a configuration of `fastsvs sft`$"):
        load(TrainJob, "fastsvs:tiny_sft")


@pytest.mark.parametrize("name", ["openai/gsm8k", "../x", "summary", "model", '""', ".hidden", "a" * 101])
def test_a_set_that_cannot_name_its_files_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="cannot name the files of a set"):
        load(EvalJob, "fastsvs:tiny_eval", ["sets={" + name + ": {data: {path: 'tiny:heldout'}}}"])


@pytest.mark.parametrize("name", ["aime24", "math-500", "MATH 500", "amc_2023.v2", "größe", "c++"])
def test_a_set_may_have_any_name_of_a_file(name: str) -> None:
    assert list(load(EvalJob, "fastsvs:tiny_eval", ["sets={" + name + ": {data: {path: 'tiny:heldout'}}}"]).sets) == [
        name
    ]


def test_all_faults_come_at_once(write) -> None:
    with pytest.raises(UserError, match="2 fault") as caught:
        load(TrainJob, write(MINIMAL), ["run.steps=-1", "rollout.temperature=0"])
    assert "run.steps" in str(caught.value)
    assert "rollout.temperature" in str(caught.value)


def test_a_child_states_only_what_differs(write) -> None:
    write(MINIMAL + "rollout: {temperature: 0.5, max_sequences: 3}\n", "base.yaml")
    job = load(TrainJob, write("extends: base.yaml\nrollout: {temperature: 0.9}\n"), ["run.seed=7"])
    assert (job.rollout.temperature, job.rollout.max_sequences, job.run.seed, job.run.dir) == (0.9, 3, 7, "r")


SHIPPED = sorted(path for path in CONFIGS.rglob("*.yaml") if path.name != "base.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_all_that_is_shipped_loads_and_what_is_dumped_loads_again(write, path: Path) -> None:
    if path.parent.name == "eval" or path.stem.endswith("eval"):
        job = load(EvalJob, path, ["model.path=x"])
    elif path.stem.endswith("_self"):
        job = load(SelfJob, path)
    else:
        job = load(SftJob if "sft" in path.stem else TrainJob, path)
    assert load(type(job), write(dump(job))) == job
