"""Tables of rows: of a file, of a folder of them, of what `datasets` saved to a disk, or of a hub id."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastsvs import hub
from fastsvs.data.formats import COMPRESSED, SUFFIXES, Row, read_file, rows_of, stem_of, suffix_of
from fastsvs.data.splits import choose
from fastsvs.errors import UserError
from fastsvs.shipped import missing

ABOUT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Names of files that `datasets` writes beside the data."""
_HUB_ID = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?")


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file or split. `name` begins the ids of its rows; `where` names the table in messages."""

    name: str
    where: str
    rows: list[Row]

    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for row in self.rows for column in row))


def read_tables(path: str, split: str) -> tuple[list[Table], list[str]]:
    """Return all tables of `split` at `path`, the files of a folder in sorted order, and lines about what was not read.

    A file that is named itself is read whatever `split` says. Raises UserError for unreadable or empty data.
    """
    local = Path(os.path.expanduser(path))
    if local.is_dir() and (local / "dataset_dict.json").is_file():
        tables, lines = _read_saved_splits(local, split)
    elif local.is_dir() and (local / "state.json").is_file():
        tables, lines = [Table(local.name, str(local), _read_saved(local))], []
    elif local.is_dir():
        tables, lines = _read_folder(local, split)
    elif local.is_file():
        tables, lines = [Table(stem_of(local), str(local), read_file(local))], []
    else:
        tables, lines = [_read_hub(path, split)], []
    if not any(table.rows for table in tables):
        raise UserError(f"{path} holds no rows")
    empty = [f"{table.where} holds no rows" for table in tables if not table.rows]
    return [table for table in tables if table.rows], [*lines, *empty]


def _read_folder(folder: Path, split: str) -> tuple[list[Table], list[str]]:
    files = {
        file.relative_to(folder).as_posix(): file
        for file in sorted(folder.rglob("*"))
        if suffix_of(file) in SUFFIXES and file.is_file() and not _is_aside(file.relative_to(folder))
    }
    if not files:
        raise UserError(f"folder {folder} holds no {', '.join(SUFFIXES)} file")
    bare = {(Path(name).parent / stem_of(file)).as_posix(): name for name, file in files.items()}
    if len(bare) < len(files):  # x.csv beside x.json
        bare = {name: name for name in files}
    chosen, lines = choose(list(bare), split, f"folder {folder}")
    return [Table(bare[name], str(files[bare[name]]), read_file(files[bare[name]])) for name in chosen], lines


def _is_aside(file: Path) -> bool:
    """Return whether a file is about the data instead of data, or hidden, as the cache of a download is."""
    return file.name in ABOUT_DATA or any(part.startswith(".") for part in file.parts)


def _read_saved(folder: Path) -> list[Row]:
    from datasets import load_from_disk

    try:
        return rows_of(load_from_disk(str(folder)).with_format("arrow")[:])
    except Exception as error:  # of pyarrow, json and datasets; each means that the folder is damaged
        raise UserError(
            f"{folder} looks like the work of `save_to_disk` and cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def _read_saved_splits(folder: Path, split: str) -> tuple[list[Table], list[str]]:
    names = sorted(state.parent.name for state in folder.glob("*/state.json"))
    chosen, lines = choose(names, split, str(folder))
    return [Table(name, str(folder / name), _read_saved(folder / name)) for name in chosen], lines


def _read_hub(path: str, split: str) -> Table:
    named = _HUB_ID.fullmatch(path)
    if named is None or path.lower().endswith((*SUFFIXES, *COMPRESSED)) or path.startswith("."):
        raise UserError(f"data path {path} does not exist: {missing(path)}")
    from datasets import load_dataset

    hub.settle(path)
    try:
        loaded: Any = load_dataset(named["name"], named["config"], split=split)
        rows = rows_of(loaded.with_format("arrow")[:])
    except Exception as error:  # the hub client raises dozens of types; all mean that the data is not to be had
        raise UserError(
            f"{missing(path)}, and as a hub data set (`name` or `name:config`, split {split!r}) "
            f"it cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return Table(path, f"{path} ({split})", rows)
