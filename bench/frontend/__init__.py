"""Processor time on the host that vLLM's processes and ours take for each sampled token.

It is measured with our settings and with vLLM's own.
"""
