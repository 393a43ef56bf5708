"""Tokens a second through the client of rollout servers, and the processor time that they take of the trainer."""
