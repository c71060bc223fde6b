"""Forget file: what this node was asked to forget, and what each round did about it. It stays on this disk.

    state/forget.json       {"request": ..., "notes": [...]}

`shoal forget` writes the request, the trainer adds the notes. While the file is there, the examples that it
names are not trained on.
"""

from pathlib import Path
from typing import Final

import msgspec

from shoal.methods.errors import BadOption
from shoal.methods.learning.forgetting import Note, Request
from shoal.node.errors import BadHome
from shoal.node.storage.files import write_whole

NAME: Final = "forget.json"


class Forgotten(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in the file."""

    request: Request
    notes: tuple[Note, ...] = ()

    @property
    def unlearned(self) -> int:
        """How many rounds have unlearned."""
        return sum(note.unlearned for note in self.notes)


class ForgetFile:
    """See `Forgetting`; one node's."""

    def __init__(self, state_dir: Path) -> None:
        """`state_dir`: the node's own."""
        self._path = state_dir / NAME

    def read(self) -> Forgotten | None:
        """Return what was asked and noted; None if nothing.

        Raises:
            BadOption: the file is damaged. What is to be forgotten must not be trained on by mistake.
        """
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Forgotten)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadOption(
                f"{self._path} cannot be read ({error}); mend it, or give up what it asks for by removing it"
            ) from None

    def ask(self, request: Request) -> None:
        """Put a request in the place of an earlier one, and drop the earlier one's notes.

        Raises:
            BadHome: it cannot be written.
        """
        self._write(Forgotten(request=request))

    def withdraw(self) -> None:
        """Forget nothing from now on."""
        self._path.unlink(missing_ok=True)

    def request(self) -> Request | None:
        """See `Forgetting`."""
        found = self.read()
        return None if found is None else found.request

    def unlearned(self) -> int:
        """See `Forgetting`."""
        found = self.read()
        return 0 if found is None else found.unlearned

    def note(self, note: Note) -> None:
        """See `Forgetting`; nothing is kept where the request was withdrawn meanwhile."""
        found = self.read()
        if found is None:
            return
        others = tuple(each for each in found.notes if each.round != note.round)
        self._write(Forgotten(request=found.request, notes=(*others, note)))

    def _write(self, content: Forgotten) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self._path, msgspec.json.encode(content))
        except OSError as error:
            raise BadHome(f"cannot write {self._path}: {error.strerror}; make it writable") from None
