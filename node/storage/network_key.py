"""The key of a private network on disk, in libp2p's format (gossip/net/transport/pnet.py)."""

import os
import stat
from pathlib import Path

from shoal.gossip.psk_file import BadNetworkKey, key_of
from shoal.node.errors import BadHome
from shoal.node.storage.home import typed


def read_network_key(path: str) -> bytes:
    """Return the key in a file; no file is no key.

    Raises:
        BadHome: there is no such file, others may read it, or it holds no key.
    """
    if not path:
        return b""
    try:
        with Path(path).expanduser().open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(4096).decode("ascii")
    except UnicodeDecodeError:
        text, mode = "", 0
    except (OSError, RuntimeError) as error:
        raise BadHome(
            f"cannot read {path}: {error}; make a key with: shoal key new > {typed(Path(path))}"
        ) from None
    if mode & 0o077:
        raise BadHome(
            f"{path} is open to others (mode {mode:04o}); close it with: chmod 600 {typed(Path(path))}"
        )
    try:
        return key_of(text)
    except BadNetworkKey as error:
        raise BadHome(f"{path} is no key of a private network: {error}") from None
