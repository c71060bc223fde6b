"""The frames of the muxer: yamux's header, inside records.

    version (1 byte) | type (1) | flags (2) | stream (4) | length (4), big endian

`length` is the body's size in a DATA frame, the grant in a WINDOW frame, and any number in a PING. A
record holds any number of frames. The body of the last one, where it is DATA without flags, may go on
in the next records, which then hold its rest and nothing else, at most 1 MiB in all: so large bodies are
sealed where they lie and opened where they belong.

yamux: https://github.com/hashicorp/yamux/blob/master/spec.md
"""

import struct
from typing import Final

HEADER: Final = struct.Struct("!BBHII")

DATA: Final = 0
WINDOW: Final = 1
PING: Final = 2
GOAWAY: Final = 3

SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8

MAX_REST: Final = 1 << 20
"""Bytes of a body in records behind that of its header; other frames wait until they are sent."""
