"""The log file: put aside when it is large, and never a reason for a node to end."""

import re
from pathlib import Path

import pytest

from shoal.node.errors import BadHome
from shoal.node.service.log_file import LogFile, stamp


def test_a_file_that_is_large_is_put_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "node.log", 0.001, 2)
    for number in range(200):
        log.write(f"line {number:03} " + "x" * 40)
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["node.log", "node.log.1", "node.log.2"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())
    kept = [tmp_path / name for name in ("node.log.2", "node.log.1", "node.log")]
    numbers = [int(found) for path in kept for found in re.findall(r"line (\d+)", path.read_text())]
    # Without a gap, and the last one is there.
    assert numbers == list(range(numbers[0], 200))


def test_a_second_start_goes_on_in_the_same_file(tmp_path: Path) -> None:
    for word in ("one", "two"):
        log = LogFile(tmp_path / "node.log", 1.0, 2)
        log.write(word)
        log.close()
    assert (tmp_path / "node.log").read_text() == "one\ntwo\n"


def test_a_place_that_cannot_be_written_is_told_with_the_flag(tmp_path: Path) -> None:
    with pytest.raises(BadHome, match="--log-file"):
        LogFile(tmp_path / "no" / "such" / "folder.log", 1.0, 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
def test_a_disk_that_is_full_is_told_once_and_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    log = LogFile(Path("/dev/full"), 1.0, 2)
    log.write("one")
    log.write("two")
    log.close()
    err = capsys.readouterr().err
    assert err.count("see to the disk") == 1
    assert "Traceback" not in err


def test_what_is_no_character_is_escaped(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "node.log", 1.0, 2)
    log.write("a\udcffb")
    log.close()
    assert (tmp_path / "node.log").read_text() == "a\\udcffb\n"


def test_times_have_their_zone() -> None:
    assert re.fullmatch(r"2023-11-1[45]T\d\d:\d\d:20\.250[+-]\d\d:\d\d", stamp(1_700_000_000.25))
