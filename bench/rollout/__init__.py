"""Streaming against phased self-play: a simulation at 32B scale, and a real vLLM server beside its own simulation."""
