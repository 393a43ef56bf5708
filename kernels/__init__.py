"""FastSvS kernels: fused operators of the policy loss, usable without the trainer."""
