"""What a user can cause. Each message is one line that names the fix; the command line prints just that.

UserError        a person can put it right: message and exit code, no traceback
├── BadConfig    a setting is unknown, of the wrong type or out of range
├── BadHome      the node's folder, key, lock or socket is not as it must be
├── NotRunning   the command needs a node that runs
└── Refused      the running node did not do as asked
"""


class UserError(Exception):
    """A person can put this right; the message says how, in one line."""

    exit_code = 1


class BadConfig(UserError):
    """A setting is unknown, of the wrong type or out of range; the message names file, key and fix."""

    exit_code = 2


class BadHome(UserError):
    """The node's folder, key, lock or socket is not as it must be."""


class NotRunning(UserError):
    """No node runs in this home."""


class Refused(UserError):
    """The running node did not do as asked, and says why."""
