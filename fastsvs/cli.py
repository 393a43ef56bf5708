"""The command line: `fastsvs train|plan|sft|self|eval CONFIG [section.key=value ...]`; what is made of runs:
`fastsvs export|merge|analyze|report`; and how to begin: `fastsvs demo|configs|init|doctor`.

Nothing that takes long to import stands at the top: help comes at once, and whoever interrupts a command at its start
reads one line, not a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from fastsvs import rank_log
from fastsvs.arguments import parse
from fastsvs.ends import another_has_said_why, say_once, tell_torchrun
from fastsvs.errors import Preempted, UserError, refusal
from fastsvs.output import nobody_reads, print_once
from fastsvs.processes import die_with_parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status: 0 when done, 2 with a message when something outside the program is
    wrong, EX_TEMPFAIL (75) when the job was told to end early and can go on later, 130 when it was interrupted at once,
    141 when nobody reads its output any more. Of several processes one says it."""
    try:
        options = parse(__doc__ or "", arguments)
        if arguments is None:
            rank_log.own_process()
        if "TORCHELASTIC_RUN_ID" in os.environ:
            die_with_parent()  # torchrun's agent: without it a rank would go on beside the job's next start
        from fastsvs import dispatch, startup

        startup.prepare_process()
        dispatch.COMMANDS[options.command](options)
        sys.stdout.flush()
    except (UserError, FloatingPointError) as error:  # the second where a model has diverged
        return _refuse(error.with_traceback(None))  # the message says it all
    except Preempted as end:
        print_once(f"fastsvs: {end}")
        return os.EX_TEMPFAIL
    except KeyboardInterrupt as error:
        if arguments is not None:  # the caller's to handle
            raise
        tell_torchrun(error.with_traceback(None))
        say_once("fastsvs: interrupted")
        return 128 + signal.SIGINT
    except Exception as error:
        if isinstance(error, BrokenPipeError) and nobody_reads():
            return 128 + signal.SIGPIPE
        if said := refusal(error):
            return _refuse(UserError(said))
        tell_torchrun(error)
        if another_has_said_why():
            return 2
        raise
    return 0


def _refuse(error: Exception) -> int:
    """Say why the command cannot go on, once for the whole job, and return its exit status."""
    tell_torchrun(error)
    say_once(f"fastsvs: error: {error}")
    return 2
