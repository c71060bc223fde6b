"""Home: the one folder of a node, and the rules for what lies in it.

    identity.key      the seed of the node's Ed25519 key, 64 hex digits, readable by its owner only
    config.toml       the settings (node/config/settings.py)
    shoal.db          peer book, rounds, metrics (SQLite)
    state/            the model's states (safetensors), what is half-fetched, what was asked to be forgotten
    run/              while a node runs: lock, control.sock, trainer.sock

A home runs once: the lock is an flock, so the kernel frees it however the process dies. A second lock is
named after the peer id, so that a copied home does not put one identity on the network twice from one
machine. Paths of Unix sockets may have about 104 bytes; in a deeper home the sockets lie in a private
folder of the runtime directory, and ``run/NAME.path`` says where.
"""

import codecs
import errno
import fcntl
import os
import shlex
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final

import platformdirs
from nacl.signing import SigningKey

from shoal.crypto.keys import PeerId, key_from_seed, new_key, peer_id_of
from shoal.node.errors import BadHome
from shoal.node.storage.files import write_whole

SOCKET_PATH_BYTES: Final = 100
"""Room for the shortest limit we know, 104 with the closing zero on macOS."""
LOOKS: Final = 5
LOOK: Final = 0.02
"""Seconds."""


def default_home(environ: Mapping[str, str]) -> Path:
    """Return the home where none is named: SHOAL_HOME, or the user's data folder.

    Raises:
        BadHome: the user has no folder, and none is named.
    """
    named = environ.get("SHOAL_HOME", "")
    if named:
        return absolute(Path(named))
    try:
        return absolute(platformdirs.user_data_path("shoal", appauthor=False))
    except RuntimeError:
        raise _homeless("~") from None


def absolute(path: Path) -> Path:
    """Return a folder that a person named as an absolute path, ``~`` replaced.

    Raises:
        BadHome: ``~`` means nothing here, as in a container without HOME and without an account; or the path
            is relative to a folder that is gone.
    """
    try:
        # Both leave or refuse a ~ that they know nothing of; a folder of that name is never meant.
        found = path.expanduser()
        if found.parts[:1] and found.parts[0].startswith("~"):
            raise RuntimeError
        return found.absolute()
    except RuntimeError:
        raise _homeless(str(path)) from None
    except FileNotFoundError:
        raise BadHome("the current folder is gone; change to another one with: cd") from None


def _homeless(path: str) -> BadHome:
    return BadHome(
        f"{path}: there is no home folder of this user here; name the node's folder with --home DIR, or in"
        " SHOAL_HOME"
    )


def typed(path: Path) -> str:
    """Return a path as it is typed in a shell: quoted where it has spaces or the like."""
    return shlex.quote(str(path))


