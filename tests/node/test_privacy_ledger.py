"""The privacy ledger: what was told is on the disk before it is told, and never forgotten."""

from pathlib import Path

import pytest

from shoal.crypto.accounting import Release
from shoal.node.errors import BadHome
from shoal.node.privacy_ledger import PrivacyLedger
from shoal.node.storage.files import write_whole

ONE = (Release(noise_multiplier=1.0),)
STEPS = (Release(noise_multiplier=0.5, sampling=0.1, count=20),)


def test_what_was_spent_is_there_after_a_restart(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path / "state")
    for more in (ONE, STEPS, ONE):
        ledger.spend(more)
    again = PrivacyLedger(tmp_path / "state")
    assert again.count == 22
    assert set(again.releases) == {
        Release(noise_multiplier=1.0, count=2),
        Release(noise_multiplier=0.5, sampling=0.1, count=20),
    }
    assert (tmp_path / "state" / "privacy.json").stat().st_mode & 0o777 == 0o600


def test_a_crash_while_it_is_written_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = PrivacyLedger(tmp_path)
    ledger.spend(ONE)

    class Crashed(BaseException):
        """The process ends here."""

    def crash(path: Path, *pieces: bytes) -> None:
        def end() -> None:
            raise Crashed

        write_whole(path, *pieces, before_rename=end)

    monkeypatch.setattr("shoal.node.privacy_ledger.write_whole", crash)
    with pytest.raises(Crashed):
        ledger.spend(STEPS)
    assert ledger.releases == PrivacyLedger(tmp_path).releases == ONE


@pytest.mark.parametrize("text", ["", "{", '{"releases": [{"noise_multiplier": 0}]}', '{"more": 1}', "\xff"])
def test_a_damaged_file_is_not_taken_for_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "privacy.json").write_text(text, "latin-1")
    with pytest.raises(BadHome, match="put it back from a copy"):
        PrivacyLedger(tmp_path)


def test_what_cannot_be_written_is_not_spent(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path)
    (tmp_path / "privacy.json").mkdir()
    with pytest.raises(BadHome, match="cannot write"):
        ledger.spend(ONE)
    assert ledger.count == 0
