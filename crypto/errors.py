"""What can go wrong with keys, envelopes and encrypted sums.

CryptoError
├── BadKey         these bytes are no Ed25519 key, or no peer id
├── BadEnvelope    not sealed by whom it says, altered, or of another domain
│   └── Replayed   sealed rightly, but seen before
├── BadCiphertext  a peer's ciphertext or key share that no correct peer sends
├── NotOpened      an encrypted sum did not open
├── AlreadyUsed    a one-time secret was to be used twice: a bug of ours
└── BadShare       too few shares of a secret, or shares that are none
    └── SecondList a member was asked to open a second list of contributors under one label
"""


class CryptoError(Exception):
    """The base of all errors of this folder."""


class BadKey(CryptoError):
    """These bytes are no Ed25519 key, or this text is no peer id."""


class BadEnvelope(CryptoError):
    """The envelope was altered, cut, or sealed by someone else. Drop it and count it."""


class Replayed(BadEnvelope):
    """The envelope is genuine but was seen before, or is older than what was seen."""


class BadCiphertext(CryptoError):
    """A peer's ciphertext or key share has a form that no correct peer gives it. Drop the peer."""


class NotOpened(CryptoError):
    """The sum is out of bounds: a part of it is missing or of another sum, or a peer lied. Try anew."""


class AlreadyUsed(CryptoError):
    """A one-time secret was to be used a second time, which would show what it hides."""


class BadShare(CryptoError):
    """Too few shares of a secret, shares of unlike lengths, or ones that give another secret."""


class SecondList(BadShare):
    """Shares for two lists under one label would open the contribution of whom they tell apart."""
