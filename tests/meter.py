"""Meter: bytes of the sockets over rounds in which all nodes took part and nobody fetched a state.

All that the sockets sent counts, whatever for: presence, matchmaking, commitments, links' own framing.
"""

from collections.abc import Sequence

from swarm import Node, averaged

from node.status import Status


class Meter:
    """What the nodes had sent when they were first seen at each round."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        """`nodes`: all of a swarm."""
        self._nodes = nodes
        self._seen: dict[int, dict[str, int]] = {}

    def look(self) -> list[Status]:
        """Note what has been sent; returns what the nodes say, if all of them answer."""
        found = [(node, status) for node in self._nodes if (status := node.ask()) is not None]
        for node, status in found:
            self._seen.setdefault(status.round, {}).setdefault(node.name, status.bytes_sent)
        return [status for _, status in found] if len(found) == len(self._nodes) else []

    def bytes_per_update(self, statuses: Sequence[Status], first: int) -> float:
        """Return what a node sent to each other in a round, over the longest run of undisturbed rounds."""
        everyone = len(statuses)
        whole = [
            {round_ for round_, each in averaged(status).items() if each.contributors == everyone}
            for status in statuses
        ]
        clean = sorted(round_ for round_ in set.intersection(*whole) if round_ >= first)
        start, length = longest_run(clean)
        print(f"undisturbed: {length} rounds from {start}")
        assert length >= 4, f"too few undisturbed rounds to count: {clean}"
        begin, end = (self._seen.get(round_, {}) for round_ in (start, start + length - 1))
        assert len(begin) == len(end) == everyone, "a round went by unseen"
        sent = sum(end[name] - begin[name] for name in begin)
        return sent / (everyone * (everyone - 1) * (length - 1))


def longest_run(numbers: Sequence[int]) -> tuple[int, int]:
    """Return where the longest run of consecutive numbers starts, and how long it is."""
    best = (0, 0)
    for start in numbers:
        length = 0
        while start + length in numbers:
            length += 1
        best = max(best, (start, length), key=lambda run: run[1])
    return best
