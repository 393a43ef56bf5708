"""The one exception that the command line turns into a message instead of a traceback."""


class UserError(Exception):
    """Something outside the program is wrong: configuration, data, model, world size, disk.

    The message says what is wrong, where, and what would be right.
    """
