"""Abilities of a device: the shipped table, or a YAML file of the same form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fastsvs.errors import UserError
from fastsvs.files import read_mapping
from fastsvs.plan.ledger import Basis, assumed, calibrated
from fastsvs.shipped import missing

TABLE = Path(__file__).with_name("hardware.yaml")
UNITS = {"gemm": 1e12, "attention": 1e12, "attention_short": 1e12}
BANDWIDTH = 1e9


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Memory(_Entry):
    value: float = Field(gt=0)
    source: str


class _Rate(_Entry):
    peak: float = Field(gt=0)
    reached: float = Field(gt=0, le=1)
    source: str
    file: str | None = None


class _Row(_Entry):
    seconds: float = Field(ge=0)
    source: str
    file: str | None = None


class _Device(_Entry):
    kind: Literal["cuda", "cpu"]
    memory: _Memory
    gemm: _Rate
    attention: _Rate
    attention_short: _Rate
    hbm: _Rate
    nvlink: _Rate
    nic: _Rate
    host: _Rate
    disk: _Rate
    row: _Row


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate that is reached, in FLOP/s or bytes/s; of `row` seconds."""

    value: float
    basis: Basis


@dataclass(frozen=True, slots=True)
class Hardware:
    """One kind of device, and what connects it."""

    name: str
    kind: Literal["cuda", "cpu"]
    memory: float
    """Bytes of the device."""
    gemm: Rate
    """Matrix products of a transformer's sizes."""
    attention: Rate
    """Attention over long sequences."""
    attention_short: Rate
    """Attention over sequences of some hundred tokens."""
    hbm: Rate
    """The device's memory, read and written."""
    nvlink: Rate
    """Between devices of a node, each way."""
    nic: Rate
    """Between nodes, a device."""
    host: Rate
    """Between device and host memory."""
    disk: Rate
    """The run's storage, a node."""
    row: Rate
    """Seconds of a packed row's update in which the device waits for the host."""


def read_hardware(name: str) -> Hardware:
    """Return the device that the shipped table calls `name`, or that the YAML file `name` describes with the table's
    keys. Raises UserError where there is none, or where a key is wrong."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return _parse(path.stem, _load(path), str(path))
    table = _load(TABLE)
    if name not in table:
        raise UserError(f"--gpu {name}: not in the table ({', '.join(table)}); or give a YAML file with the same keys")
    return _parse(name, table[name], f"--gpu {name}")


def known_hardware() -> list[str]:
    """Return the names of the shipped table."""
    return list(_load(TABLE))


def name_of_device(device: str) -> str | None:
    """Return the table's name of a device that its driver calls `device`, such as `NVIDIA H100 80GB HBM3`; None for one
    that the table does not have."""
    words = device.lower().replace("-", " ").split()
    return next((name for name in known_hardware() if name in words), None)


def _load(path: Path) -> dict[str, object]:
    if not path.exists():
        raise UserError(f"--gpu: {missing(path)}")
    try:
        return read_mapping(path)
    except UserError as error:
        raise UserError(f"--gpu: {error}") from error


def _parse(name: str, content: object, where: str) -> Hardware:
    try:
        device = _Device.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(f"{where}: {faults}") from error
    rates = {key: _rate(key, value) for key, value in device if isinstance(value, _Rate)}
    row = Rate(device.row.seconds, _basis(device.row))
    return Hardware(name, device.kind, device.memory.value * 2**30, **rates, row=row)


def _rate(key: str, rate: _Rate) -> Rate:
    return Rate(rate.peak * rate.reached * UNITS.get(key, BANDWIDTH), _basis(rate))


def _basis(entry: _Rate | _Row) -> Basis:
    return calibrated(entry.file) if entry.file else assumed(entry.source)
