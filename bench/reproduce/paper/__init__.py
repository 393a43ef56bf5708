"""The paper's rows at their own scale: what is there of them, beside what is published, as a page.

Nothing is trained or evaluated here. Whoever has the GPUs runs the commands of configs/paper; the page then shows what
they left, and names each cell that is missing with the command that makes it.
"""

from bench.reproduce.paper.main import main

__all__ = ["main"]
