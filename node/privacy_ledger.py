"""Privacy ledger: what this node has released of its data with noise, on its own disk.

    state/privacy.json      {"releases": [{"noise_multiplier": 1.0, "sampling": 1.0, "count": 12}]}

A release is written before it is sent, so that no crash forgets one; one that was then not sent counts all
the same. The file is the old or the new one, never half. It is the node's, not a run's: whoever sees the
releases of two runs sees both.
"""

from pathlib import Path
from typing import Annotated, Final

import msgspec

from shoal.crypto.accounting import Release
from shoal.node.errors import BadHome
from shoal.node.storage.files import write_whole

NAME: Final = "privacy.json"
MAX_KINDS: Final = 10_000
"""Kinds of releases: one for each noise and chance that a run of this node had."""


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    releases: Annotated[tuple[Release, ...], msgspec.Meta(max_length=MAX_KINDS)] = ()


class PrivacyLedger:
    """See the module's docstring; one node's."""

    def __init__(self, state_dir: Path) -> None:
        """Read the file.

        Raises:
            BadHome: it is damaged. What was spent must not be forgotten by mistake.
        """
        self._path = state_dir / NAME
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=_Content)
        except FileNotFoundError:
            found = _Content()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadHome(
                f"{self._path} cannot be read ({error}): it says how much this node's data has told so far;"
                " put it back from a copy, or remove it if none of that data is in this node any more"
            ) from None
        self.releases = found.releases
        """All so far, kinds apart."""

    @property
    def count(self) -> int:
        """How many releases there were."""
        return sum(release.count for release in self.releases)

    def having(self, more: tuple[Release, ...]) -> tuple[Release, ...]:
        """Return all releases there would be with these."""
        counts: dict[tuple[float, float], int] = {}
        for each in (*self.releases, *more):
            key = (each.noise_multiplier, each.sampling)
            counts[key] = counts.get(key, 0) + each.count
        return tuple(
            Release(noise_multiplier=noise, sampling=sampling, count=count)
            for (noise, sampling), count in counts.items()
        )

    def spend(self, more: tuple[Release, ...]) -> None:
        """Note releases; when this returns they are on the disk.

        Raises:
            BadHome: they cannot be written, and nothing may be sent.
        """
        releases = self.having(more)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self._path, msgspec.json.encode(_Content(releases)))
        except OSError as error:
            raise BadHome(
                f"cannot write {self._path}: {error.strerror}; make room, or make it writable"
            ) from None
        self.releases = releases
