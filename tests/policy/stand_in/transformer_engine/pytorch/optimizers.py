import torch


class FusedAdam(torch.optim.Optimizer):
    """An Adam that counts its steps in the group, as Transformer Engine's does: checkpoints do not know it."""

    def __init__(self, params, lr, weight_decay, betas, eps, adam_w_mode):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps, "step": 0})

    def step(self):
        for group in self.param_groups:
            group["step"] += 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.state[parameter] = {"exp_avg": parameter.grad, "exp_avg_sq": parameter.grad}


class FusedSGD(torch.optim.SGD): ...


multi_tensor_applier = multi_tensor_l2norm = multi_tensor_scale = None
