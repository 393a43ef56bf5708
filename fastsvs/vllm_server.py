"""vLLM's HTTP server as we start it: `python -m fastsvs.vllm_server OPTIONS`, with the options of vLLM's own.

It puts `fastsvs.vllm_guard` before all routes, and makes the garbage collector run less often, here and in the engine
behind the front end. A server holds two objects for every token of its unfinished responses. Python's thresholds make
the collector search these again after every 700 new ones, and hardly any of them is ever garbage, because reference
counts free them. vLLM has no setting for it.

The engine's processes import this file as well, as multiprocessing does with the module that a program was started
from; it must stay light.
"""

import gc
import sys

from fastsvs.processes import die_with_ancestors
from fastsvs.vllm_guard import NAME as GUARD
from fastsvs.vllm_guard import required_key

THRESHOLDS = (50_000, 20, 20)
"""Number of young objects, then of collections of each generation, before the next older one is searched."""

gc.set_threshold(*THRESHOLDS)
die_with_ancestors()

if __name__ == "__main__":
    try:
        required_key()  # before a model is loaded
    except ValueError as error:
        sys.exit(str(error))
    sys.argv += ["--middleware", GUARD]  # the last one is the first to be asked

    from vllm.entrypoints.launchers.api_server.entry import main

    main()
