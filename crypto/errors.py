"""What can go wrong with keys and envelopes.

CryptoError
├── BadKey         these bytes are no Ed25519 key, or no peer id
└── BadEnvelope    not sealed by whom it says, altered, or of another domain
    └── Replayed   sealed rightly, but seen before
"""


class CryptoError(Exception):
    """The base of all errors of this folder."""


class BadKey(CryptoError):
    """These bytes are no Ed25519 key, or this text is no peer id."""


class BadEnvelope(CryptoError):
    """The envelope was altered, cut, or sealed by someone else. Drop it and count it."""


class Replayed(BadEnvelope):
    """The envelope is genuine but was seen before, or is older than what was seen."""
