"""Stand-in that servers of a rehearsal find in vLLM's place."""
