"""Shards: which rows of a data set that all peers have a peer trains on, agreed on without a word.

Row i is in bucket i mod 64. With ``by="2/3"`` a peer has the second third of the buckets. With a swarm each
bucket goes to the trainer with the highest hash of bucket and peer (rendezvous hashing; Thaler, Ravishankar,
"Using name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking, 1998): when a peer
leaves, its buckets go to the others, and nobody else's move.
"""

from collections.abc import Collection, Iterator
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from shoal.methods.errors import BadOption

if TYPE_CHECKING:
    from shoal.node.optimizer.swarm import Swarm

BUCKETS: Final = 64


def shard(dataset: Any, *, by: "str | Swarm", seed: int = 0) -> Any:
    """Return the part of a data set of torch's or Hugging Face's that this peer trains on.

    `by`: ``"i/n"``, such as ``"2/3"``, or a `Swarm`: then the trainers that its node sees share the rows.
    Call it again at each epoch, since peers come and go. `seed`: the same on all peers.

    Raises:
        BadOption: `by` is neither.
    """
    if isinstance(by, str):
        mine = _of_share(by)
    else:
        status = by.status
        if status is None:
            raise BadOption("the swarm's node does not answer, so its peers are unknown: give by='i/n'")
        trainers = [peer.peer for peer in status.peers if peer.role == "trainer"]
        mine = buckets_of(status.peer_id, trainers, seed)
    return _rows(dataset, mine)


def buckets_of(me: str, peers: Collection[str], seed: int = 0) -> frozenset[int]:
    """Return the buckets that a peer wins among all; `peers` may name it or not."""
    everybody = {*peers, me}
    return frozenset(
        bucket
        for bucket in range(BUCKETS)
        if max(everybody, key=lambda peer: (_score(seed, bucket, peer), peer)) == me
    )


def _score(seed: int, bucket: int, peer: str) -> bytes:
    return blake2b(f"{seed} {bucket} {peer}".encode(), digest_size=16, person=b"shoal/shard").digest()


def _of_share(by: str) -> frozenset[int]:
    first, slash, last = by.partition("/")
    if not (slash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= BUCKETS):
        raise BadOption(f"by = {by!r}: give a share such as '1/3' with at most {BUCKETS} parts, or a Swarm")
    return frozenset(bucket for bucket in range(BUCKETS) if bucket * int(last) // BUCKETS == int(first) - 1)


def _rows(dataset: Any, mine: frozenset[int]) -> Any:
    """Return the rows of a data set that are in these buckets."""
    if not hasattr(dataset, "__len__"):
        if hasattr(dataset, "filter"):  # an IterableDataset of Hugging Face's
            return dataset.filter(lambda _, row: row % BUCKETS in mine, with_indices=True)
        return _stream(dataset, mine)
    rows = [row for row in range(len(dataset)) if row % BUCKETS in mine]
    if hasattr(dataset, "select"):  # a Dataset of Hugging Face's
        return dataset.select(rows)
    from torch.utils.data import Subset

    return Subset(dataset, rows)


def _stream(dataset: Any, mine: frozenset[int]) -> Any:
    """Return an IterableDataset of torch's with the rows that are in these buckets."""
    from torch.utils.data import IterableDataset

    class Rows(IterableDataset):  # type: ignore[misc]  # torch's classes are unknown to mypy
        """Rows of another one."""

        def __iter__(self) -> Iterator[Any]:
            """Yield them in order."""
            return (each for row, each in enumerate(dataset) if row % BUCKETS in mine)

    return Rows()
