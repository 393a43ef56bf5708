"""One layer of experts beside the sum of its products."""
