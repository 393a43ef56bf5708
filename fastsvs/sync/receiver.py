"""Weight transfer engines for vLLM's workers: `fastsvs_broadcast` and `fastsvs_ipc`.

Workers load this file with `--worker-extension-cls fastsvs.sync.receiver.Extension`; importing it registers the
engines. It needs vLLM and torch only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from vllm.distributed.parallel_state import get_tp_group
from vllm.distributed.weight_transfer.base import WeightTransferEngine
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from fastsvs.sync.receive import BroadcastReceiver, InitInfo, MemoryReceiver, Seat, UpdateInfo


class Extension:
    """Class that vLLM mixes into its workers."""

    def stage_weights(self, info: dict[str, Any]) -> None:
        """Begin to receive an update while the engine goes on. `/collective_rpc` calls it."""
        engine = self.weight_transfer_engine  # type: ignore[attr-defined]
        engine.stage(engine.parse_update_info(info))


class BroadcastEngine(WeightTransferEngine):
    """An engine that receives in the trainer's process group: gloo on CPUs, NCCL on GPUs."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    receiver_cls: type[BroadcastReceiver] = BroadcastReceiver
    _receiver: BroadcastReceiver | None = None
    _reloading = False

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        self.shutdown()
        parallel = self.parallel_config
        worker = parallel.data_parallel_index * parallel.world_size + parallel.rank
        tensor = get_tp_group()
        seat = Seat(worker, tensor.rank_in_group, tensor.world_size)
        if parallel.enable_expert_parallel:  # which experts a worker has, its tensor parallelism does not say
            seat = Seat(worker)
        self._receiver = self.receiver_cls(init_info, seat, self.device)

    def stage(self, update_info: UpdateInfo) -> None:
        if self._receiver is None:
            raise RuntimeError("init_weight_transfer_engine comes first")
        self._receiver.stage(update_info)

    def start_weight_update(self) -> None:
        if self._reloading:  # an update that was given up left layers half loaded
            finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            _renew_kernels_of_experts(self.model)
        initialize_layerwise_reload(self.model)
        self._reloading = True

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: UpdateInfo) -> None:
        if self._receiver is None:
            raise RuntimeError("init_weight_transfer_engine comes first")
        try:
            with disable_mtp_completeness_check():
                self._receiver.receive(update_info, self.model.load_weights)
        except BaseException:
            self.shutdown()
            raise

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        self._reloading = False
        if self.device.type == "cpu":
            _pack_heads(self.model)
        self._check_blocks()

    def shutdown(self) -> None:
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None

    def _check_blocks(self) -> None:
        """Check, after the first update of a group, that the model took no more than what was sent to this worker.
        Raises ValueError where it did."""
        blocks = self._receiver.blocks if self._receiver is not None else None
        if blocks is None or blocks.trusted:
            return
        for name, parameter in self.model.named_parameters():
            if parameter.is_floating_point() and parameter.element_size() > 1 and parameter.isnan().any():
                self.shutdown()
                raise ValueError(f"{name} is NaN: the server takes more of it than its share, or the policy is NaN")
        blocks.trusted = True


class MemoryEngine(BroadcastEngine):
    """An engine that reads the memory of a trainer process on the same GPU (on CPUs: on the same machine)."""

    receiver_cls = MemoryReceiver


def _renew_kernels_of_experts(model: nn.Module) -> None:
    """Have vLLM make the kernels of experts anew when their weights are there. On CPUs they compute with a packed copy,
    which vLLM 0.32 makes together with a kernel, and not when weights come to one that is there."""
    for module in model.modules():
        if isinstance(module, RoutedExperts):
            module.quant_method.moe_kernel = None


def _pack_heads(model: nn.Module) -> None:
    """Pack the weights of the heads again. On CPUs layers compute with a packed copy of their weight. A head that is
    tied to the embedding gets no weights of its own, so reloading leaves it with the old copy."""
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


WeightTransferEngineFactory.register_engine("fastsvs_broadcast", BroadcastEngine)
WeightTransferEngineFactory.register_engine("fastsvs_ipc", MemoryEngine)
