"""vLLM's HTTP server as we start it: `python -m fastsvs.vllm_server OPTIONS`, with the options of vLLM's own.

It only makes the garbage collector run less often, here and in the engine behind the front end. A server holds two
objects for every token of its unfinished responses. Python's thresholds make the collector search these again after
every 700 new ones, and hardly any of them is ever garbage, because reference counts free them. vLLM has no setting for
it.

The engine's processes import this file as well, as multiprocessing does with the module that a program was started
from; it must stay light.
"""

import gc

THRESHOLDS = (50_000, 20, 20)
"""Number of young objects, then of collections of each generation, before the next older one is searched."""

gc.set_threshold(*THRESHOLDS)

if __name__ == "__main__":
    from vllm.entrypoints.launchers.api_server.entry import main

    main()
