"""A stand-in for Apex."""
