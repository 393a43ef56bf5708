"""Costs and gains of options of sampling: dynamic sampling, budgeted self-play, the price of long answers."""
