"""Tellers: who named which address that nobody has tried yet, and who named too many dead ones.

    named --charged--> dialled --link--> discharged, the teller is believed
                          `--nothing there--> one more in a row; at `MAX_DEAD` it tells no more for an hour

So one peer can neither fill the list of addresses, nor aim a swarm's dials at a network of its choice.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from shoal.gossip.admission.doors import block_of

MAX_UNTRIED: Final = 16
"""Addresses of one teller that have not been tried."""
MAX_OF_A_BLOCK: Final = 4
"""Of these, in one /24 of public addresses, or /48 for IPv6."""
MAX_DEAD: Final = 16
"""Addresses in a row that led nowhere, after which a teller is not listened to."""
MUTED: Final = 3600.0
"""Seconds for which it is not."""
MAX_TELLERS: Final = 1024


@dataclass(slots=True)
class _Account:
    untried: dict[str, str] = field(default_factory=dict)
    """Addresses, and the prefix of each that is public."""
    dead: int = 0
    muted_until: float = 0.0


class Tellers:
    """The accounts of one node."""

    def __init__(self) -> None:
        """Nobody has told anything."""
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._by_address: dict[str, str] = {}

    def charge(self, teller: str, address: str, host: str, now: float, *, is_public: bool) -> bool:
        """Take note of an untried address; False where the teller has named enough for now."""
        account = self._accounts.setdefault(teller, _Account())
        self._accounts.move_to_end(teller)
        if len(self._accounts) > MAX_TELLERS:
            _, forgotten = self._accounts.popitem(last=False)
            for each in forgotten.untried:
                self._by_address.pop(each, None)
        if now < account.muted_until or len(account.untried) >= MAX_UNTRIED:
            return False
        block = block_of(host) if is_public else ""
        if block and sum(each == block for each in account.untried.values()) >= MAX_OF_A_BLOCK:
            return False
        account.untried[address] = block
        self._by_address[address] = teller
        return True

    def worked(self, address: str) -> None:
        """An address led to a link."""
        account = self._settle(address)
        if account is not None:
            account.dead = 0

    def failed(self, address: str, now: float) -> None:
        """Nobody was at an address when it was first tried."""
        account = self._settle(address)
        if account is None:
            return
        account.dead += 1
        if account.dead >= MAX_DEAD:
            account.dead, account.muted_until = 0, now + MUTED

    def forget(self, address: str) -> None:
        """An address is not going to be tried."""
        self._settle(address)

    def _settle(self, address: str) -> _Account | None:
        teller = self._by_address.pop(address, None)
        account = self._accounts.get(teller) if teller is not None else None
        if account is not None:
            account.untried.pop(address, None)
        return account
