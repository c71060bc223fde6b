"""Progress: what is under way in a node's member, as its status says it."""

from typing import Final

from shoal.gossip.averaging.attendance import Attendance
from shoal.gossip.averaging.exchange import GroupExchange
from shoal.gossip.state.fetch import Fetching
from shoal.node.status import AttendeeStatus, DonorStatus, ExchangeStatus, FetchStatus

MAX_MEMBERS: Final = 64
"""Of an exchange that are told."""
MAX_DONORS: Final = 16
"""Of a fetch that are told."""


def exchange_status(exchange: GroupExchange | None) -> ExchangeStatus | None:
    """Return how far an exchange is, if it is under way."""
    if not isinstance(exchange, Attendance) or exchange.is_over:
        return None
    return ExchangeStatus(
        [
            AttendeeStatus(each.peer, each.is_lost, each.is_done, each.bytes_received, each.bytes_taken)
            for each in exchange.attendees[:MAX_MEMBERS]
        ],
        exchange.share_done,
    )


def fetch_status(fetching: Fetching | None) -> FetchStatus | None:
    """Return how far the fetch of another's state is, if it is under way."""
    if fetching is None or fetching.is_over:
        return None
    paces = fetching.paces()
    donors = [
        DonorStatus(peer, count, paces.get(peer, 0.0))
        for peer, count in sorted(fetching.served.items(), key=lambda item: -item[1])[:MAX_DONORS]
    ]
    return FetchStatus(fetching.round, 1.0 - fetching.share_missing, fetching.n_bytes, donors)
