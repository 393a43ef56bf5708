from torch.utils import checkpoint as torchs


class CudaRNGStatesTracker:
    """States of random numbers, which nothing here draws."""


def checkpoint(function, *arguments, distribute_saved_activations, get_rng_state_tracker, tp_group):
    assert not distribute_saved_activations
    return torchs.checkpoint(function, *arguments, use_reentrant=True, preserve_rng_state=False)
