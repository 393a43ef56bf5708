"""Streaming against phased self-play: on a simulated cluster with assumed costs, and on a real vLLM server."""
