import torch


class FusedAdam(torch.optim.SGD):
    """An optimizer whose state is not AdamW's."""

    def __init__(self, params, lr, weight_decay, betas, eps, adam_w_mode):
        super().__init__(params, lr=lr, momentum=0.9)


class FusedSGD(torch.optim.SGD): ...
