"""The store remembers, stays small, moves with its schema, and outlives damage."""

import logging
import math
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from shoal.crypto.keys import PeerId
from shoal.node.status import RoundStatus
from shoal.node.storage import database as store
from shoal.node.storage.checkpoint import DiskFull
from shoal.node.storage.database import KnownPeer, NewerStore, Store


def known(name: str, last_seen: float = 1.0, failures: int = 0) -> KnownPeer:
    return KnownPeer(PeerId(name), (f"/ip4/10.0.0.1/tcp/4710/p2p/{name}",), "mdns", last_seen, failures)


def ended(round_: int, loss: float = 0.5) -> RoundStatus:
    return RoundStatus(round_, "averaged", 5, loss, {"accuracy": 0.9}, 1.0, 0.2, 0.3, 1e9 + round_, "ab" * 6)


def test_peers_come_back_after_a_restart_the_one_seen_last_first(tmp_path: Path) -> None:
    first = Store(tmp_path / "shoal.db")
    first.remember_peer(known("a", 1.0))
    first.remember_peer(known("b", 3.0, failures=2))
    first.remember_peer(known("c", 2.0))
    first.close()
    second = Store(tmp_path / "shoal.db")
    assert second.peers() == [known("b", 3.0, failures=2), known("c", 2.0), known("a", 1.0)]
    assert [peer.peer for peer in second.peers(limit=1)] == ["b"]
    second.close()


def test_a_peer_seen_again_is_replaced_but_how_it_was_met_stays(tmp_path: Path) -> None:
    book = Store(tmp_path / "shoal.db")
    book.remember_peer(known("a", 1.0, failures=3))
    book.remember_peer(KnownPeer(PeerId("a"), ("/ip4/10.0.0.2/tcp/1/p2p/a",), "dht", 2.0))
    assert book.peers() == [KnownPeer(PeerId("a"), ("/ip4/10.0.0.2/tcp/1/p2p/a",), "mdns", 2.0)]
    book.close()


def test_the_book_keeps_the_newest_peers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_PEERS", 5)
    book = Store(tmp_path / "shoal.db")
    for i in range(12):
        book.remember_peer(known(f"peer{i}", last_seen=float(i)))
    assert [peer.peer for peer in book.peers()] == [f"peer{i}" for i in (11, 10, 9, 8, 7)]
    book.close()


def test_a_peer_with_too_many_addresses_keeps_the_first(tmp_path: Path) -> None:
    book = Store(tmp_path / "shoal.db")
    book.remember_peer(KnownPeer(PeerId("a"), tuple(f"/ip4/1.1.1.1/tcp/{i}" for i in range(99)), "dht", 1.0))
    assert book.peers()[0].addresses == tuple(f"/ip4/1.1.1.1/tcp/{i}" for i in range(store.MAX_ADDRESSES))
    book.close()


def test_rounds_come_back_oldest_first_and_apart_by_run(tmp_path: Path) -> None:
    history = Store(tmp_path / "shoal.db")
    for i in range(5):
        history.add_round("run1", ended(i))
    history.add_round("run2", ended(77))
    assert history.rounds("run1") == [ended(i) for i in range(5)]
    assert history.rounds("run1", limit=2) == [ended(3), ended(4)]
    assert history.rounds("none") == []
    history.close()


def test_a_loss_that_is_not_a_number_is_kept_as_one(tmp_path: Path) -> None:
    history = Store(tmp_path / "shoal.db")
    history.add_round("run", ended(1, loss=float("nan")))
    assert math.isnan(history.rounds("run")[0].loss)
    history.close()


def test_only_the_last_rounds_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_ROUNDS", 4)
    history = Store(tmp_path / "shoal.db")
    for i in range(9):
        history.add_round("run", ended(i))
    assert [row.round for row in history.rounds("run")] == [5, 6, 7, 8]
    history.close()


def test_facts_are_kept_and_replaced(tmp_path: Path) -> None:
    facts = Store(tmp_path / "shoal.db")
    assert facts.get("sequence") is None
    facts.put("sequence", b"\x00\x01")
    facts.put("sequence", b"\x00\x02")
    facts.close()
    again = Store(tmp_path / "shoal.db")
    assert again.get("sequence") == b"\x00\x02"
    again.close()


