"""Rows of a parquet, json or jsonl file, of a folder of them, or of a hub id, as plain dictionaries."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastsvs.errors import UserError
from fastsvs.shipped import missing

Row = dict[str, Any]

SUFFIXES = (".parquet", ".jsonl", ".json")
_HUB_ID = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?")


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file or hub split. `name` begins the ids of its rows; `where` names the table in messages."""

    name: str
    where: str
    rows: list[Row]

    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for row in self.rows for column in row))


def read_tables(path: str, split: str) -> list[Table]:
    """Read all tables at `path`, the files of a folder in sorted order. Raises UserError for unreadable or empty
    data."""
    local = Path(path).expanduser()
    if local.is_dir():
        tables = _read_folder(local)
    elif local.is_file():
        tables = [_read_file(local, local.stem)]
    else:
        tables = [_read_hub(path, split)]
    if not any(table.rows for table in tables):
        raise UserError(f"{path} holds no rows")
    return [table for table in tables if table.rows]


def _read_folder(folder: Path) -> list[Table]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise UserError(f"folder {folder} holds no {', '.join(SUFFIXES)} file")
    return [_read_file(file, file.relative_to(folder).as_posix()) for file in files]


def _read_file(file: Path, name: str) -> Table:
    readers = {".parquet": _read_parquet, ".jsonl": _read_json_lines, ".json": _read_json}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise UserError(f"{file}: cannot read {file.suffix or 'a file without a suffix'}; known: {', '.join(SUFFIXES)}")
    try:
        rows = reader(file)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    return Table(name, str(file), rows)


def _read_parquet(file: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(file).to_pylist()
    except pyarrow.ArrowException as error:
        raise UserError(f"{file} is not a readable parquet file: {error}") from error


def _read_json_lines(file: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{file} line {number} is not JSON: {error}") from error
            rows.append(_as_row(row, f"{file} line {number}"))
    return rows


def _read_json(file: Path) -> list[Row]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one object a line under the suffix .json
            return _read_json_lines(file)
        raise UserError(f"{file} is not JSON: {error}") from error
    if isinstance(tree, dict):
        lists = [value for value in tree.values() if isinstance(value, list)]
        tree = lists[0] if len(lists) == 1 else [tree]
    if not isinstance(tree, list):
        raise UserError(f"{file} must hold a list of objects, found {type(tree).__name__}")
    return [_as_row(row, f"{file} row {index}") for index, row in enumerate(tree)]


def _as_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where} must be an object with named columns, found {type(value).__name__}")
    return value


def _read_hub(path: str, split: str) -> Table:
    hub = _HUB_ID.fullmatch(path)
    if hub is None or path.lower().endswith(SUFFIXES) or path.startswith("."):
        raise UserError(f"data path {path} does not exist: {missing(path)}")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UserError(f"{missing(path)}, and the hub needs the package `datasets`: {error}") from error
    try:
        rows = load_dataset(hub["name"], hub["config"], split=split).to_list()
    except Exception as error:  # the hub client raises dozens of types; all mean that the data is not to be had
        raise UserError(
            f"{missing(path)}, and as a hub data set (`name` or `name:config`, split {split!r}) "
            f"it cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return Table(path, f"{path} ({split})", rows)
