"""What is under way, as the status says it."""

import numpy as np

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.all_reduce import AllReduce
from shoal.gossip.averaging.announcing import ExchangeConfig
from shoal.gossip.group import Group
from shoal.gossip.state.fetch import Fetching
from shoal.node.web.progress import exchange_status, fetch_status


def exchange(n_members: int) -> AllReduce:
    names = tuple(PeerId(f"p{number}") for number in range(n_members))
    vector = np.zeros(256, dtype=np.float32)
    group = Group(b"g" * 16, 0, names, (1,) * n_members)
    return AllReduce(names[0], group, 0, vector, 1.0, ExchangeConfig())


def test_an_exchange_is_told_while_it_goes_on() -> None:
    core = exchange(3)
    core.begin(0.0)
    found = exchange_status(core)
    assert found is not None
    assert [each.peer for each in found.members] == ["p0", "p1", "p2"]
    assert found.share_done == 0.0
    core.lost(PeerId("p1"), 1.0)
    core.lost(PeerId("p2"), 1.0)
    assert core.is_over
    assert exchange_status(core) is None
    assert exchange_status(None) is None


def test_a_fetch_is_told_while_it_goes_on() -> None:
    fetching = Fetching(b"s" * 32, 7, 4096, (PeerId("a"), PeerId("b")), 2.0)
    fetching.begin(0.0)
    found = fetch_status(fetching)
    assert found is not None
    assert (found.round, found.share_done, found.bytes_total) == (7, 0.0, 4096)
    fetching.served[PeerId("b")] = 3
    fetching.served[PeerId("a")] = 1
    again = fetch_status(fetching)
    assert again is not None
    assert [(each.peer, each.chunks) for each in again.donors] == [("b", 3), ("a", 1)]
    fetching.failure = "nobody has it"
    assert fetch_status(fetching) is None
    assert fetch_status(None) is None
