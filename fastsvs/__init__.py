"""FastSvS: reinforcement learning with verifiable rewards and SvS self-play, on Megatron-core."""

__version__ = "0.1.0"
