"""The file of a private network's key, in libp2p's format, so that a key of Kubo works here.

/key/swarm/psk/1.0.0/
/base16/
64 hex digits
"""

from typing import Final

KEY_BYTES: Final = 32
HEAD: Final = "/key/swarm/psk/1.0.0/"


class BadNetworkKey(ValueError):
    """A text is no key of a private network."""


def key_of(text: str) -> bytes:
    """Return the key of a file in libp2p's format.

    Raises:
        BadNetworkKey: it is not in that format.
    """
    lines = text.split()
    if len(lines) != 3 or lines[0] != HEAD or lines[1] not in ("/base16/", "/bin/"):
        raise BadNetworkKey(f"it does not hold the three lines {HEAD}, /base16/ and 64 hex digits")
    if lines[1] == "/bin/":
        raise BadNetworkKey("it is not in base16; make it anew with: shoal key new")
    try:
        key = bytes.fromhex(lines[2])
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise BadNetworkKey("its third line has to be 64 hex digits")
    return key


def text_of(key: bytes) -> str:
    """Return the file of a key."""
    return f"{HEAD}\n/base16/\n{key.hex()}\n"
