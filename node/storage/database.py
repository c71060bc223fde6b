"""The store: what a node remembers between starts, in one SQLite file.

    peers    who was met where, the newest thousand: so that a swarm is found again without bootstrap
    rounds   the rounds that ended, for the status page and for whoever asks later
    records  who was in which round, signed, where states are kept to train anew (node/retraining/)
    facts    small named values, such as the last sequence of our envelopes

Nothing here is needed to go on: the states lie in their own files (node/storage/checkpoint.py). So a database
that is damaged is moved aside, named in the log, and a new one is made; the node learns its peers again.
WAL with synchronous=NORMAL survives a killed process at any moment; a power cut may cost the last
transactions, never the file.

The class blocks on the disk: call it in a worker thread. A lock inside makes any thread the right one.
"""

import json
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from shoal.crypto.keys import PeerId
from shoal.node.errors import UserError
from shoal.node.status import RoundStatus
from shoal.node.storage.checkpoint import DiskFull

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_PEERS: Final = 1000
MAX_ROUNDS: Final = 200_000
"""Of all runs together: some 40 MB."""
MAX_RECORDS: Final = 50_000
"""Signed records of rounds, of all runs together: 60 MB at most, with groups of 16."""
MAX_ADDRESSES: Final = 16
"""Per peer; a peer that announces more is not better reached by the rest."""

MIGRATIONS: Final = (
    """
    CREATE TABLE peers (
        peer TEXT PRIMARY KEY, addresses TEXT NOT NULL, source TEXT NOT NULL,
        last_seen REAL NOT NULL, failures INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX peers_last_seen ON peers (last_seen);
    CREATE TABLE rounds (
        id INTEGER PRIMARY KEY, run TEXT NOT NULL, round INTEGER NOT NULL, outcome TEXT NOT NULL,
        contributors INTEGER NOT NULL, loss REAL, metrics TEXT NOT NULL, work_seconds REAL NOT NULL,
        matchmaking_seconds REAL NOT NULL, exchange_seconds REAL NOT NULL, finished_at REAL NOT NULL,
        state_hash TEXT NOT NULL
    ) STRICT;
    CREATE INDEX rounds_run ON rounds (run, id);
    CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    """,
    "ALTER TABLE rounds ADD COLUMN reason TEXT NOT NULL DEFAULT '';",
    """
    ALTER TABLE rounds ADD COLUMN bytes_sent INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE rounds ADD COLUMN bytes_received INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE rounds ADD COLUMN members TEXT NOT NULL DEFAULT '[]';
    """,
    """
    CREATE TABLE records (id INTEGER PRIMARY KEY, run TEXT NOT NULL, record BLOB NOT NULL) STRICT;
    CREATE INDEX records_run ON records (run, id);
    """,
)
"""What leads from each schema version to the next. Never edit one that was released: append."""

_ROUND_FIELDS: Final = (
    "round",
    "outcome",
    "contributors",
    "loss",
    "metrics",
    "work_seconds",
    "matchmaking_seconds",
    "exchange_seconds",
    "finished_at",
    "state_hash",
    "reason",
    "bytes_sent",
    "bytes_received",
    "members",
)
"""The columns of `rounds` after id and run; named here, since a field of `RoundStatus` is no column yet."""
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class NewerStore(UserError):
    """The database was written by a newer version: upgrade, or use another home with --home."""


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """A peer as the peer book holds it."""

    peer: PeerId
    addresses: tuple[str, ...]
    source: str
    """How it was first met: bootstrap, mdns, dht, exchange."""
    last_seen: float
    """Unix seconds."""
    failures: int = 0
    """Dials that failed since it was last seen."""


class KeptRound(msgspec.Struct, frozen=True):
    """A round as the store holds it."""

    id: int
    """Grows from round to round, over all runs."""
    run_id: str
    round: RoundStatus


