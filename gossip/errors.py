"""What can go wrong between peers.

GossipError              the ask failed; the round can be run again from the old state
├── TooFew               fewer peers took part than the quorum
├── LeftOut              the round went on without us; the new state will be fetched
├── Mismatch             members of the group asked for unlike things
├── NotFinite            what this node would give has numbers that are not finite
├── Unanswered           no peer answered a call
└── Unreachable          no address of the peer answered
RemoteViolation          a peer broke the protocol: drop it, count it, go on
LocalViolation           we broke it: a bug of ours, loud
"""


class GossipError(Exception):
    """An ask of a method failed. The old state is untouched; the round is run again."""


class TooFew(GossipError):
    """Fewer peers than the quorum took part in the round."""


class LeftOut(GossipError):
    """The others finished this round without us."""


class Mismatch(GossipError):
    """Members of the group asked for unlike things: two versions of a method, or a bug in it."""


class NotFinite(GossipError):
    """What this node would have given to the round has numbers that are not finite."""


class Unanswered(GossipError):
    """No peer that a call was for answered it in time; some may have acted on it all the same."""


class Unreachable(GossipError):
    """No address of the peer answered."""


class RemoteViolation(Exception):
    """A peer sent what no correct peer sends. `reason` is a short constant for counting."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """`reason`: few distinct values, so that drops can be counted by it."""
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class LocalViolation(Exception):
    """Our own code broke the protocol's rules."""
