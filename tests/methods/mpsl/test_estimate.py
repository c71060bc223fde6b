"""The estimate: bytes as counted in lockstep, and where split learning stops paying."""

import logging
from dataclasses import replace

import pytest
from few_pairs import Few

from shoal.methods.mpsl.estimate import Sizes, deltamask_cost, estimate, fedavg_cost, split_cost
from shoal.methods.mpsl.in_lockstep import SplitRun
from shoal.methods.mpsl.method import MPSL, MPSLConfig

VIT_B = Sizes(600_000, 42_500_000, 7_690, (198, 768), (10,), 100)
"""The paper's: six trained blocks."""


def test_the_papers_sizes_break_even_at_about_280_examples() -> None:
    # mpsl.md: 198 tokens of 768 numbers in float32, up and down, beside 42.5 M weights each way.
    frozen = replace(VIT_B, front=0, head=0, back=(0,))
    few, many = replace(frozen, examples=275), replace(frozen, examples=285)
    assert split_cost(few, "float32", head="host").bytes < fedavg_cost(few).bytes
    assert split_cost(many, "float32", head="host").bytes > fedavg_cost(many).bytes


def test_float16_and_int8_cost_a_half_and_a_quarter() -> None:
    only_z = replace(VIT_B, front=0, head=0, back=(0,))
    whole = split_cost(only_z, "float32", head="client").bytes
    assert split_cost(only_z, "float16", head="client").bytes == whole / 2
    assert split_cost(only_z, "int8", head="client").bytes == pytest.approx(whole / 4, rel=0.01)


def test_a_client_computes_its_share_only() -> None:
    share = split_cost(VIT_B, "float16", head="client").multiplications / fedavg_cost(VIT_B).multiplications
    assert 0.01 < share < 0.02
    assert deltamask_cost(VIT_B).bytes < fedavg_cost(VIT_B).bytes / 100


def test_it_is_said_in_a_line() -> None:
    assert estimate(VIT_B, "float16", head="client") == (
        "a pass over 100 examples costs this client about: split 65.7 MB and 35.6 G multiplications,"
        " FedAvg 344.9 MB and 2.6 T multiplications, DeltaMask 1.1 MB and 2.6 T multiplications"
    )


def test_a_client_says_once_what_a_pass_costs_and_that_a_host_with_the_head_can_read_labels(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = SplitRun(MPSL(MPSLConfig(head="host", steps=2)), [Few(f"{i + 1}/2") for i in range(2)])
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            run.round()
    said = [record.getMessage() for record in caplog.records]
    assert sum("a pass over 24 examples costs this client about: split" in each for each in said) == 2
    warned = [record.levelname for record in caplog.records if "read your labels" in record.getMessage()]
    assert warned == ["WARNING"] * 2
    assert sum("the hosts can read the labels of all clients" in each for each in said) == 2
