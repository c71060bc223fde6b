"""The folder in which a person started shoal: a task of theirs may lie there."""

import os
import sys


def search_user_folder() -> None:
    """Let tasks be imported from the current folder, after all that is installed.

    Our processes are started with `-P`, so that no file of the user's comes in place of one of shoal's.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
