"""Files are there whole or not at all."""

from pathlib import Path

import pytest

from shoal.node.storage.files import write_whole


class Crash(Exception):
    """In place of the end of the process."""


def crash() -> None:
    raise Crash


def test_pieces_take_the_place_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    write_whole(path, b"new", memoryview(b" and more"))
    assert path.read_bytes() == b"new and more"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_before_the_end_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    with pytest.raises(Crash):
        write_whole(path, b"new", before_rename=crash)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_may_not_be_replaced_stays(
    tmp_path: Path, has_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    if not has_links:
        monkeypatch.setattr("os.link", refuse)
    path = tmp_path / "file"
    write_whole(path, b"old", may_replace=False)
    with pytest.raises(FileExistsError):
        write_whole(path, b"new", may_replace=False)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
