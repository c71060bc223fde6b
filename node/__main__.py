"""``python -m shoal.node`` is the same as ``shoal``."""

import sys

from shoal.node.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
