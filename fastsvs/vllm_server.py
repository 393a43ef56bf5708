"""vLLM's HTTP server as we start it: `python -m fastsvs.vllm_server OPTIONS`, with the options of vLLM's own.

All that it adds is patience of the garbage collector, here and in the engine behind the front. A server holds two
objects for every token of its unfinished responses, and Python's thresholds have it look through these again after
every 700 new ones, of which hardly any is ever garbage: reference counts free them. vLLM has no setting for it.

The engine's processes import this file as well, as multiprocessing does with the module that a program was started
from; it must stay light.
"""

import gc

THRESHOLDS = (50_000, 20, 20)
"""Young objects, and collections of each generation, before the next older one is looked through."""

gc.set_threshold(*THRESHOLDS)

if __name__ == "__main__":
    from vllm.entrypoints.launchers.api_server.entry import main

    main()