def read_seed(path: Path, missing: str, damaged: str) -> SigningKey:
    """Read a key from the file that holds its seed as 64 hex digits.

    `missing`, `damaged`: what is said where there is none, and what to do where it is no key.

    Raises:
        BadHome: there is none, others may read it, or it is no key.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(4096)
    except FileNotFoundError:
        raise BadHome(missing) from None
    except OSError as error:
        raise BadHome(f"cannot read {path}: {_why(error)}; run as its owner") from None
    if mode & 0o077:
        raise BadHome(f"{path} is open to others (mode {mode:04o}); close it with: chmod 600 {typed(path)}")
    try:
        # Some editors put a byte order mark before what they save.
        seed = bytes.fromhex(text.removeprefix(codecs.BOM_UTF8).decode("ascii").strip())
        if len(seed) != 32:
            raise ValueError
    except ValueError:
        # What stands in the file is not repeated: it may be most of a key.
        raise BadHome(f"{path} holds no key (64 hex digits); {damaged}") from None
    return key_from_seed(seed)


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of one node. Making one touches nothing."""

    path: Path

    @property
    def key_file(self) -> Path:
        """The node's secret."""
        return self.path / "identity.key"

    @property
    def config_file(self) -> Path:
        """The settings."""
        return self.path / "config.toml"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.path / "shoal.db"

    @property
    def state_dir(self) -> Path:
        """Where the model's states lie."""
        return self.path / "state"

    @property
    def run_dir(self) -> Path:
        """What exists while a node runs."""
        return self.path / "run"

    @property
    def lock_file(self) -> Path:
        """Locked by the running node; holds its pid."""
        return self.run_dir / "lock"

    def create(self) -> None:
        """Make the folders, for their owner only.

        Raises:
            BadHome: they cannot be made, or others may write into them.
        """
        folders = (self.path, self.state_dir, self.run_dir)
        try:
            for folder in folders:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            modes = [stat.S_IMODE(folder.stat().st_mode) for folder in folders]
        except OSError as error:
            raise BadHome(
                f"cannot make {self.path}: {_why(error)}; choose another folder with --home"
            ) from None
        # Anybody who may write there puts a key, a state or a lock of his own in the place of ours.
        for folder, mode in zip(folders, modes, strict=True):
            if mode & 0o022:
                raise BadHome(
                    f"others may write into {folder} (mode {mode:04o});"
                    f" close it with: chmod go-w {typed(folder)}"
                )

    def create_key(self, *, force: bool = False) -> SigningKey:
        """Write a new key; with `force` in the place of an old one.

        Raises:
            BadHome: there is a key already, or it cannot be written.
        """
        self.create()
        key = new_key()
        try:
            write_whole(self.key_file, f"{bytes(key).hex()}\n".encode(), may_replace=force)
        except FileExistsError:
            raise BadHome(
                f"{self.key_file} exists; keep it, or give up this identity with: shoal init --force"
            ) from None
        except OSError as error:
            raise BadHome(f"cannot write {self.key_file}: {_why(error)}; choose another --home") from None
        return key

    def load_key(self) -> SigningKey:
        """Read the key.

        Raises:
            BadHome: there is none, others may read it, or it is no key.
        """
        return read_seed(
            self.key_file,
            f"no key in {self.path}; make one with: shoal init --home {typed(self.path)}",
            f"restore it, or make a new identity with: shoal init --force --home {typed(self.path)}",
        )

    def load_or_create_key(self) -> SigningKey:
        """Read the key, or make it where the home is new."""
        return self.load_key() if self.key_file.exists() else self.create_key()

    def peer_id(self) -> PeerId:
        """Return who this node is."""
        return peer_id_of(bytes(self.load_key().verify_key))

    @contextmanager
    def locked(self, environ: Mapping[str, str]) -> Iterator[None]:
        """Hold the home, and its identity on this machine, for as long as the node runs.

        Raises:
            BadHome: a node runs here already, or one with the same key does elsewhere on this machine; or
                nothing can be written here.
        """
        self.create()
        peer = self.peer_id()
        with ExitStack() as stack:
            holder = stack.enter_context(_flock(self.lock_file, str(self.path)))
            if holder is not None:
                raise self._in_use(holder[0])
            by_identity = runtime_dir(environ) / f"{peer}.lock"
            holder = stack.enter_context(_flock(by_identity, str(self.path)))
            if holder is not None:
                pid, other = holder
                raise BadHome(
                    f"the identity {peer} is in use by the node in {other} (pid {pid});"
                    f" give this node its own with: shoal init --force --home {typed(self.path)}"
                )
            yield

    def check_free(self) -> None:
        """Say early that a node runs here; only `locked` makes sure that none does.

        Raises:
            BadHome: a node runs here already.
        """
        if self.is_running():
            raise self._in_use(self.running_pid() or 0)

    def _in_use(self, pid: int) -> BadHome:
        return BadHome(
            f"a node runs in {self.path} already (pid {pid});"
            f" stop it with: shoal stop --home {typed(self.path)}"
        )

    def running_pid(self) -> int | None:
        """Return the pid that the last node here wrote down; if it was killed, it is gone."""
        try:
            return int(self.lock_file.read_bytes().split(b"\n", 1)[0])
        except (OSError, ValueError):
            return None

    def is_running(self) -> bool:
        """Tell whether a node holds this home: its lock, since a pid may be a dead process's or another's."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return False

    def new_socket(self, name: str, environ: Mapping[str, str]) -> Path:
        """Return a free path for the Unix socket ``control`` or ``trainer``; hold the lock to call this.

        A socket that a killed node left is removed.
        """
        path = self.run_dir / f"{name}.sock"
        note = self.run_dir / f"{name}.path"
        note.unlink(missing_ok=True)
        if len(os.fsencode(path.absolute())) > SOCKET_PATH_BYTES:
            digest = blake2b(os.fsencode(self.path.absolute()), digest_size=8).hexdigest()
            path = runtime_dir(environ) / f"{digest}-{name}.sock"
            note.write_bytes(os.fsencode(path))
        path.unlink(missing_ok=True)
        return path.absolute()

    def find_socket(self, name: str) -> Path:
        """Return where the running node's socket of this name is, if one runs."""
        try:
            return Path(os.fsdecode((self.run_dir / f"{name}.path").read_bytes()))
        except OSError:
            return (self.run_dir / f"{name}.sock").absolute()

    def remove_sockets(self) -> None:
        """Remove the sockets, at the end of a run."""
        for name in ("control", "trainer"):
            self.find_socket(name).unlink(missing_ok=True)
            (self.run_dir / f"{name}.path").unlink(missing_ok=True)


def runtime_dir(environ: Mapping[str, str]) -> Path:
    """Return a short, private folder for locks and sockets; make it where it is missing.

    Raises:
        BadHome: it cannot be made, or belongs to another user.
    """
    base = Path(environ.get("XDG_RUNTIME_DIR") or "/tmp")  # its owner is checked below
    folder = base / f"shoal-{os.getuid()}"
    try:
        if len(os.fsencode(folder)) > SOCKET_PATH_BYTES - 32 or not base.is_dir():
            folder = Path("/tmp") / folder.name
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise BadHome(
            f"cannot make {folder}: {_why(error)}; set XDG_RUNTIME_DIR to a folder of yours"
        ) from None
    # In /tmp anybody may have made it first, and would then own our sockets.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise BadHome(f"{folder} is not yours alone; remove it, or set XDG_RUNTIME_DIR to a folder of yours")
    return folder


@contextmanager
def _flock(path: Path, note: str) -> Iterator[tuple[int, str] | None]:
    """Hold a lock with our pid and a note in it, or tell the pid and note of who does.

    Raises:
        BadHome: the file cannot be made, or is a link: what it leads to would be overwritten.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise BadHome(
                    f"{path} is a link, and a lock is none; remove it with: rm {typed(path)}"
                ) from None
            raise BadHome(f"cannot write {path}: {_why(error)}; choose another folder with --home") from None
        with os.fdopen(descriptor, "r+", encoding="utf-8", errors="surrogateescape") as file:
            if not _take(descriptor):
                pid, _, other = file.read(4096).partition("\n")
                yield (int(pid) if pid.isdigit() else 0, other.strip())
                return
            if not _is_still(path, descriptor):
                continue  # its holder removed it between our open and our lock
            file.truncate()
            file.write(f"{os.getpid()}\n{note}\n")
            file.flush()
            try:
                yield None
            finally:
                path.unlink(missing_ok=True)
            return


def _take(descriptor: int) -> bool:
    """Take a lock; who only looks whether it is held (`Home.is_running`) holds it for a moment."""
    for _ in range(LOOKS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOOK)
        else:
            return True
    return False


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
