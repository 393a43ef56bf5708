"""Whole steps of self-play, rollouts and updates: one after the other, in waves, and beside one another."""
