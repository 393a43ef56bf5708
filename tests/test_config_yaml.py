"""YAML as a user writes it: no value is lost to an equal key, a circle, or a word that means something else."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.config import EvalJob, SelfJob, SftJob, TrainJob, dump, load
from fastsvs.config.comparison import differences
from fastsvs.config.yaml_text import LARGEST, parse, write
from fastsvs.errors import UserError

MINIMAL = "model: {path: m}\ndata: {path: d}\nrun: {dir: r}\n"


def job(tmp_path: Path, text: str, *overrides: str) -> TrainJob:
    (tmp_path / "job.yaml").write_text(text)
    return load(TrainJob, tmp_path / "job.yaml", overrides)


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        (MINIMAL + "data: {limit: 3}\n", "data", (2, 4)),
        (MINIMAL + "rollout:\n  top_p: 0.9\n  max_sequences: 3\n  top_p: 1\n", "top_p", (5, 7)),
        (MINIMAL + "rollout: {top_p: 0.9, top_p: 0.9}\n", "top_p", (4, 4)),
        (MINIMAL + "selfplay:\n  shaping:\n    rule: band\n    'rule': solvable\n", "rule", (6, 7)),
        ("extends: a.yaml\n" + MINIMAL + "extends: b.yaml\n", "extends", (1, 5)),
        (MINIMAL + "logging: {loggers: [{a: 1, a: 2}]}\n", "a", (4, 4)),
    ],
)
def test_a_key_that_stands_twice_is_named_with_both_lines(
    tmp_path: Path, text: str, key: str, lines: tuple[int, int]
) -> None:
    message = rf"job\.yaml: the key '{key}' stands twice, in line {lines[0]} and in line {lines[1]}"
    with pytest.raises(UserError, match=message):
        job(tmp_path, text)


def test_an_override_is_read_as_strictly(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"override 'rollout=.*' *: the key 'top_p' stands twice"):
        job(tmp_path, MINIMAL, "rollout={top_p: 1, top_p: 0.5}")


def test_a_merge_key_may_be_overridden(tmp_path: Path) -> None:
    text = MINIMAL + "rollout: {<<: {top_p: 0.5, max_sequences: 3}, top_p: 0.7}\n"
    assert (job(tmp_path, text).rollout.top_p, job(tmp_path, text).rollout.max_sequences) == (0.7, 3)


@pytest.mark.parametrize("circle", [("a.yaml",), ("a.yaml", "b.yaml"), ("a.yaml", "b.yaml", "c.yaml")])
def test_files_that_extend_each_other_are_named(tmp_path: Path, circle: tuple[str, ...]) -> None:
    for file, parent in zip(circle, (*circle[1:], circle[0]), strict=True):
        (tmp_path / file).write_text(f"extends: ./{parent}\n{MINIMAL}")
    with pytest.raises(UserError, match=r"in a circle: .*a\.yaml extends .*a\.yaml$"):
        load(TrainJob, tmp_path / "a.yaml")


def test_a_file_may_be_extended_twice_on_different_ways(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(MINIMAL)
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text(f"extends: base.yaml\nrun: {{seed: {ord(name)}}}\n")
    assert job(tmp_path, "extends: [a.yaml, b.yaml]\n").run.seed == ord("b")


@pytest.mark.parametrize("extended", ["3", "{a: b}", "[a.yaml, 3]", "null", "true"])
def test_extends_that_names_no_files(tmp_path: Path, extended: str) -> None:
    with pytest.raises(UserError, match="extends must name a file or a list of files"):
        job(tmp_path, f"extends: {extended}\n{MINIMAL}")


def bomb(depth: int, width: int = 10) -> str:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb(30),
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a0: &a0 {k: 1}\n" + "\n".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 20)),
    ],
    ids=["lists", "a list in itself", "a mapping in itself", "merge keys"],
)
def test_aliases_without_end_are_refused_at_once(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=rf"job\.yaml: its aliases .* more than {LARGEST:,} values"):
        job(tmp_path, text)


def test_an_alias_may_be_used(tmp_path: Path) -> None:
    text = "model: {path: &m models/x, tokenizer: *m}\ndata: {path: d}\nrun: {dir: r}\n"
    assert job(tmp_path, text).model.tokenizer == "models/x"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        "x: " + "9" * 5000,
        "x: \0",
        "x: 1\n---\ny: 2",
        "? [a]\n: b",
        'x: "\\ud83d"',
        "x: !!python/name:os.system",
    ],
)
def test_text_that_is_no_configuration(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"job\.yaml"):
        job(tmp_path, text)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("2026-11-27", "2026-11-27"),
        ("2026-11-27 10:00:00", "2026-11-27 10:00:00"),
        ("12:30:45", "12:30:45"),
        ("010", "010"),
        ("'None'", "None"),
        ("none", "none"),
        ("Nonesuch", "Nonesuch"),
        ("'2024'", "2024"),
    ],
)
def test_words_stay_words(tmp_path: Path, word: str, value: str) -> None:
    assert job(tmp_path, MINIMAL, f"run.dir={word}").run.dir == value
    assert job(tmp_path, MINIMAL.replace("dir: r", f"dir: '{value}'")).run.dir == value


@pytest.mark.parametrize("word", ["None", "null", "Null", "NULL", "~", ""])
def test_none_is_null_in_every_spelling(tmp_path: Path, word: str) -> None:
    read = job(tmp_path, MINIMAL, f"data.suffix={word}", f"data.system_prompt={word}", f"logging.name={word}")
    assert (read.data.suffix, read.data.system_prompt, read.logging.name) == ("", None, None)
    with pytest.raises(UserError, match=r"selfplay\.stage: .*valid string \(got None; quote a word"):
        job(tmp_path, MINIMAL, f"selfplay.stage={word}")


def test_a_word_that_reads_as_something_else_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.dir: .*valid string \(got 2024; quote a word or number"):
        job(tmp_path, MINIMAL, "run.dir=2024")


WORDS = st.sampled_from(
    ["None", "null", "~", "2026-11-27", "010", "12:30", "1e5", "on", "no", "", "0x1f", "-", "9" * 40]
)


@given(st.dictionaries(st.text("abc", min_size=1), WORDS | st.text() | st.integers() | st.none() | st.booleans()))
def test_what_is_written_is_read_back(tree: dict) -> None:
    assert parse(write(tree), "here") == (tree or {})


def test_home_is_expanded_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    train = job(
        tmp_path,
        "model: {path: ~/m, tokenizer: ~/t}\ndata: {path: ~/d}\nrun: {dir: ~/r}\n",
        *("evaluation.path=~/e", "selfplay.template=~/s", "selfplay.rise.template=~/i"),
        *("selfplay.azr.seed_file=~/f", "selfplay.azr.templates=~/a"),
    )
    (tmp_path / "sft.yaml").write_text("extends: ~/job.yaml\nexport: ~/x\n")
    sft = load(SftJob, "~/sft.yaml")
    (tmp_path / "self.yaml").write_text("extends: ~/job.yaml\nevolution: {replay: ~/p, feedback_template: ~/f}\n")
    own = load(SelfJob, "~/self.yaml", ["evolution.refinement_template=~/g"])
    (tmp_path / "eval.yaml").write_text("model: {path: ~/m}\noutput: ~/o\nsets: {a: {data: {path: ~/d}}}\n")
    evaluated = load(EvalJob, "~/eval.yaml", ["sets.a.verify.template=~/v"])
    for read in (train, sft, own, evaluated):
        assert "~/" not in dump(read)
        assert str(tmp_path) in dump(read)
    assert train.data.path == os.path.expanduser("~/d")
    assert sft.export == str(tmp_path / "x")


def test_a_recorded_configuration_is_compared_as_it_is_read(tmp_path: Path) -> None:
    first = job(tmp_path, MINIMAL, "run.dir='None'", "data.suffix=None")
    (tmp_path / "config.yaml").write_text(dump(first))
    assert differences(tmp_path / "config.yaml", first, lambda key: False) == []
