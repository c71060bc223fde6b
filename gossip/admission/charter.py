"""Charter: who governs a run, as one word of its settings.

    closed : 2 : 0 : KEY,KEY,KEY        mode : threshold : delegates : founders

A charter stands in the run spec, so the run id certifies it, and peers that disagree on it never average.
It names the **founders**: Ed25519 public keys that sign edicts (edicts.py) and nothing else. `threshold` of
them must sign an edict. An empty text is the charter of a run that is open and that nobody governs.

One charter has one text: keys are in order, numbers without zeros before them. Else two spellings would make
two runs.
"""

from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Final, Literal, TypeAlias, get_args

import base58
import msgspec

from shoal.gossip.admission.errors import BadCharter

Mode: TypeAlias = Literal["open", "invite", "closed"]
PublicKey = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
"""Of Ed25519."""
MAX_FOUNDERS: Final = 16
MAX_DELEGATES: Final = 3
"""Grants in a chain: how far an invite may be passed on."""
MAX_TEXT: Final = 800
"""Characters of a charter: 16 keys have 720."""


class Founders(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The keys that govern at a time, and how many of them must sign."""

    keys: tuple[PublicKey, ...]
    """In order, each once."""
    threshold: int
    former: bytes = b""
    """The id of the set that this one followed; empty for that of the charter."""

    @property
    def id(self) -> bytes:
        """32 bytes that name this set, and all that came before it."""
        body = msgspec.msgpack.encode((self.former, self.keys, self.threshold))
        return blake2b(body, digest_size=32, person=b"shoal/founders").digest()


class Charter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The peers that may take part, and who decides that."""

    mode: Mode = "open"
    """closed: who a founder admits. invite: and whom members invite. open: anyone who is not banned."""
    founders: tuple[PublicKey, ...] = ()
    """Public keys, in order, each once. None: nobody governs, which only an open run can do without."""
    threshold: int = 1
    """How many founders must sign an edict."""
    delegates: int = 1
    """How far invites may be passed on: 0 nobody invites, 1 whom founders admit, 2 whom those invite too."""

    def __post_init__(self) -> None:
        """Check what the types do not.

        Raises:
            BadCharter: see the messages.
        """
        n_keys = len(self.founders)
        if n_keys > MAX_FOUNDERS:
            raise BadCharter(f"a charter names at most {MAX_FOUNDERS} founders, not {n_keys}")
        if list(self.founders) != sorted(set(self.founders)):
            raise BadCharter("a charter names its founders in order, each once")
        if not all(len(key) == 32 for key in self.founders):
            raise BadCharter("a founder's public key has 32 bytes")
        if not n_keys and (self.mode, self.threshold, self.delegates) != ("open", 1, 1):
            raise BadCharter("only an open run can do without founders; make some with: shoal found")
        if not 1 <= self.threshold <= max(1, n_keys):
            raise BadCharter(f"{self.threshold} of {n_keys} founders must sign: make that 1 to {n_keys}")
        if not 0 <= self.delegates <= MAX_DELEGATES:
            raise BadCharter(f"invites are passed on 0 to {MAX_DELEGATES} times, not {self.delegates}")

    def __str__(self) -> str:
        """Return the text that stands in the run's settings."""
        if not self.founders:
            return ""
        keys = ",".join(key_text(key) for key in self.founders)
        return f"{self.mode}:{self.threshold}:{self.delegates}:{keys}"

    @property
    def summary(self) -> str:
        """The charter in a few words; two that differ differ here too."""
        if not self.founders:
            return "open"
        some = f"{self.threshold} of {len(self.founders)} founders"
        return f"{self.mode}, {some}, invites passed on {self.delegates} times ({self.id.hex()[:8]})"

    @property
    def id(self) -> bytes:
        """32 bytes that name this charter in edicts and grants."""
        return _id(self)

    @property
    def first_founders(self) -> Founders:
        """The set of founders that the charter itself names."""
        return Founders(self.founders, self.threshold)


@lru_cache(maxsize=64)
def _id(charter: Charter) -> bytes:
    """Return a charter's id, which every word of its roster is compared with."""
    return blake2b(str(charter).encode(), digest_size=32, person=b"shoal/charter").digest()


OPEN: Final = Charter()


def parse(text: str) -> Charter:
    """Return the charter of a text.

    Raises:
        BadCharter: it is none.
    """
    if text in ("", "open"):
        return OPEN
    parts = text.split(":")
    if len(text) > MAX_TEXT or len(parts) != 4 or parts[0] not in get_args(Mode):
        raise BadCharter("not a charter; write what shoal found printed, MODE:THRESHOLD:DELEGATES:KEY,KEY")
    mode, threshold, delegates, keys = parts
    if not all(each.isascii() and each.isdigit() and len(each) < 3 for each in (threshold, delegates)):
        raise BadCharter("threshold and delegates of a charter are small numbers")
    founders = tuple(sorted({key_of(each) for each in keys.split(",")}))
    chosen: Mode = "closed" if mode == "closed" else "invite" if mode == "invite" else "open"
    return Charter(mode=chosen, founders=founders, threshold=int(threshold), delegates=int(delegates))


def canonical(text: str) -> str:
    """Return the one text of a charter: keys in order, and nothing for a run that is open to all.

    Raises:
        BadCharter: the text is no charter.
    """
    return str(parse(text))


def key_text(key: bytes) -> str:
    """Return a public key as charters and files name it."""
    return base58.b58encode(key).decode()


def key_of(text: str) -> bytes:
    """Return the public key of a text.

    Raises:
        BadCharter: it is none.
    """
    try:
        # One longer than any key is not decoded: the time that takes grows with the square of its length.
        key = base58.b58decode(text) if len(text) <= 44 else b""
    except ValueError:
        key = b""
    if len(key) != 32:
        raise BadCharter(f"{text[:60]!r} is no founder's key; it has 43 or 44 letters and digits")
    return key
