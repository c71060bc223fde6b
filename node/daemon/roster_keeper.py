"""RosterKeeper: the roster of the node's run between disk, member core and commands.

Commands and peers put words on the roster; what is new is written to disk soon, and at once where a person
waits for it. The clock of the roster is the wall clock, which is looked at often: a laptop sleeps.
"""

import time
from collections.abc import Callable
from typing import Protocol

import msgspec
import trio
from nacl.signing import SigningKey

from shoal.crypto.keys import PeerId, peer_id_of, public_key_of
from shoal.gossip.addresses import beyond_this_machine
from shoal.gossip.admission.admission import Admission
from shoal.gossip.admission.charter import OPEN, parse
from shoal.gossip.admission.errors import AdmissionError, BadToken
from shoal.gossip.admission.grants import Redeem
from shoal.gossip.admission.roster import Roster, Word
from shoal.gossip.admission.rotations import INFINITY, Line
from shoal.gossip.admission.tokens import MAX_ADDRESSES, Setting, Token, token_of
from shoal.gossip.host import Host
from shoal.gossip.member.commands import JoinBy, Submit
from shoal.gossip.run_spec import RunSettings, RunSpec
from shoal.node.daemon.journal import UNREACHED
from shoal.node.daemon.rounds import Rounds
from shoal.node.daemon.surroundings import Surroundings
from shoal.node.errors import BadConfig, Refused
from shoal.node.roster_status import RosterStatus, roster_status
from shoal.node.storage.home import Home
from shoal.node.storage.roster_file import load_refused, load_roster, save_refused, save_roster
from shoal.node.trainer.spec import settings_of


class Links(Protocol):
    """What of a network follows the roster. Nothing here waits."""

    def use_network_keys(self, keys: tuple[bytes, ...]) -> None:
        """Take these keys of the private network from now on, and say the first."""

    def show_invite(self, words: bytes) -> None:
        """Show in the hello of new links by what this node joins."""


