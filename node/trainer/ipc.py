"""The line between the daemon and its trainer: messages over a Unix socket, vectors in shared memory.

    trainer                                        daemon
      [FetchBase(name)                         -->
                                               <--  BaseReady(path)]     where the task lacks its base
      Attach + file descriptor of the segment  -->
                                               <--  Attached(round, slot, restored)
                                               <--  Begin(round, slot)
      AskAllReduce(index, weight, numel)       -->        vector in the exchange region
                                               <--  Averaged(contributors) | AskFailed(kind, text)
      Finished(round, slot, report)            -->        new state in the *other* slot
      or Idle(round, reason)                   -->        the round did not end in a new state
      Problem(source, text)                    -->        at any time: what a person should see to
                                               <--  Begin(...) | Stop()
      CallPeer, WantCalls, AnswerCalls, ...    -->        at any time: of calls and roles, with their tensors
                                               <--  CallEnded, HandedOut, RoleTaken, RoleFound

With a delay the trainer works on while it waits, be it for an answer or for `Begin`; the order is the same.

Frames: see node/framing.py. The segment is one mapped file without a name:

    page 0         flags, int32: [INTERRUPT, HURRY, ALONE, ...]
    slot 0, slot 1 the shared state, float32 [state_numel] each: one is read while the other is written
    exchange       float32 [exchange_numel]: a vector on its way out, then the answer in its place

The daemon clears the flags before every `Begin`; the trainer only reads them.

Every region begins at a multiple of 4096 bytes. Only the trainer writes a slot while a round runs;
only the daemon writes one between `Idle`/`Attach` and `Begin`.
"""

import mmap
import os
import select
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from shoal.crypto.accounting import Release
from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.origin import Kind
from shoal.gossip.calls.asks import Holder
from shoal.gossip.calls.forms import Forms
from shoal.gossip.events import Vector
from shoal.gossip.messages import MAX_GROUP, Shapes
from shoal.gossip.policies.masking import Masking
from shoal.gossip.run_spec import RunSpec, TensorSpec
from shoal.node.framing import Message, Text, frame, read_frame

PAGE: Final = 4096
INTERRUPT: Final = 0
"""Flag: stop the local work now, throw the round away."""
HURRY: Final = 1
"""Flag: end the local work at the next step and contribute what there is."""
ALONE: Final = 2
"""Flag: the node is alone and waits for company, and so may the trainer; see gossip/membership/company.py."""


class FetchBase(Message, frozen=True):
    """Before `Attach`: the task has no numbers for its frozen tensors; `BaseReady` answers."""

    name: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    """The hash of the base, as the run has it."""
    specs: tuple[TensorSpec, ...]


class BaseReady(Message, frozen=True):
    """The base lies in this file, or there is a reason why it never will."""

    path: Text
    reason: Text = ""


class Attach(Message, frozen=True):
    """The trainer is ready; the initial state is in slot 0. Comes with one file descriptor."""

    pid: int
    spec: RunSpec
    exchange_numel: int
    mergeable: bool
    asks: bool = True
    """Whether the method ever asks its peers; one that does not trains in a run of its own."""
    needs_every_state: bool = False
    """Whether what is private makes sense only beside one state, so that none may be missing on disk."""
    roles: tuple[str, ...] = ()
    """Those of the run, where the method has any."""
    forms: Forms = msgspec.field(default_factory=dict)
    """What peers may call each other for."""
    ability: float = 0.0
    """How much this machine can compute beside others."""


class Attached(Message, frozen=True):
    """Where to go on. If `restored`, slot `slot` holds the state that was on disk."""

    round: int
    slot: int
    restored: bool
    me: str = ""
    """The node's own peer id."""
    role: Text = "auto"
    """What the node's user wants of it; see `RunConfig.role`."""


class Begin(Message, frozen=True):
    """Run this round from the state in this slot."""

    round: int
    slot: int
    replaced: int = 0
    """How many states that this trainer did not make have been put into slots so far."""


class AskAllReduce(Message, frozen=True):
    """Mean of the first `numel` numbers of the exchange region."""

    round: int
    index: int
    """Index of this ask within the round, from 0."""
    weight: float
    numel: int
    kind: Kind = "statistic"
    """What the vector is measured from, so that no peer's counts too much."""
    tag: Text = ""
    discount: float = 1.0
    """What is left of the weight once it was capped."""
    among: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_GROUP)] = ()
    """Among which members of the round's group; empty: all."""
    masking: Masking | None = None
    """The grid of a sum under masks; None: as the run says."""
    released: tuple[Release, ...] = ()
    """What the steps of training told that are new in the vector, where they had noise."""


class AskGather(Message, frozen=True):
    """Everyone's body."""

    round: int
    index: int
    body: bytes
    tag: Text = ""


class Averaged(Message, frozen=True):
    """The mean stands in the exchange region."""

    contributors: tuple[str, ...]


class Gathered(Message, frozen=True):
    """The agreed bodies, sorted by peer id."""

    bodies: tuple[tuple[str, bytes], ...]
    me: str
    """The node's own peer id."""


class AskFailed(Message, frozen=True):
    """The ask failed; `kind` is a class name of gossip/errors.py."""

    kind: Text
    text: Text


class Finished(Message, frozen=True):
    """The state after this round stands in `slot`."""

    round: int
    slot: int
    loss: float
    examples: int
    steps: int
    work_seconds: float
    """Of computing since the last round ended, without any waiting for the daemon or for peers."""
    metrics: dict[str, float]


class Idle(Message, frozen=True):
    """The round ended without a new state."""

    round: int
    reason: Text
    work_seconds: float = 0.0
    """Of computing that was in vain."""


