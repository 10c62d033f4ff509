"""The one exception that a user is meant to read."""


class UserError(Exception):
    """A fault in what the user gave or has installed: one line that says what, where and how to mend it.

    Command lines print it as ``error: <line>`` and exit with status 1; they never show its traceback.
    """
