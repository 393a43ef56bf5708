"""Rows of one file: parquet, Arrow, json, jsonl, csv or tsv, as they are or compressed."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from fastsvs.errors import UserError

Row = dict[str, Any]

COMPRESSED = (".gz", ".bz2", ".lz4", ".zst")
_LONGEST_FIELD = 1 << 30


def read_file(file: Path) -> list[Row]:
    """Return the rows of `file`, the values of a csv file as texts. Raises UserError for a file that cannot be read."""
    reader = _READERS.get(suffix_of(file))
    if reader is None:
        raise UserError(
            f"{file}: cannot read {file.suffix or 'a file without a suffix'}; known: {', '.join(SUFFIXES)}, and these "
            f"with {', '.join(COMPRESSED)}"
        )
    try:
        return reader(file)
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise UserError(f"{file} is not a readable {suffix_of(file)[1:]} file: {error}") from error


def suffix_of(file: Path) -> str:
    """Return the suffix that tells a file's format, in lower case and without that of its compression."""
    name = file.name.lower()
    return Path(name.removesuffix(compression(file))).suffix


def stem_of(file: Path) -> str:
    """Return a file's name without the suffixes of its format and compression."""
    return Path(file.name[: len(file.name) - len(compression(file))]).stem


def compression(file: Path) -> str:
    """Return the suffix that tells how a file is compressed, or an empty text."""
    return next((suffix for suffix in COMPRESSED if file.name.lower().endswith(suffix)), "")


def rows_of(table: pyarrow.Table) -> list[Row]:
    """Return the rows of an Arrow table. Floats of 32 bits become the numbers that their shortest decimals name:
    0.1, not 0.10000000149011612."""
    as_text = pyarrow.schema([field.with_type(_retyped(field.type, pyarrow.string())) for field in table.schema])
    if as_text.equals(table.schema):
        return table.to_pylist()
    wide = pyarrow.schema([field.with_type(_retyped(field.type, pyarrow.float64())) for field in table.schema])
    return table.cast(as_text).cast(wide).to_pylist()


def _retyped(type_: pyarrow.DataType, instead: pyarrow.DataType) -> pyarrow.DataType:
    """Return `type_` with `instead` in the place of floats of 32 bits, inside of lists and structs too."""
    if pyarrow.types.is_float32(type_):
        return instead
    if pyarrow.types.is_list(type_) or pyarrow.types.is_large_list(type_):
        inner = _retyped(type_.value_type, instead)
        return type_ if inner.equals(type_.value_type) else pyarrow.list_(inner)
    if pyarrow.types.is_struct(type_):
        parts = [(field.name, _retyped(field.type, instead)) for field in type_]
        same = all(part.equals(field.type) for (_, part), field in zip(parts, type_, strict=True))
        return type_ if same else pyarrow.struct(parts)
    return type_


def _bytes(file: Path) -> bytes:
    with pyarrow.input_stream(str(file), compression="detect") as stream:
        return stream.read()


def _text(file: Path) -> str:
    return _bytes(file).decode("utf-8-sig")


def _arrow_source(file: Path) -> pyarrow.NativeFile:
    return pyarrow.BufferReader(_bytes(file)) if compression(file) else pyarrow.memory_map(str(file))


def _read_parquet(file: Path) -> list[Row]:
    return rows_of(pyarrow.parquet.read_table(_arrow_source(file)))


def _read_arrow(file: Path) -> list[Row]:
    try:
        return rows_of(pyarrow.ipc.open_file(_arrow_source(file)).read_all())
    except pyarrow.ArrowInvalid:  # the stream format, which `datasets` writes
        return rows_of(pyarrow.ipc.open_stream(_arrow_source(file)).read_all())


def _read_csv(file: Path) -> list[Row]:
    csv.field_size_limit(_LONGEST_FIELD)
    separator = "\t" if suffix_of(file) == ".tsv" else ","
    reader = csv.DictReader(io.StringIO(_text(file), newline=""), delimiter=separator, strict=True)
    rows = []
    try:
        for row in reader:
            if None in row:
                raise UserError(f"{file} line {reader.line_num} has more fields than the {len(row) - 1} of its head")
            rows.append(dict(row))
    except csv.Error as error:
        raise UserError(f"{file} is not {suffix_of(file)[1:]} after line {reader.line_num}: {error}") from error
    return rows


def _read_json_lines(file: Path) -> list[Row]:
    rows = []
    text = _text(file)
    if text.lstrip().startswith("["):
        raise UserError(f"{file} holds one JSON array, not an object a line: call it .json")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = _parse_json(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise UserError(f"{file} line {number} is not JSON: {error}") from error
            rows.append(_as_row(row, f"{file} line {number}"))
    return rows


def _read_json(file: Path) -> list[Row]:
    try:
        tree = _parse_json(_text(file))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one object a line under the suffix .json
            return _read_json_lines(file)
        raise UserError(f"{file} is not JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{file} is not JSON that can be read: it is nested too deeply") from error
    if isinstance(tree, dict):
        tree = _rows_in(tree, file)
    if not isinstance(tree, list):
        raise UserError(f"{file} must hold a list of objects, found {type(tree).__name__}")
    return [_as_row(row, f"{file} row {index}") for index, row in enumerate(tree)]


def _rows_in(tree: Row, file: Path) -> list[Any]:
    """Return the rows in an object: its only list, its columns of equal length, or the object itself as one row."""
    lists = {name: value for name, value in tree.items() if isinstance(value, list)}
    tables = [name for name, rows in lists.items() if rows and all(isinstance(row, dict) for row in rows)]
    if len(lists) == 1:
        return next(iter(lists.values()))
    if len(tables) > 1 and len(tables) == len(tree):
        raise UserError(f"{file} holds several lists of rows ({', '.join(tables)}): write each to a file of its own")
    if lists and len(lists) == len(tree) and len({len(column) for column in lists.values()}) == 1:
        return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    return [tree]


def _parse_json(text: str) -> Any:
    return json.loads(text, parse_int=_integer, parse_float=_float)


def _integer(digits: str) -> int | str:
    """Return an integer, or its digits where Python's limit forbids to convert so many."""
    limit = sys.get_int_max_str_digits()
    return digits if limit and len(digits.removeprefix("-")) > limit else int(digits)


def _float(digits: str) -> float | str:
    """Return a float, or its digits where a float cannot hold the number."""
    value = float(digits)
    return value if math.isfinite(value) else digits


def _as_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where} must be an object with named columns, found {type(value).__name__}")
    return value


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
}
SUFFIXES = tuple(_READERS)
