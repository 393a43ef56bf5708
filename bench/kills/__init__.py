"""Runs that are disturbed at random moments and must come to the same end as one left alone."""
