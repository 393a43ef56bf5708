"""The exceptions that the command line turns into a message instead of a traceback."""

from __future__ import annotations

import errno

_REFUSALS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG, errno.EIO, errno.ESTALE),
}


class UserError(Exception):
    """Something outside the program is wrong: configuration, data, model, world size, disk.

    The message says what is wrong, where, and what would be right.
    """


class EngineFailure(UserError):  # noqa: N818
    """The rollout engine cannot go on, after all restarts and attempts that the configuration allows.

    Raised on all ranks together: the trainer then keeps a checkpoint of the steps that are done.
    """


class Preempted(Exception):  # noqa: N818
    """The job was told to end early. Raised on all ranks together, which then save the steps that are done."""

    def __str__(self) -> str:
        return "told to end early; what was done is saved, and the same command goes on from there"


def refusal(error: Exception) -> str | None:
    """Return the message of an error by which the system refuses a file: a folder that is not the user's, a full disk,
    a name that is too long. None for any other error."""
    if isinstance(error, OSError) and error.errno in _REFUSALS and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None
