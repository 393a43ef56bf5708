"""What vLLM's processes and ours cost the host for each sampled token, with our settings and with vLLM's own."""
