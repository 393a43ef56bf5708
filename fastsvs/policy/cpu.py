"""Megatron-core without CUDA: its hard-coded `cuda` devices point to the CPU while `redirect()` is active, and
broadcasts stand in for the one collective that gloo does not have.

Its fp32 matrix products then go to oneDNN instead of MKL, which torch would choose: MKL leaves half the vector width of
an AMD core unused. GPU runs never import this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Variable
from torch.overrides import TorchFunctionMode

from fastsvs.kernels.invariant import batch_invariant, is_batch_invariant, product


@contextmanager
def redirect(invariant: bool = False) -> Iterator[None]:
    """Give the CPU to everything inside that asks for a CUDA device. With `invariant` a token's forward pass has the
    same bits beside any others (`fastsvs.kernels.invariant`). Calls may be nested."""
    with ExitStack() as stack:
        stack.enter_context(batch_invariant(invariant))
        for target, name, replacement in _replacements():
            stack.enter_context(mock.patch.object(target, name, replacement))
        stack.enter_context(_CudaIsCpu())
        yield


class _CudaIsCpu(TorchFunctionMode):
    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if "device" in kwargs and _names_cuda(kwargs["device"]):
            kwargs["device"] = "cpu"
        if function is torch.Tensor.cuda:
            return args[0]
        if function in _MATMULS and not kwargs and _suits_onednn(*args):
            weight = args[1].t()
            if is_batch_invariant() and weight.is_contiguous():  # not a product of a backward pass
                return product(args[0], weight)
            return torch.ops.mkldnn._linear_pointwise(args[0], weight, None, "none", [], "")
        if function is torch.autograd.backward and _gradients_of(kwargs) is not None:
            with self:  # a layer that is computed again calls it, and goes on in this mode
                return _run_backward(*args, **{**kwargs, "grad_tensors": _gradients_of(kwargs)})
        result = function(*args, **kwargs)
        if function is torch.Tensor.type and isinstance(result, str):
            # The distributed optimizer compares these strings with "torch.cuda.FloatTensor" and the like.
            return result.replace("torch.", "torch.cuda.", 1)
        return result


_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_MATMULS = {torch.matmul, torch.mm, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.mm}


def _gradients_of(kwargs: dict[str, Any]) -> tuple[Tensor, ...] | None:
    """Return the gradients that a call of `torch.autograd.backward` gives, None where it leaves some to torch."""
    given = kwargs.get("grad_tensors")
    gradients = (given,) if isinstance(given, Tensor) else tuple(given or (None,))
    return None if any(gradient is None for gradient in gradients) else gradients


def _run_backward(
    tensors: tuple[Tensor, ...],
    grad_tensors: tuple[Tensor, ...],
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: tuple[Tensor, ...] | None = None,
) -> None:
    """Run the engine under `torch.autograd.backward`, as Megatron's pipeline does: that function itself would be handed
    to the mode again without end."""
    Variable._execution_engine.run_backward(
        tensors,
        grad_tensors,
        bool(retain_graph),
        create_graph,
        inputs or (),
        allow_unreachable=True,
        accumulate_grad=True,
    )


def _suits_onednn(left: Tensor, right: Tensor) -> bool:
    """Check whether oneDNN's operator can compute this fp32 product. The operator has no gradient of its own, so it
    serves only the inside of autograd functions and passes without gradients; and it knows no empty ones, such as those
    of an expert without tokens."""
    tracked = torch.is_grad_enabled() and (left.requires_grad or right.requires_grad)
    plain = left.dtype == right.dtype == torch.float32 and left.ndim >= 2 and right.ndim == 2
    return _ONEDNN and plain and not tracked and left.numel() > 0 and right.numel() > 0


def _names_cuda(device: object) -> bool:
    return isinstance(device, int) or str(device).startswith("cuda")


class _Stream:
    """Stand-in for a CUDA stream and its events: on a CPU all that was asked for is done already."""

    def wait_stream(self, _: _Stream) -> None: ...

    def record_event(self) -> _Stream:
        return self

    def synchronize(self) -> None: ...


def _as_on_cpu(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    """Return what Megatron makes of a tensor that it moves to the CPU; it leaves one that is there already as it is."""
    return tensor.numpy() if as_numpy and isinstance(tensor, Tensor) else tensor


def _gathering(even: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return Megatron's function `even` that gathers the parts of a group's ranks, made to serve parts of several
    lengths too, which gloo gathers none of: each rank sends its own to all others."""

    def gather(own: Tensor, group: dist.ProcessGroup, lengths: Sequence[int] | None = None, *rest: Any) -> Tensor:
        if lengths is None or group.size() == 1:
            return even(own, group, lengths, *rest)
        whole = own.new_empty(sum(lengths), *own.shape[1:])
        parts = whole.split(list(lengths))
        parts[group.rank()].copy_(own)
        for rank, part in enumerate(parts):
            dist.broadcast(part, group=group, group_src=rank)
        return whole

    return gather


def _replacements() -> list[tuple[Any, str, Any]]:
    from megatron.core.tensor_parallel import mappings, random
    from megatron.core.transformer.moe import token_dispatcher

    return [
        (mappings, "_gather_along_first_dim", _gathering(mappings._gather_along_first_dim)),
        (torch.cuda, "Stream", _Stream),
        (torch.cuda, "current_stream", _Stream),
        (torch.cuda, "stream", lambda _: nullcontext()),
        (token_dispatcher, "maybe_move_tensor_to_cpu", _as_on_cpu),
        (torch.cuda, "current_device", lambda: "cpu"),
        (torch.cuda, "synchronize", lambda *_: None),
        (torch.cuda, "manual_seed", torch.manual_seed),
        (torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state()),
        (torch.cuda, "set_rng_state", lambda state, *_: torch.set_rng_state(state)),
        (random, "_get_cuda_rng_state", lambda *_, **__: torch.get_rng_state()),
        (random, "_set_cuda_rng_state", lambda state, *_, **__: torch.set_rng_state(state)),
    ]
