"""The names of a model's tensors in its files, where transformers has others in memory."""

from __future__ import annotations

from torch import Tensor


def stored(tensors: dict[str, Tensor], model_type: str) -> dict[str, Tensor]:
    """Tensors of a model in memory under the names of its files: transformers stacks the experts of a layer."""
    mixtral = model_type == "mixtral"
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    found = {}
    for name, tensor in tensors.items():
        block, _, kind = name.partition(".experts.")
        for number, value in enumerate(tensor) if kind else ():
            halves = value.chunk(2) if kind == "gate_up_proj" else [value]
            for part, piece in zip((gate, up) if kind == "gate_up_proj" else (down,), halves, strict=True):
                found[f"{block}.experts.{number}.{part}.weight"] = piece
        if not kind:
            found[name] = tensor
    return {name.replace(".mlp.", ".block_sparse_moe.") if mixtral else name: t for name, t in found.items()}
