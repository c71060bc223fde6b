"""The systems beside a testnet's nodes: grouped by name, counted, shown."""

import pytest
from rich.console import Console

from shoal.node.testnet.comparison import Beside, as_nodes, beside_table, besides, lines_expected, spread
from shoal.node.testnet.plan import Plan, SystemReached


def test_seeds_of_a_system_come_together() -> None:
    told = [
        SystemReached("b", 0, 0.5, 10.0),
        SystemReached("a", 0, 0.7, 0.0),
        SystemReached("b", 1, 0.6, 30.0),
    ]
    assert besides(told) == (
        Beside(system="b", accuracies=(0.5, 0.6), sent_bytes=20.0),
        Beside(system="a", accuracies=(0.7,), sent_bytes=0.0),
    )


def test_of_one_seed_there_is_no_spread() -> None:
    assert spread([0.5]) == "0.500"
    assert spread([0.5, 0.7]) == "0.600 ± 0.141"


@pytest.mark.parametrize(("method", "lines"), [("fedavg", 5), ("matu", 5 + 3 * 5), ("nonesuch", 5)])
def test_the_lines_to_come_are_known_before(method: str, lines: int) -> None:
    assert lines_expected(Plan(nodes=5, method=method)) == lines


def test_the_table_has_the_nodes_first_and_says_what_its_bytes_are() -> None:
    nodes = as_nodes(Plan(nodes=4, method="fedln"), 0.91, 8_000_000, 20)
    systems = [nodes, Beside(system="FedAvg", accuracies=(0.8, 0.9), sent_bytes=53_820.0)]
    console = Console(width=100)
    with console.capture() as capture:
        console.print(beside_table(systems, range(3, 5)))
    lines = capture.get().splitlines()
    assert lines[0] == "Beside the nodes, in lockstep over seeds 3 to 4, mean ± standard deviation"
    rows = [line.split() for line in lines]
    assert ["fedln,", "these", "4", "nodes", "0.910", "100", "kB"] in rows
    assert ["FedAvg", "0.850", "±", "0.071", "53.8", "kB"] in rows
    assert "sockets" in capture.get()
