"""Half-fetched states on disk: chunks come back, torn files do no harm, none is taken for a state."""

import os
from pathlib import Path

import numpy as np
import pytest
import trio

from shoal.gossip.member.commands import Behind, CachedChunks, ChunksVerified
from shoal.gossip.state.tree_hash import CHUNK_BYTES, leaf, state_hash
from shoal.node.storage.checkpoint import load_newest
from shoal.node.storage.partial_fetch import MAGIC, WORTH_BYTES, ChunkKeeper, HalfFetched

BYTES = np.random.default_rng(1).integers(0, 255, WORTH_BYTES + 5000, dtype=np.uint8)
STATE = state_hash(BYTES.data)
LAST = WORTH_BYTES // CHUNK_BYTES


def arrived(*chunks: int, state: bytes = STATE, n_bytes: int = len(BYTES)) -> ChunksVerified:
    spans = [(chunk, BYTES.data[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]) for chunk in chunks]
    return ChunksVerified(state, n_bytes, spans)


def hashes(*chunks: int) -> set[bytes]:
    return {leaf(data) for _, data in arrived(*chunks).chunks}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "fetching"


def test_what_was_appended_is_found_again(folder: Path) -> None:
    HalfFetched(folder).append(arrived(3, 1))
    HalfFetched(folder).append(arrived(LAST))
    found = HalfFetched(folder).load()
    assert found.keys() == hashes(1, 3, LAST)
    assert all(leaf(data) == name for name, data in found.items())
    assert len(found[leaf(arrived(LAST).chunks[0][1])]) == 5000
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("cut", [1, 4000, 5003, 5008])
def test_a_torn_end_is_cut_off_and_what_follows_is_whole(folder: Path, cut: int) -> None:
    half = HalfFetched(folder)
    half.append(arrived(0, 1, LAST))
    path = folder / f"{STATE.hex()}.part"
    os.truncate(path, path.stat().st_size - cut)
    left = hashes(0, 1)
    assert HalfFetched(folder).load().keys() == left
    half.append(arrived(2))
    assert HalfFetched(folder).load().keys() == left | hashes(2)


def test_rotten_bits_are_another_chunk_that_nobody_asks_for(folder: Path) -> None:
    HalfFetched(folder).append(arrived(0, 1))
    path = folder / f"{STATE.hex()}.part"
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)
    assert hashes(0) < HalfFetched(folder).load().keys()
    assert not hashes(1) & HalfFetched(folder).load().keys()


@pytest.mark.parametrize("content", [b"", b"x", MAGIC, MAGIC + bytes(40), os.urandom(1000)])
def test_a_file_of_another_form_is_removed(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / f"{STATE.hex()}.part").write_bytes(content)
    assert HalfFetched(folder).load() == {}
    assert not list(folder.iterdir())


def test_absurd_sizes_end_a_file(folder: Path) -> None:
    half = HalfFetched(folder)
    half.append(arrived(0))
    with (folder / f"{STATE.hex()}.part").open("ab") as file:
        file.write(b"\xff" * 2000)
    assert half.load().keys() == hashes(0)


def test_a_state_that_is_begun_takes_the_place_of_another(folder: Path) -> None:
    half = HalfFetched(folder)
    half.append(arrived(0))
    half.append(arrived(1, state=b"x" * 32))
    assert [path.stem for path in folder.iterdir()] == [(b"x" * 32).hex()]


def test_a_saved_state_is_half_fetched_no_more(folder: Path) -> None:
    half = HalfFetched(folder)
    half.append(arrived(0))
    half.remove(b"x" * 32)
    assert half.load()
    half.remove(STATE)
    assert half.load() == {}


def test_small_states_are_not_kept(folder: Path) -> None:
    HalfFetched(folder).append(arrived(0, n_bytes=WORTH_BYTES - 4))
    assert not folder.exists()


def test_a_half_fetched_state_is_never_loaded_as_a_state(tmp_path: Path) -> None:
    run = bytes(32)
    HalfFetched(tmp_path).append(arrived(*range(LAST + 1)))
    assert load_newest(tmp_path, run) is None
    assert load_newest(tmp_path, run, numel=len(BYTES) // 4) is None


def test_a_disk_that_takes_nothing_is_told_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.parent.joinpath("fetching").write_text("a file where the folder should be")
    half = HalfFetched(folder)
    half.append(arrived(0))
    half.append(arrived(1))
    assert caplog.text.count("cannot keep what is fetched") == 1


def test_a_disk_that_fails_altogether_ends_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[CachedChunks] = []

    async def main() -> None:
        keeper = ChunkKeeper(folder, told.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            keeper.notice(arrived(0))
            with monkeypatch.context() as broken:
                broken.setattr(Path, "unlink", _fail)
                keeper.saved(STATE)
                while "cannot be kept" not in caplog.text:
                    await trio.sleep(0.01)
            keeper.notice(Behind(1))
            while not told:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert told[0].chunks.keys() == hashes(0)


def _fail(*_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")


def test_the_keeper_writes_what_arrives_and_tells_it_when_the_node_falls_behind(folder: Path) -> None:
    told: list[CachedChunks] = []

    async def main() -> None:
        keeper = ChunkKeeper(folder, told.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            keeper.notice(Behind(1))
            keeper.notice(arrived(0, 2))
            keeper.notice(Behind(2))
            while not told:
                await trio.sleep(0.01)
            keeper.saved(STATE)
            while list(folder.iterdir()):
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert [found.chunks.keys() for found in told] == [hashes(0, 2)]
