"""One RLVR step end to end, side by side with TRL's GRPOTrainer on the same work."""
