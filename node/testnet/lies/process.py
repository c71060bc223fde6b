"""A node that lies: the same daemon, whose member or trainer is another. Only a testnet starts it.

    python -P -m shoal.node.testnet.lies.process sign-flip start --task digits …

No setting leads here: a node of a person cannot be made to lie by its configuration.
"""

import logging
import os
import sys
from collections.abc import Sequence

from shoal.node.cli import main as cli
from shoal.node.daemon.daemon import Daemon
from shoal.node.testnet.lies.catalogue import lie_of_node
from shoal.node.testnet.lies.members import lying

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run a command line of shoal as a liar; the first argument is the lie. Returns the exit code.

    Raises:
        NoSuchLie: there is none of this name that a node tells.
    """
    lie = lie_of_node(arguments[0])
    log.warning("THIS NODE LIES on purpose (%s): it %s", lie.name, lie.what)
    Daemon.member_type = lying(lie.name)
    if lie.name == "label-flip":
        os.environ["SHOAL_TESTING_TRAINER"] = "shoal.node.testnet.lies.trainer"
    return cli.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