class Store:
    """One node's database. See the module's docstring."""

    def __init__(self, path: Path) -> None:
        """Open the database, make it, or put a damaged one aside.

        Raises:
            NewerStore: a newer version wrote it.
            DiskFull: there is no room for it.
        """
        self._path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = _open(path)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise self._full(error) from error
            self._database = self._replace(error)

    def close(self) -> None:
        """Close the file; the store is of no use afterwards."""
        with self._lock:
            self._database.close()

    def remember_peer(self, known: KnownPeer) -> None:
        """Add or replace a peer; above `MAX_PEERS` those not seen for longest are forgotten."""
        addresses = json.dumps(known.addresses[:MAX_ADDRESSES])

        def write(database: sqlite3.Connection) -> None:
            database.execute(
                "INSERT INTO peers VALUES (?, ?, ?, ?, ?) ON CONFLICT (peer) DO UPDATE SET addresses ="
                " excluded.addresses, last_seen = excluded.last_seen, failures = excluded.failures",
                (known.peer, addresses, known.source, known.last_seen, known.failures),
            )
            database.execute(
                "DELETE FROM peers WHERE peer IN"
                " (SELECT peer FROM peers ORDER BY last_seen DESC LIMIT -1 OFFSET ?)",
                (MAX_PEERS,),
            )

        self._run(write)

    def peers(self, limit: int = MAX_PEERS) -> list[KnownPeer]:
        """Return the peers, the one seen last first."""
        rows = self._read(
            "SELECT peer, addresses, source, last_seen, failures FROM peers ORDER BY last_seen DESC LIMIT ?",
            (limit,),
        )
        return [KnownPeer(PeerId(row[0]), tuple(json.loads(row[1])), *row[2:]) for row in rows]

    def add_round(self, run: str, status: RoundStatus) -> None:
        """Add a round that ended; of all runs together the last `MAX_ROUNDS` stay."""
        self.add_rounds(run, [status])

    def add_rounds(self, run: str, rounds: Sequence[RoundStatus]) -> None:
        """Add rounds that ended, all of them or none."""
        rows = [_row_of(run, status) for status in rounds]

        def write(database: sqlite3.Connection) -> None:
            database.executemany(f"INSERT INTO rounds VALUES (NULL, ?{', ?' * len(_ROUND_FIELDS)})", rows)
            last = database.execute("SELECT MAX(id) FROM rounds").fetchone()[0]
            database.execute("DELETE FROM rounds WHERE id <= ?", ((last or 0) - MAX_ROUNDS,))

        self._run(write)

    def rounds(self, run: str, limit: int = 200) -> list[RoundStatus]:
        """Return the last rounds of a run, oldest first."""
        query = f"SELECT {', '.join(_ROUND_FIELDS)} FROM rounds WHERE run = ? ORDER BY id DESC LIMIT ?"
        return [_round_of(row) for row in reversed(self._read(query, (run, limit)))]

    def thinned_rounds(self, run: str, buckets: int) -> list[RoundStatus]:
        """Return what shows the whole course of a run, oldest first: at most 3 rounds for each bucket.

        All its rounds are shared out over as many buckets. Of each bucket the last round is given, and those
        with the least and the largest loss: a curve through them has the extremes of the curve through all.
        """
        span = self._read("SELECT MIN(id), MAX(id) FROM rounds WHERE run = ?", (run,))[0]
        if span[0] is None:
            return []
        width = -(-(span[1] - span[0] + 1) // buckets)
        # SQLite takes the other columns from the row that has the largest or the least.
        found: dict[int, tuple[Any, ...]] = {}
        for which in ("MAX(id)", "MAX(loss)", "MIN(loss)"):
            query = (
                f"SELECT {which}, id, {', '.join(_ROUND_FIELDS)} FROM rounds WHERE run = ?"
                " GROUP BY (id - ?) / ?"
            )
            found |= {row[1]: row[2:] for row in self._read(query, (run, span[0], width))}
        return [_round_of(found[id_]) for id_ in sorted(found)]

    def kept_rounds(self, *, after: int = 0, since: float = 0.0, limit: int = MAX_ROUNDS) -> list[KeptRound]:
        """Return the last rounds of all runs, oldest first.

        `after`: an id; `since`: Unix seconds at which they ended.
        """
        query = (
            f"SELECT id, run, {', '.join(_ROUND_FIELDS)} FROM rounds WHERE id > ? AND finished_at >= ?"
            " ORDER BY id DESC LIMIT ?"
        )
        found = self._read(query, (after, since, limit))
        return [KeptRound(row[0], row[1], _round_of(row[2:])) for row in reversed(found)]

    def add_record(self, run: str, record: bytes) -> None:
        """Add a signed record of a round; of all runs together the last `MAX_RECORDS` stay."""

        def write(database: sqlite3.Connection) -> None:
            last = database.execute("INSERT INTO records VALUES (NULL, ?, ?)", (run, record)).lastrowid
            database.execute("DELETE FROM records WHERE id <= ?", ((last or 0) - MAX_RECORDS,))

        self._run(write)

    def records(self, run: str) -> list[bytes]:
        """Return the signed records of a run's rounds, oldest first."""
        found = self._read("SELECT record FROM records WHERE run = ? ORDER BY id", (run,))
        return [row[0] for row in found]

    def put(self, name: str, value: bytes) -> None:
        """Keep a small value under a name."""
        self._run(
            lambda db: db.execute(
                "INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (name, value),
            )
        )

    def get(self, name: str) -> bytes | None:
        """Return the value of a name, or None."""
        rows = self._read("SELECT value FROM facts WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def _read(self, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        return self._run(lambda db: db.execute(query, values).fetchall())

    def _run(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Run one transaction; where it meets damage, run it again on a new database.

        Raises:
            DiskFull: there is no room for it; nothing has changed.
        """
        with self._lock:
            try:
                with self._database:
                    return action(self._database)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise self._full(error) from error
                self._database.close()
                self._database = self._replace(error)
                with self._database:
                    return action(self._database)

    def _full(self, error: sqlite3.DatabaseError) -> Exception:
        """Return what to raise: a full disk is the user's to solve, all else is for the log."""
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return DiskFull(self._path, 1 << 20)
        return error

    def _replace(self, why: Exception) -> sqlite3.Connection:
        """Move the damaged file aside with what belongs to it, and open a new one."""
        aside = self._path.with_name(f"{self._path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        n = 0
        while aside.exists():
            n += 1
            aside = aside.with_name(f"{aside.name.split('+')[0]}+{n}")
        self._path.rename(aside)
        for suffix in ("-wal", "-shm"):
            beside = self._path.with_name(self._path.name + suffix)
            if beside.exists():
                beside.rename(aside.with_name(aside.name + suffix))
        log.error("database %s is damaged (%s); moved to %s, a new one begins", self._path, why, aside.name)
        return _open(self._path)


def _row_of(run: str, status: RoundStatus) -> tuple[Any, ...]:
    lists = {name: json.dumps(getattr(status, name)) for name in ("metrics", "members")}
    fields = msgspec.structs.asdict(status) | lists
    return (run, *(fields[name] for name in _ROUND_FIELDS))


def _round_of(row: Sequence[Any]) -> RoundStatus:
    fields = dict(zip(_ROUND_FIELDS, row, strict=True))
    # SQLite keeps no NaN, only NULL: a loss that was none comes back as one.
    loss = math.nan if fields["loss"] is None else fields["loss"]
    lists = {name: json.loads(fields[name]) for name in ("metrics", "members")}
    return RoundStatus(**fields | lists | {"loss": loss})


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGED


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=10.0, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            damage = sqlite3.DatabaseError(str(verdict).replace("\n", " "))
            damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damage
        _migrate(path, database)
    except BaseException:
        database.close()
        raise
    return database


def _migrate(path: Path, database: sqlite3.Connection) -> None:
    """Bring the schema to the newest version, one whole step at a time."""
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise NewerStore(
            f"{path} is of schema {version}, this version knows {len(MIGRATIONS)}: upgrade shoal, or use "
            "another home with --home"
        )
    for step, script in enumerate(MIGRATIONS[version:], version + 1):
        database.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {step}; COMMIT;")
