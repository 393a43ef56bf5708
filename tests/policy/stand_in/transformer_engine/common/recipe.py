class DelayedScaling:
    """A recipe that nothing here uses."""
