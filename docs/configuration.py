"""`make docs`, or `python docs/configuration.py`: writes the chapters of docs/configuration.md from the models in
fastsvs/config, a row for every key. What stands above the mark in the page is written by hand and stays.

It lies here and not in the package because a wheel has no docs/ to write to.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from inspect import get_annotations
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from fastsvs.config import EvalJob, Section, SelfJob, SftJob, TrainJob

PAGE = Path(__file__).with_suffix(".md")
MARK = "<!-- made by make docs from the docstrings in fastsvs/config -->\n"
JOBS: dict[str, type[Section]] = {"train": TrainJob, "sft": SftJob, "eval": EvalJob, "self": SelfJob}
HEAD = ("| key | default | meaning |", "|---|---|---|")

Fields = list[tuple[str, FieldInfo]]


def document(page: str) -> str:
    """Return the page with all that follows the mark made anew."""
    by_hand, mark, _ = page.partition(MARK)
    if not mark:
        raise ValueError(f"{PAGE.name} must hold the line {MARK.strip()}")
    train, *others = JOBS
    chapters = [first_chapter(train), *(further_chapter(command) for command in others)]
    return by_hand + MARK + "\n" + "\n".join(chapters)


def first_chapter(command: str) -> str:
    """Return the chapter of a job whose sections have a table each."""
    lines = heading(command)
    for name, field in fields(JOBS[command]):
        section = section_of(field)
        assert section is not None, f"{name} is no section"
        lines += [f"### {name}", "", *paragraph(about(section)), "", *HEAD, *rows(section, f"{name}."), ""]
    return "\n".join(lines)


def further_chapter(command: str) -> str:
    """Return the chapter of a job that shares sections with `fastsvs train`: they are named, the rest is one table."""
    shared, own = share(JOBS[command])
    lines = heading(command)
    names = [f"[`{name}`](#{name})" for name, _ in shared]
    known = f"Sections {', '.join(names[:-1])} and {names[-1]} are those of `fastsvs train`."
    lines += [*paragraph(known), ""]
    notes = [f"- `{name}`: {linked(field.description)}" for name, field in shared if field.description]
    lines += [*(line for note in notes for line in paragraph(note, "  ")), ""] if notes else []
    return "\n".join([*lines, *HEAD, *(row for name, field in own for row in rows_of(name, field)), ""])


def share(job: type[Section]) -> tuple[Fields, Fields]:
    """Split the fields of `job` into the sections that `fastsvs train` has too and the rest."""
    known = {name: section_of(field) for name, field in TrainJob.model_fields.items()}
    shared = [(name, field) for name, field in fields(job) if name in known and section_of(field) is known[name]]
    return shared, [(name, field) for name, field in fields(job) if (name, field) not in shared]


def rows(section: type[Section], prefix: str) -> Iterator[str]:
    """Yield the rows of all keys of `section`."""
    for name, field in fields(section):
        yield from rows_of(prefix + name, field)


def rows_of(key: str, field: FieldInfo) -> Iterator[str]:
    """Yield the row of one key, and those of the keys below it."""
    section = section_of(field)
    if section is None:
        yield row(key, default(field), described(key, field))
        return
    if get_origin(field.annotation) is dict:
        key += ".<set>"
    if field.default is None:
        yield row(key, default(field), described(key, field))
    else:
        yield row(key, "section", field.description or about(section))
    yield from rows(section, f"{key}.")


def row(key: str, value: str, meaning: str) -> str:
    assert "|" not in key + value + meaning, f"{key}: a bar would end the cell of the table"
    return f"| `{key}` | {value} | {linked(meaning)} |"


def fields(section: type[Section]) -> Fields:
    """Return the fields of `section`, its own before those that it inherits."""
    own = get_annotations(section)
    return sorted(section.model_fields.items(), key=lambda item: item[0] not in own)


def section_of(field: FieldInfo) -> type[Section] | None:
    """Return the section that stands at `field`, also where it may be null or is one of several in a mapping."""
    candidates: tuple[Any, ...] = (field.annotation, *get_args(field.annotation))
    return next((part for part in candidates if isinstance(part, type) and issubclass(part, Section)), None)


def default(field: FieldInfo) -> str:
    return "required" if field.is_required() else f"`{json.dumps(field.default)}`"


def described(key: str, field: FieldInfo) -> str:
    if not field.description:
        raise ValueError(f"{key} has no docstring in fastsvs/config")
    return field.description


def about(section: type[Section]) -> str:
    if not section.__doc__:
        raise ValueError(f"{section.__name__} has no docstring")
    return section.__doc__


def heading(command: str) -> list[str]:
    """Return the heading of a job's chapter and what the job is, as its docstring says after the command's name."""
    _, _, text = about(JOBS[command]).partition(f"`fastsvs {command}`: ")
    return [f"## `fastsvs {command}`", "", *paragraph(text[0].upper() + text[1:]), ""]


def paragraph(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(linked(text), 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def linked(text: str) -> str:
    """Return `text` on one line, with docs/name.md as a link to that page."""
    return re.sub(r"docs/(\w+)\.md(#[\w-]*\w)?", r"[\1](\1.md\2)", " ".join(text.split()))


if __name__ == "__main__":
    PAGE.write_text(document(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
