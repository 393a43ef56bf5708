"""What the documentation says is there: every key, every metric, every file and test it names, and its example runs."""

import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import torch
from pydantic import BaseModel
from whole_runs import ROOT, SMALL

from fastsvs.arguments import parse
from fastsvs.cli import main
from fastsvs.config import EvalJob, SelfJob, SftJob, TrainJob, load
from fastsvs.files import read_jsonl
from fastsvs.selfplay.svs.extraction import Rejection
from fastsvs.stored_run import RunLayout

PAGES = sorted((ROOT / "docs").glob("*.md"))
SCHEMAS = {"train": TrainJob, "sft": SftJob, "eval": EvalJob, "self": SelfJob}


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def blocks(language: str, paths: Sequence[Path] = PAGES) -> Iterator[str]:
    for path in paths:
        yield from re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def keys(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, default as the table shows it)."""
    for name, field in schema.model_fields.items():
        entry = get_args(field.annotation)[1] if get_origin(field.annotation) is dict else None
        if is_section(field.annotation):
            yield from keys(field.annotation, f"{prefix}{name}.")
        elif is_section(entry):
            yield from keys(entry, f"{prefix}{name}.<set>.")
        else:
            yield prefix + name, "required" if field.is_required() else f"`{json.dumps(field.default)}`"


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_key_stands_with_its_default(command: str) -> None:
    sections = dict(
        re.findall(r"^## `fastsvs (\w+)`\n(.*?)(?=^## |\Z)", page("configuration"), re.DOTALL | re.MULTILINE)
    )
    rows = sections["train"] + (sections[command] if command != "train" else "")
    missing = [f"| `{key}` | {default} |" for key, default in keys(SCHEMAS[command])]
    missing = [row for row in missing if row not in rows]
    assert not missing


def test_the_configuration_page_is_current() -> None:
    document = runpy.run_path(str(ROOT / "docs" / "configuration.py"))["document"]
    assert page("configuration") == document(page("configuration")), "fastsvs/config has changed: run `make docs`"


def test_meanings_of_keys_are_statements() -> None:
    meanings = re.findall(r"^\| (`.+?`) \| .+ \| (.+) \|$", page("configuration"), re.MULTILINE)
    assert len(meanings) > 150
    fragments = r"(Of|To|By|In|On|At|As|When|Where|Whether|Which|What|How|Only|If|Longer|Further) "
    ill_formed = [
        (key, text) for key, text in meanings if not re.fullmatch(r"[A-Za-z].*\.", text) or re.match(fragments, text)
    ]
    assert not ill_formed


def test_commands_load() -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if not re.search(" --out | report ", line)]
    assert len(lines) >= 8
    for line in lines:
        words = shlex.split(line.partition(">")[0], comments=True)
        options = parse("", words[words.index("fastsvs") + 1 :])
        schema = TrainJob if options.command == "plan" else SCHEMAS[options.command]
        load(schema, ROOT / options.config, options.overrides)


def anchors(path: Path) -> list[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def test_links_files_and_tests_exist() -> None:
    for path in [*PAGES, *(ROOT / "docs" / "tutorials").glob("*.md"), ROOT / "CHANGELOG.md", ROOT / "README.md"]:
        for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", path.read_text()):
            linked = path.parent / target if target else path
            assert linked.exists(), f"{path.name}: {target}"
            assert not anchor or anchor in anchors(linked), f"{path.name}: {target}#{anchor}"
    guards = [guard for path in PAGES for guard in guards_in(path.read_text())]
    assert len(guards) > 40
    for file, test in guards:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def guards_in(text: str) -> list[tuple[str, str]]:
    """Return the tests that a text names, by file."""
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


def test_each_line_of_security_has_its_test() -> None:
    rows = [line for line in page("security").splitlines() if re.match(r"\| (?!threat )\w", line)]
    assert len(rows) > 20
    assert [row for row in rows if not guards_in(row.split("|")[-2])] == []


def test_the_table_of_a_runs_files_names_all_of_them() -> None:
    layout = RunLayout(Path())
    files = [str(getattr(layout, name)) for name, kind in vars(RunLayout).items() if isinstance(kind, property)]
    assert len(files) >= 10
    rows = [line for line in page("train").splitlines() if line.startswith("| `")]
    assert [file for file in files if not any(re.search(rf"`{re.escape(file)}[`/]", row) for row in rows)] == []


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the module in docs/extend.md, importable."""
    (source,) = blocks("python", [ROOT / "docs" / "extend.md"])
    (tmp_path / "my_ideas.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(ROOT)
    yield "my_ideas"
    sys.modules.pop("my_ideas", None)


def test_the_example_of_an_extension_trains(example: str, tmp_path: Path) -> None:
    plugins = [
        *(f"data.prompt={example}:terse", f"selfplay.stage={example}:SecondChance"),
        *(f"algorithm.advantage={example}:above_average", f"algorithm.loss={example}:reinforce"),
        *(f"sampler.name={example}:ShortFirst", f"dynamics.metrics=[samples,{example}:motion]"),
    ]
    folder = tmp_path / "run"
    assert main(["train", "configs/tiny_svs.yaml", *SMALL, *plugins, "run.steps=2", f"run.dir={folder}"]) == 0
    rows = read_jsonl(folder / "metrics.jsonl")
    assert any(row["groups/again"] > 0 for row in rows)
    assert all(row["policy/surprise_most"] > row["policy/surprise"] > 0 for row in rows if row["policy/updates"])
    assert rows[0]["dynamics/motion"] == 0 < rows[1]["dynamics/motion"]
    assert "dynamics/doubt" in rows[0]
    assert "dynamics/sparsity/exact" not in rows[0]
    groups = {row["key"]: row for row in read_jsonl(folder / "samples" / "step_1.jsonl")}
    again = next(row for row in groups.values() if row["kind"] == "again")
    assert "correct" not in groups[again["parent"]]["verdicts"]
    assert len(again["responses"]) == 2 * len(groups[again["parent"]]["responses"])
    lengths = [len(row["question"]) for key, row in sorted(groups.items()) if row["kind"] == "original"]
    assert lengths == sorted(lengths)
    learned = [sum(sum(row["rewards"]) for row in rows_of(folder, step) if row["trained"]) for step in (1, 2)]
    assert [row["credit/rewards_so_far"] for row in rows] == [learned[0], sum(learned)]


def rows_of(folder: Path, step: int) -> list[dict[str, Any]]:
    return read_jsonl(folder / "samples" / f"step_{step}.jsonl")


def test_the_example_of_a_reward_trains(example: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    plugin = f"algorithm.reward={example}:brevity"
    assert main(["train", "configs/tiny_rlvr.yaml", *SMALL, plugin, "run.steps=1", f"run.dir={folder}"]) == 0
    rows = rows_of(folder, 1)
    assert all(row["rewards"] == [-float(tokens) for tokens in row["tokens"]] for row in rows)
    (metrics,) = read_jsonl(folder / "metrics.jsonl")
    assert metrics["credit/longest"] == max(max(row["tokens"]) for row in rows)


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("data.prompt", "chat, merf"),
        ("sampler.name", "epochs"),
        ("selfplay.stage", "none"),
        ("algorithm.reward", "majority"),
        ("algorithm.advantage", "grpo, rloo, trr, verl"),
        ("algorithm.verl.base", "grpo, rloo, trr, verl"),
        ("algorithm.loss", "ppo"),
        ("rollout.engine", "local, vllm"),
        ("merging.hook", "merge, none"),
        ("dynamics.metrics", "entropy, rank, samples, updates"),
        ("logging.loggers", "tensorboard"),
    ],
)
def test_a_bad_name_lists_the_known_ones(
    key: str, known: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    value = "[nosuch]" if key in ("logging.loggers", "dynamics.metrics") else "nosuch"
    assert main(["train", "configs/tiny_svs.yaml", "--dry-run", f"{key}={value}", f"run.dir={tmp_path}/run"]) == 2
    message = capsys.readouterr().err
    assert "'nosuch'" in message
    assert known in message


def test_the_example_of_the_sandbox_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (source,) = blocks("python", [ROOT / "docs" / "sandbox.md"])
    exec(source, {})
    _walls, good, bad, same = capsys.readouterr().out.splitlines()
    assert good == "ok ({'a': 2}, {'b': 3})"
    assert bad.startswith("error PermissionError")
    assert same == "False"


def test_the_example_of_the_kernels_runs() -> None:
    (source,) = blocks("python", [ROOT / "docs" / "kernels.md"])
    tokens = 5
    names: dict[str, Any] = {
        "torch": torch,
        "tokens": tokens,
        "hidden": torch.randn(tokens, 8, requires_grad=True),
        "weight": torch.randn(20, 8, requires_grad=True),
        "targets": torch.tensor([0, 19, -100, 3, 3]),
        "advantages": torch.randn(tokens),
        "old": -torch.rand(tokens),
    }
    exec(source, names)
    assert names["result"].loss.isfinite()
    assert names["hidden"].grad.abs().sum() > 0
    assert torch.equal(names["result"].logprobs, names["logprobs"].detach())


def test_every_metric_is_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    options = [
        *("algorithm.kl_coefficient=0.01", "algorithm.rollout_correction=tis", "algorithm.samples_per_update=2"),
        *("algorithm.overlong_buffer=16", "selfplay.budget.first_samples=2", "sampler.refills=1"),
        *("run.steps=2", f"run.dir={tmp_path}/run"),
    ]
    assert main(["train", "configs/tiny_svs.yaml", *SMALL, *options]) == 0
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert any(row["policy/updates"] > 1 for row in rows)
    names = {re.sub(r"/(original|synthesis|variant)(?=/|$)", "/<kind>", name) for row in rows for name in row}
    names = {re.sub(r"^dynamics/solved/<kind>/\d+$", "dynamics/solved/<kind>/<c>", name) for name in names}
    names = {re.sub(r"^(dynamics/entropy)/all/", r"\1/<kind>/", name) for name in names}
    assert {f"dynamics/entropy_at/0.{tenth}" for tenth in range(10)} <= names
    names -= {f"dynamics/entropy_at/0.{tenth}" for tenth in range(1, 9)}  # the table names the first and the last
    names |= {f"rejected/{reason}" for reason in Rejection}
    names |= json.loads((tmp_path / "run" / "evaluations" / "step_2.json").read_text()).keys()
    documented = set(re.findall(r"`([^`]+)`", page("metrics")))
    assert {re.sub(r"@\d+$", "@k", name) for name in names} <= documented
