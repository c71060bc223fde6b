"""Which rows of a data set a peer trains on: all of them once, and few move when a peer leaves."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset, TensorDataset

import shoal
from shoal.methods.errors import BadOption
from shoal.node.integrations.shards import BUCKETS, buckets_of


@pytest.mark.parametrize("seed", range(5))
def test_peers_have_every_bucket_once_and_those_of_one_that_leaves_go_to_the_others(seed: int) -> None:
    peers = ["ann", "bob", "cy"]
    before = {peer: buckets_of(peer, peers, seed) for peer in peers}
    assert sorted(bucket for each in before.values() for bucket in each) == list(range(BUCKETS))
    assert min(len(each) for each in before.values()) > 8
    after = {peer: buckets_of(peer, ["bob", "cy"], seed) for peer in ("bob", "cy")}
    assert after["bob"] | after["cy"] == set(range(BUCKETS))
    assert not after["bob"] & after["cy"]
    assert all(before[peer] <= after[peer] for peer in after)


@pytest.mark.parametrize("n", [1, 2, 3, 64])
def test_shares_by_number_cover_all_rows_once(n: int) -> None:
    data = TensorDataset(torch.arange(200))
    parts = [shoal.shard(data, by=f"{i}/{n}") for i in range(1, n + 1)]
    assert sorted(int(row) for part in parts for (row,) in part) == list(range(200))


def test_streams_and_data_sets_of_hugging_face_are_shared_alike() -> None:
    class Numbers(IterableDataset):  # type: ignore[misc]  # torch's classes are unknown to mypy
        def __iter__(self) -> Any:
            return iter(range(200))

    expected = [row for row in range(200) if row % BUCKETS < BUCKETS // 2]
    assert list(shoal.shard(Numbers(), by="1/2")) == expected
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"row": list(range(200))})
    assert shoal.shard(data, by="1/2")["row"][:] == expected
    assert [each["row"] for each in shoal.shard(data.to_iterable_dataset(), by="1/2")] == expected


@dataclass
class Peer:
    peer: str
    role: str


@dataclass
class Node:
    peer_id: str
    peers: list[Peer]


@dataclass
class Swarm:
    status: Node | None


def test_a_swarms_trainers_share_the_rows_and_helpers_have_none() -> None:
    data = TensorDataset(torch.arange(200))
    known = [Peer("ann", "trainer"), Peer("bob", "trainer"), Peer("help", "helper")]
    nodes = [Node("ann", known[1:]), Node("bob", [known[0], known[2]])]
    parts = [shoal.shard(data, by=Swarm(node)) for node in nodes]  # type: ignore[arg-type]  # all that is read of one
    assert sorted(int(row) for part in parts for (row,) in part) == list(range(200))
    with pytest.raises(BadOption, match="does not answer"):
        shoal.shard(data, by=Swarm(None))  # type: ignore[arg-type]  # all that is read of one


@pytest.mark.parametrize("by", ["", "1", "0/3", "4/3", "1/65", "a/b"])
def test_what_is_no_share_is_refused(by: str) -> None:
    with pytest.raises(BadOption, match="give a share such as '1/3'"):
        shoal.shard(TensorDataset(torch.arange(3)), by=by)
