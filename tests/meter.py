"""Meter: bytes of the sockets over rounds in which all nodes took part and nobody fetched a state.

All that the sockets sent counts, whatever for: presence, matchmaking, commitments, links' own framing.
"""

from collections.abc import Collection, Sequence

from swarm import Node, averaged

from shoal.node.status import Status


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
        clean = {round_ for round_ in set.intersection(*whole) if round_ >= first}
        # Rounds may go by between two looks; it is counted from one that was seen to another.
        seen = [round_ for round_ in sorted(clean) if len(self._seen.get(round_, {})) == everyone]
        start, last = longest_span(seen, clean)
        print(f"undisturbed: {last - start} rounds from {start}")
        assert last - start >= 3, f"too few undisturbed rounds to count: {sorted(clean)}, seen {seen}"
        begin, end = self._seen[start], self._seen[last]
        sent = sum(end[name] - begin[name] for name in begin)
        return sent / (everyone * (everyone - 1) * (last - start))


def longest_span(seen: Sequence[int], clean: Collection[int]) -> tuple[int, int]:
    """Return the first and the last of what was seen between which, both included, all is clean."""
    spans = [
        (start, last)
        for start in seen
        for last in seen
        if start <= last and all(round_ in clean for round_ in range(start, last + 1))
    ]
    return max(spans, key=lambda span: span[1] - span[0], default=(0, 0))
