"""What can go wrong in the methods. Each message is one line; those a user can cause name the fix.

MethodsError
├── MethodNotFound   no method of this name, or its plug-in does not load
├── TaskNotFound     no task of this name, or its module does not load
├── BadOption        an option of a method or task is unknown or out of range
├── BadTask          the task does not give what a task must give
├── Diverged         the loss or the params are no longer finite
└── Interrupted      the node wants this round's work thrown away
"""


class MethodsError(Exception):
    """The base of all errors of this folder."""


class MethodNotFound(MethodsError):
    """No method of this name is installed; the message lists those that are."""


class TaskNotFound(MethodsError):
    """The task cannot be imported; the message says what to change."""


class BadOption(MethodsError):
    """An option is unknown or out of range; the message lists the known ones or the bounds."""


class BadTask(MethodsError):
    """The task does not give what a task must give; the message names what."""


class Diverged(MethodsError):
    """The loss or the params are no longer finite: lower the learning rate."""


class Interrupted(MethodsError):
    """The node asked for the round's work to be thrown away. Not an error of anybody."""