class RosterKeeper:
    """See the module's docstring."""

    def __init__(
        self,
        home: Home,
        key: SigningKey,
        admission: Admission,
        node: Surroundings,
        links: Links,
        network_key: bytes = b"",
    ) -> None:
        """`node` reaches the member core. `network_key`: of the private network, by the node's file."""
        self._home, self._key, self._admission = home, key, admission
        self._links, self._network_key = links, network_key
        self._command = node.command
        self._me = peer_id_of(bytes(key.verify_key))
        self._charter = OPEN
        self._own: Redeem | None = None
        self._saved = 0
        """The version of the roster that is on the disk."""
        self._token: Token | None = None
        self._line: Line = ()
        self._line_of: tuple[Roster | None, int] = None, -1
        admission.refused = load_refused(home)
        admission.is_invited = self._is_invited
        self.set_clock()

    def set_clock(self) -> None:
        """Look at the wall clock."""
        self._admission.set_clock(time.time() - trio.current_time())

    def see_to_keys(self) -> None:
        """Take the keys of the private network that are to be taken now."""
        roster, wall = self._admission.roster, time.time()
        of = roster, roster.version if roster is not None else 0
        if not self._network_key or (of == self._line_of and all(until > wall for _, until in self._line)):
            return
        before, self._line_of = [key for key, _ in self._line], of
        line: Line = ((self._network_key, INFINITY),)
        self._line = roster.network_keys(self._network_key, self._key, wall) if roster is not None else line
        if (keys := [key for key, _ in self._line]) != before:
            self._links.use_network_keys(tuple(keys))

    # --- the run ----------------------------------------------------------------------------------

    def use(self, charter: str) -> None:
        """Go by the roster of a run with this charter, as it is on the disk."""
        found = parse(charter)
        if found == self._charter:
            return
        self._charter, self._own, roster = found, None, None
        if found.founders:
            roster, self._own = load_roster(self._home, found)
            self._saved = roster.version
        self._admission.use(roster)
        if self._token is not None:
            self._redeem(self._token)
        self._show_own()
        self.see_to_keys()

    def _show_own(self) -> None:
        self._links.show_invite(msgspec.msgpack.encode(self._own) if self._own is not None else b"")
        if self._own is not None:
            self._command(JoinBy(self._own))

    def _is_invited(self, peer: PeerId, invite: bytes) -> bool:
        """Tell whether what a peer shows in its hello is an invite of its own."""
        roster = self._admission.roster
        try:
            redeem = msgspec.msgpack.decode(invite, type=Redeem)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False
        if roster is None or peer_id_of(redeem.subject) != peer:
            return False
        return roster.is_invite(redeem, trio.current_time())

    def join(self, token: str) -> None:
        """Join by an invite.

        Raises:
            BadConfig: it is none, or it is for another node.
        """
        if not token:
            return
        try:
            self._token = token_of(token)
            self._redeem(self._token)
        except BadToken as error:
            raise BadConfig(f"--invite: {error}") from None
        self._show_own()

    def _redeem(self, token: Token) -> None:
        roster = self._admission.roster
        if roster is None or not token.chain or token.chain[-1].charter != self._charter.id:
            return
        if self._own is not None and self._own.grant.id == token.chain[-1].id:
            return
        self._own = token.redeem(self._key, int(time.time()))
        if self._own is not None:
            try:
                roster.add_redeem(self._own)
            except AdmissionError as error:
                raise BadToken(f"{error}; ask for a new invite") from None
            save_roster(self._home, self._charter, roster.words, self._own)

    # --- what people say --------------------------------------------------------------------------

    def submit(self, words: tuple[Word, ...]) -> None:
        """Put what a person signed on the roster, and tell the peers.

        Raises:
            Refused: it is of another run, or not signed by those who may say it.
        """
        roster = self._admission.roster
        if roster is None:
            raise Refused("the run of this node has no founders; begin one that has with: shoal found")
        try:
            for word in words:
                roster.add(word)
        except AdmissionError as error:
            raise Refused(str(error)) from None
        self.save()
        self.see_to_keys()
        self._command(Submit(words))

    def refuse(self, peer: PeerId, until: float) -> None:
        """Have no link to a peer until this time by the wall clock; a time that is past ends that."""
        self._admission.refused[peer] = until
        refused = {each: end for each, end in self._admission.refused.items() if end > time.time()}
        self._admission.refused = refused
        save_refused(self._home, refused)
        self._command(Submit(()))

    # --- what is shown ----------------------------------------------------------------------------

    def status(self, now: float) -> RosterStatus:
        """Return who takes part; `now` is the driver's clock."""
        return roster_status(self._admission.roster, self._admission.refused, self._me, now)

    def problems(self, run: bytes, now: float) -> list[str]:
        """Return what a person should see to; `run`: the id of the run, empty where none has begun."""
        roster, me = self._admission.roster, self._me
        found = []
        if self._token is not None and run not in (b"", self._token.run):
            found.append(
                "this node's run is another than that of its invite: give no settings beside --invite, and"
                " use the same task and version of shoal as the inviter"
            )
        if roster is None:
            return found
        if self._line and self._line[0][1] < INFINITY:
            found.append(
                "the founders gave this private network a new key, and none to this node: get it from a"
                " member, where it is printed by: shoal key show"
            )
        if roster.is_split:
            found.append("the founders contradict each other: two sets of keys claim to follow the same one")
        if roster.is_banned(me, now):
            found.append("the founders banned this node: no peer of the run talks to it")
        elif me in roster.held_back(now):
            found.append(
                "this node's invite was used by more nodes than may; ask for another with:"
                f" shoal invite --to {me}"
            )
        elif not roster.may_take_part(me, now):
            how = f"shoal admit {me} --sign founder-1.key"
            if roster.charter.mode == "invite":
                how += f", or from a member with: shoal invite --to {me}"
            found.append(f"this node is not on the roster of its run; it is let in by a founder with: {how}")
        return found

    # --- disk -------------------------------------------------------------------------------------

    @property
    def is_unsaved(self) -> bool:
        """Whether there is news that is not on the disk."""
        roster = self._admission.roster
        return roster is not None and roster.version != self._saved

    def snapshot(self) -> Callable[[], None]:
        """Return what writes the roster as it is now; for a thread."""
        roster, charter, own = self._admission.roster, self._charter, self._own
        assert roster is not None
        words, self._saved = roster.words, roster.version
        return lambda: save_roster(self._home, charter, words, own)

    def save(self) -> None:
        """Write the roster now, if there is news."""
        if self.is_unsaved:
            self.snapshot()()


class RunDoor:
    """What the commands of a person do about who takes part; see `Door` (node/web/server.py)."""

    def __init__(self, keeper: RosterKeeper, rounds: Rounds, host: Host, swarm: str) -> None:
        """`swarm`: its name."""
        self._keeper, self._rounds, self._host, self._swarm = keeper, rounds, host, swarm

    def roster(self) -> RosterStatus:
        """See `Door`."""
        return self._keeper.status(trio.current_time())

    def add_words(self, words: tuple[Word, ...]) -> None:
        """See `Door`."""
        self._keeper.submit(words)

    def refuse(self, peer: str, until: float) -> None:
        """See `Door`."""
        self._keeper.refuse(PeerId(peer), until)

    def invite(self) -> Token:
        """See `Door`."""
        spec, addresses = self._rounds.spec, self._host.addresses()
        if spec is None:
            raise Refused("this node knows no run yet: wait until its trainer has started")
        if not addresses:
            raise Refused(UNREACHED)
        return invite_of(spec, self._rounds.run, self._swarm, public_key_of(self._host.me), addresses)


def invite_of(spec: RunSpec, run: bytes, swarm: str, me: bytes, addresses: list[str]) -> Token:
    """Return the invite to a run without a grant: the run, and where and who this node is."""
    plain = RunSettings()
    settings: dict[str, Setting] = {
        name: value for name, value in settings_of(spec).items() if value != getattr(plain, name)
    }
    suffix = f"/p2p/{peer_id_of(me)}"
    outside = beyond_this_machine(addresses)
    shown = tuple(each.removesuffix(suffix) for each in outside[:MAX_ADDRESSES])
    return Token(run=run, swarm=swarm, settings=settings, inviter=me, addresses=shown)
