"""Adapters in and out: as PEFT stores them in a folder, and new ones as PEFT draws them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastsvs.architecture import Architecture, Lora
from fastsvs.config import LoraConfig
from fastsvs.errors import UserError
from fastsvs.files import draft_of
from fastsvs.policy.learned import adapter_shapes
from fastsvs.policy.weights import WeightSource
from fastsvs.seeding import derive_seed

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Prefix of a tensor's name in PEFT's files."""
PLAIN: dict[str, Any] = {
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "layers_to_transform": None,
    "rank_pattern": {},
    "alpha_pattern": {},
}
"""Settings of PEFT's with which W + alpha / r * B A is all that there is; what an older file leaves out is so, too."""

LATER: dict[str, Any] = {
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "layer_replication": None,
    "lora_bias": False,
    "use_bdlora": None,
    "use_qalora": False,
}
"""Further settings, of later versions of PEFT; what is written leaves them out, so that earlier ones read it."""
BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal")
"""Values of PEFT's `init_lora_weights` that leave the model's own weights as they are. Others, such as PiSSA's and
OLoRA's, take a part out of them, beside which alone the adapter is right."""


class NewAdapters:
    """Adapters that change nothing: A uniform in +-1/sqrt(inputs), which is PEFT's `kaiming_uniform_` with a = sqrt(5),
    and B 0. They are drawn per tensor name from the seed, so they are the same for every layout."""

    def __init__(self, architecture: Architecture, seed: int) -> None:
        self._shapes, self._seed = adapter_shapes(architecture), seed

    def read(self, name: str, cut: int | None, start: int, end: int) -> Tensor:
        """Draw a matrix, or return a part of it; see `WeightSource`."""
        shape = self._shapes[name]
        whole = torch.zeros(shape)
        if name.endswith("lora_A.weight"):
            generator = torch.Generator().manual_seed(derive_seed(self._seed, name))
            bound = 1 / math.sqrt(shape[1])
            whole = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        return whole if cut is None else whole.narrow(cut, start, end - start)


class StoredAdapters:
    """Adapters in a folder of PEFT's. Only what is asked for is read."""

    def __init__(self, folder: Path, architecture: Architecture) -> None:
        """Open the folder. Raises UserError, with every fault, for adapters that cannot be read or that are not those
        of `architecture`."""
        assert architecture.lora is not None
        self._file = folder / ADAPTER_WEIGHTS
        faults = _unlike(_read_config(folder), architecture.lora)
        try:
            self._open = safe_open(self._file, framework="pt")
            found = {name: tuple(self._open.get_slice(name).get_shape()) for name in self._open.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(f"{self._file} cannot be read: {error}") from error
        expected = {PREFIX + name: shape for name, shape in adapter_shapes(architecture).items()}
        faults += [f"{name} is missing" for name in expected if name not in found]
        faults += [f"{name} has no place in this model" for name in found if name not in expected]
        faults += [
            f"{name} has shape {list(found[name])} instead of {list(shape)}"
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ]
        if faults:
            raise UserError(f"policy.lora.adapter={folder} does not fit: {'; '.join(faults[:5])}")

    def read(self, name: str, cut: int | None, start: int, end: int) -> Tensor:
        """Read a matrix or a part of it; see `WeightSource`. Raises UserError for values that are not finite."""
        whole: Tensor = self._open.get_tensor(PREFIX + name)
        if not whole.isfinite().all():
            raise UserError(f"{name} in {self._file} holds values that are NaN or infinite: take another adapter")
        return whole if cut is None else whole.narrow(cut, start, end - start)


def open_adapters(lora: LoraConfig, architecture: Architecture, seed: int) -> WeightSource | None:
    """Return the source of the adapters that a policy begins with, or None where it has none. Raises UserError for a
    folder that cannot be read or does not fit."""
    if architecture.lora is None:
        return None
    if lora.adapter is None:
        return NewAdapters(architecture, seed)
    return StoredAdapters(Path(lora.adapter), architecture)


def save_adapters(
    weights: WeightSource, architecture: Architecture, dtype: torch.dtype, base: str, folder: Path
) -> None:
    """Write the adapters of `weights` in `dtype` as a folder that PEFT loads on top of the model `base`, a folder or
    hub id. Raises UserError when it cannot be written."""
    assert architecture.lora is not None
    names = adapter_shapes(architecture)
    tensors = {PREFIX + name: weights.read(name, None, 0, 0).to(dtype).contiguous() for name in names}
    try:
        with draft_of(folder) as draft:
            save_file(tensors, draft / ADAPTER_WEIGHTS, metadata={"format": "pt"})
            text = json.dumps(_config(architecture.lora, base), indent=2)
            (draft / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise UserError(f"the adapter cannot be written to {folder}: {error}") from error


def _config(lora: Lora, base: str) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(lora.targets),
        "init_lora_weights": True,
        "inference_mode": True,
        **PLAIN,
    }


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"policy.lora.adapter={folder} is no folder of PEFT's: {path} cannot be read: {error}"
        ) from error
    if not isinstance(found, dict) or found.get("peft_type") != "LORA":
        raise UserError(f"{path} describes no LoRA adapter (peft_type)")
    return found


def _unlike(found: dict[str, Any], lora: Lora) -> list[str]:
    """Return a line for every setting that is another one than the policy's."""
    wanted = {"r": lora.rank, "lora_alpha": lora.alpha, **PLAIN, **LATER}
    lines = [
        f"{key} is {found[key]!r} instead of {value!r}"
        for key, value in wanted.items()
        if key in found and (found[key] or None) != (value or None)
    ]
    if (beginning := found.get("init_lora_weights", True)) not in BEGINNINGS:
        lines.append(
            f"init_lora_weights is {beginning!r}, which changes the model's own weights: save it from PEFT with "
            "path_initial_model_for_weight_conversion"
        )
    targets = found.get("target_modules")
    if not isinstance(targets, list) or set(map(str, targets)) != set(lora.targets):
        lines.append(f"target_modules are {targets!r} instead of {list(lora.targets)!r}")
    return lines