def test_any_thread_may_use_it(tmp_path: Path) -> None:
    facts = Store(tmp_path / "shoal.db")
    threads = [threading.Thread(target=facts.put, args=(f"name{i}", b"x")) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [facts.get(f"name{i}") for i in range(8)] == [b"x"] * 8
    facts.close()


def test_the_file_is_in_wal_mode(tmp_path: Path) -> None:
    Store(tmp_path / "shoal.db").close()
    database = sqlite3.connect(tmp_path / "shoal.db")
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_an_older_schema_is_migrated_and_keeps_what_it_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Store(tmp_path / "shoal.db")
    old.put("sequence", b"7")
    old.close()
    script = "CREATE TABLE later (a TEXT) STRICT; INSERT INTO later VALUES ('here');"
    monkeypatch.setattr(store, "MIGRATIONS", (*store.MIGRATIONS, script))
    for _ in range(2):
        new = Store(tmp_path / "shoal.db")
        assert new.get("sequence") == b"7"
        new.close()
    database = sqlite3.connect(tmp_path / "shoal.db")
    assert database.execute("SELECT a FROM later").fetchall() == [("here",)]
    database.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path / "shoal.db").close()
    with monkeypatch.context() as patch:
        patch.setattr(store, "MIGRATIONS", (*store.MIGRATIONS, "CREATE TABLE later (a TEXT); NONSENSE;"))
        with pytest.raises(sqlite3.OperationalError, match="NONSENSE"):
            Store(tmp_path / "shoal.db")
    database = sqlite3.connect(tmp_path / "shoal.db")
    assert database.execute("PRAGMA user_version").fetchone() == (len(store.MIGRATIONS),)
    assert database.execute("SELECT name FROM sqlite_schema WHERE name = 'later'").fetchall() == []
    database.close()


def test_a_schema_of_the_future_is_refused_in_one_line_and_left_alone(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "shoal.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    before = (tmp_path / "shoal.db").read_bytes()
    with pytest.raises(NewerStore, match="schema 99.*upgrade shoal") as caught:
        Store(tmp_path / "shoal.db")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "shoal.db").read_bytes()[100:] == before[100:]


@pytest.mark.parametrize("damage", ["garbage", "cut", "scribbled"])
def test_a_damaged_file_is_put_aside_and_a_new_one_begins(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "shoal.db"
    filled = Store(path)
    for i in range(200):
        filled.remember_peer(known(f"peer{i}", float(i)))
    filled.close()
    whole = path.read_bytes()
    broken = {
        "garbage": b"not a database at all" * 400,
        "cut": whole[: len(whole) // 2 - 100],
        "scribbled": whole[:4096] + b"\xff" * (len(whole) - 4096),
    }[damage]
    path.write_bytes(broken)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with caplog.at_level(logging.ERROR):
        again = Store(path)
    again.put("sequence", b"1")
    assert again.get("sequence") == b"1"
    again.close()
    aside = [file for file in tmp_path.iterdir() if ".damaged-" in file.name]
    assert [file.read_bytes() for file in aside] == [broken]
    assert len(caplog.records) == 1
    assert "damaged" in caplog.text
    assert aside[0].name in caplog.text


def test_damage_met_while_running_is_put_aside_too_and_the_write_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "shoal.db"
    running = Store(path)
    for i in range(500):
        running.remember_peer(known(f"peer{i}", float(i)))
    database = sqlite3.connect(path)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    running.remember_peer(known("late", 1e9))
    assert known("late", 1e9) in running.peers()
    running.put("sequence", b"1")
    assert running.get("sequence") == b"1"
    running.close()
    assert any(".damaged-" in file.name for file in tmp_path.iterdir())


def test_two_damaged_files_in_one_second_are_both_kept(tmp_path: Path) -> None:
    for content in (b"first" * 999, b"second" * 999, b"third" * 999):
        (tmp_path / "shoal.db").write_bytes(content)
        Store(tmp_path / "shoal.db").close()
    aside = [file.read_bytes() for file in tmp_path.iterdir() if ".damaged-" in file.name]
    assert sorted(aside) == sorted([b"first" * 999, b"second" * 999, b"third" * 999])


def test_a_full_disk_is_named_and_the_store_goes_on_when_there_is_room(tmp_path: Path) -> None:
    full = Store(tmp_path / "shoal.db")
    full._database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(DiskFull, match="no space left"):
        full.put("large", b"x" * 1_000_000)
    assert full.get("large") is None
    full._database.execute("PRAGMA max_page_count = 100000")
    full.put("after", b"room")
    assert full.get("after") == b"room"
    full.close()


def test_a_long_run_is_thinned_to_rounds_that_show_its_course(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "shoal.db")) as kept:
        losses = [1.0] * 1000
        losses[123], losses[456] = 9.0, -9.0
        kept.add_rounds("ab", [ended(number, loss) for number, loss in enumerate(losses)])
        kept.add_rounds("cd", [ended(5000)])
        found = kept.thinned_rounds("ab", 10)
        assert len(found) <= 30
        assert [done.round for done in found] == sorted(done.round for done in found)
        assert {999, 123, 456} <= {done.round for done in found}
        assert [done.round for done in kept.thinned_rounds("ab", 1000)] == list(range(1000))
        assert kept.thinned_rounds("ef", 10) == []


def test_who_was_in_a_round_and_what_it_sent_are_kept(tmp_path: Path) -> None:
    done = msgspec.structs.replace(ended(1), members=["a", "b"], bytes_sent=3, bytes_received=4)
    with closing(Store(tmp_path / "shoal.db")) as kept:
        kept.add_round("ab", done)
        assert kept.rounds("ab") == [done]
