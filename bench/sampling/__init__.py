"""What options of sampling cost and give: dynamic sampling, budgeted self-play, the price of long answers."""
