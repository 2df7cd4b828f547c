"""Failures that a user can mend, as opposed to bad messages (outcomes.py), absent neighbours (retried) and our own bugs.

The message of each is all that the user sees, without a traceback: it names the setting or argument, its value (never
a secret's) and what to do.
"""


class UserError(Exception):
    """Something outside the program must change: a setting, a server, a file. The process ends with `exit_code`."""

    exit_code = 1


class UsageError(UserError):
    """The command itself was wrong: an unknown option, a setting that does not exist, a file that is not there."""

    exit_code = 2
