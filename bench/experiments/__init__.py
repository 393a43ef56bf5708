"""What experiments on the tiny task share: runs and evaluations that continue where they stopped, figures, and a page.

`bench.reproduce` and `bench.compare` say which methods are trained, what is claimed, and what the page shows.
"""