class Problem(Message, frozen=True):
    """Something that a person should see to, and that training goes on without; an empty text ends it."""

    source: Text
    """What it is about: a later one takes the place of an earlier."""
    text: Text


# --- calls and roles: at any time, beside the asks of a round ---------------------------------------


class CallPeer(Message, frozen=True):
    """Call a peer: the first of these that answers, or else the holders of a role."""

    id: int
    peers: tuple[PeerId, ...]
    name: str
    """A role or a peer; empty where there are `peers`."""
    verb: str
    step: bytes
    shapes: Shapes
    data: bytes
    is_last: bool


class CallEnded(Message, frozen=True):
    """What came of a call: tensors of a peer, or why not, or neither of a push."""

    id: int
    peer: str
    shapes: Shapes
    data: bytes
    failure: str


class WantCalls(Message, frozen=True):
    """Hand out calls of these verbs to the generator of a role."""

    role: str
    verbs: tuple[str, ...]
    count: int
    """So many; 0: of `among`, or everyone."""
    among: tuple[PeerId, ...]


class HandedOut(Message, frozen=True):
    """Calls: caller, verb, step, and packed tensors."""

    role: str
    calls: tuple[tuple[str, str, bytes, Shapes, bytes], ...]
    is_complete: bool


class AnswerCalls(Message, frozen=True):
    """Answers: caller, verb, step, packed tensors, and why not where the call is refused."""

    answers: tuple[tuple[str, str, bytes, Shapes, bytes, str], ...]


class LookForRole(Message, frozen=True):
    """Who holds this role?"""

    id: int
    role: str


class RoleFound(Message, frozen=True):
    """These hold it, in the order in which a call tries them."""

    id: int
    holders: tuple[Holder, ...]


class RoleTaken(Message, frozen=True):
    """The node holds this role from now on: serve it."""

    role: str


class LeaveRole(Message, frozen=True):
    """The trainer serves this role no longer."""

    role: str


class AttendRound(Message, frozen=True):
    """Hurry this round's trainer once all peers that train are ready."""


ForRoles: TypeAlias = CallEnded | HandedOut | RoleFound | RoleTaken


class TrainerFailed(Message, frozen=True):
    """The trainer cannot go on; the text is one line that a person can act on."""

    text: Text


class Stop(Message, frozen=True):
    """End; nothing more will come."""


OfRoles: TypeAlias = CallPeer | WantCalls | AnswerCalls | LookForRole | LeaveRole | AttendRound
OfRounds: TypeAlias = FetchBase | Attach | AskAllReduce | AskGather | Finished | Idle
FromTrainer: TypeAlias = OfRounds | Problem | TrainerFailed | OfRoles
FromDaemon: TypeAlias = BaseReady | Attached | Begin | Averaged | Gathered | AskFailed | Stop | ForRoles

from_trainer: Final[msgspec.msgpack.Decoder[FromTrainer]] = msgspec.msgpack.Decoder(FromTrainer)
from_daemon: Final[msgspec.msgpack.Decoder[FromDaemon]] = msgspec.msgpack.Decoder(FromDaemon)


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // PAGE) * PAGE


def nameless_file(n_bytes: int) -> int:
    """Return the descriptor of a file without a name, for memory that two processes share."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("shoal", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, n_bytes)
    return fd


@dataclass(frozen=True)
class Segment:
    """The shared memory of one trainer and its daemon; see the module's docstring."""

    flags: npt.NDArray[np.int32]
    slots: tuple[Vector, Vector]
    exchange: Vector

    @staticmethod
    def n_bytes(state_numel: int, exchange_numel: int) -> int:
        """Return the size of the file behind a segment."""
        return PAGE + 2 * _aligned(4 * state_numel) + _aligned(4 * exchange_numel)

    @classmethod
    def create(cls, state_numel: int, exchange_numel: int) -> tuple["Segment", int]:
        """Make a segment; returns it and the descriptor to hand to the daemon (the caller closes it)."""
        size = cls.n_bytes(state_numel, exchange_numel)
        fd = nameless_file(size)
        return cls.attach(fd, state_numel, exchange_numel), fd

    @classmethod
    def attach(cls, fd: int, state_numel: int, exchange_numel: int) -> "Segment":
        """Map a segment by its descriptor.

        Raises:
            ValueError: the file is smaller than the regions need.
        """
        size = cls.n_bytes(state_numel, exchange_numel)
        if os.fstat(fd).st_size < size:
            raise ValueError("the shared segment is smaller than its regions")
        memory = mmap.mmap(fd, size)
        slot = _aligned(4 * state_numel)
        return cls(
            np.frombuffer(memory, np.int32, PAGE // 4),
            (
                np.frombuffer(memory, np.float32, state_numel, PAGE),
                np.frombuffer(memory, np.float32, state_numel, PAGE + slot),
            ),
            np.frombuffer(memory, np.float32, exchange_numel, PAGE + 2 * slot),
        )


class Line:
    """The trainer's end of the socket: blocking, one message at a time."""

    def __init__(self, path: Path) -> None:
        """Connect to the daemon's trainer socket.

        Raises:
            OSError: no daemon listens there.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send one message, with descriptors where given."""
        data = frame(message)
        sent = socket.send_fds(self._socket, [data], list(fds)) if fds else 0
        self._socket.sendall(data[sent:])

    def receive(self) -> FromDaemon:
        """Wait for the next message.

        Raises:
            EOFError: the daemon is gone.
        """
        return from_daemon.decode(read_frame(self._socket))

    def has_word(self, within: float = 0.0) -> bool:
        """Tell whether `receive` would find something, or the end; wait so many seconds for it."""
        # Not select, which takes no descriptor above 1023: the process is the user's.
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        return bool(waiting.poll(1000 * within))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
