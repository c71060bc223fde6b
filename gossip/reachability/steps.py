"""Steps: what a node asks of its router, as values. Pure; `asking.py` answers them over sockets.

    steps = nat_pmp.map_port(…)     a generator: yields a `Datagram` or a `Request`, is sent what came back

So every protocol is a plain function of what the router says. A router is believed nothing: an answer comes
from its own address only, has a bounded size and is read strictly.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, TypeVar

T = TypeVar("T")
Why = Literal["silent", "garbled", "refused", "in vain"]
LEASE: Final = 3600
"""Seconds for which a port is asked; it closes by itself that long after a node that was killed."""
MAX_WORDS: Final = 80
"""Characters of what a router says that a person is shown."""


@dataclass(frozen=True, slots=True)
class Datagram:
    """A packet to the router; answered with what came back, or None after so many seconds."""

    to: Literal["nat-pmp", "ssdp"]
    body: bytes
    seconds: float
    fits: Callable[[bytes], bool]
    """Whether a packet answers this one; others are passed over."""


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request to the router; answered with a `Response`, or None without a whole one."""

    method: Literal["GET", "POST"]
    port: int
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    """What a router answered over HTTP."""

    status: int
    body: bytes


Step: TypeAlias = Datagram | Request
Answer: TypeAlias = bytes | Response | None
Steps: TypeAlias = Generator[Step, Answer, T]


def ask(step: Datagram) -> Steps[bytes | None]:
    """Send a packet, and return what came back."""
    answer = yield step
    assert not isinstance(answer, Response)
    return answer


def fetch(step: Request) -> Steps[Response | None]:
    """Make a request, and return what came back."""
    answer = yield step
    assert not isinstance(answer, bytes)
    return answer


class NoMapping(Exception):
    """The router opened no port."""

    def __init__(self, why: Why, words: str = "") -> None:
        """`words`: of the router, or of how its address is; for people."""
        super().__init__(words or why)
        self.why: Final = why
        self.words: Final = said(words)


@dataclass(frozen=True, slots=True)
class Control:
    """The service of a router that opens ports by UPnP."""

    port: int
    path: str
    kind: str
    """The URN of the service."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A port that a router opened."""

    by: Literal["NAT-PMP", "UPnP"]
    host: str
    """The router's address on the outside, IPv4."""
    port: int
    """On the outside."""
    internal: int
    """The port of ours that it leads to."""
    lease: float
    """Seconds after which it closes; 0: never."""
    control: Control | None = None
    """By what it is closed again; None for NAT-PMP."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a node wants of its router."""

    internal: int
    """The port that it listens on."""
    local: str
    """Its address in the router's network."""
    ports: tuple[int, ...]
    """On the outside, the one it likes most first; the others are for where that one is taken."""
    judge: Callable[[str], None]
    """Raises `NoMapping` where the router's outer address is of no use."""


def said(words: str) -> str:
    """Return what a router said, as a person may be shown it."""
    plain = "".join(each if each.isprintable() else " " for each in words[: 4 * MAX_WORDS])
    return " ".join(plain.split())[:MAX_WORDS]
