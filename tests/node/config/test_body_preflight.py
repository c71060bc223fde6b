"""Methods that gather say how far one body can move the result, or run among chosen members alone."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from shoal.gossip.admission.charter import Charter, Mode
from shoal.gossip.run_spec import RunSettings
from shoal.methods import registry
from shoal.methods.base import About
from shoal.methods.matu.method import MaTU
from shoal.methods.registry import load_method
from shoal.node.config.preflight import check_run
from shoal.node.errors import BadConfig


@dataclass(frozen=True, slots=True)
class Undeclared(MaTU):
    """A method of another package, from before there were declarations."""

    about: ClassVar[About] = About(paper="", exchanges="", use="")


def run(mode: Mode) -> RunSettings:
    charter = str(Charter(mode=mode, founders=(bytes(32),))) if mode != "open" else ""
    return RunSettings(method="theirs", charter=charter)


@pytest.mark.parametrize("mode", ["open", "invite"])
def test_a_gathering_method_that_declares_no_bound_is_refused_where_not_all_members_are_chosen(
    mode: Mode,
) -> None:
    with pytest.raises(BadConfig, match=f"in a run of mode {mode} .*body_bound .*shoal found --mode closed"):
        check_run(run(mode), Undeclared())
    with pytest.raises(BadConfig, match="body_bound"):
        check_run(run("open"), Undeclared(), mode)


def test_it_is_let_into_a_closed_run() -> None:
    check_run(run("closed"), Undeclared())
    check_run(run("open"), Undeclared(), "closed")  # a testnet has its charter later


@pytest.mark.parametrize("name", registry.METHODS)
def test_methods_that_come_with_shoal_run_in_every_mode(name: str) -> None:
    for mode in ("open", "invite", "closed"):
        check_run(run(mode), load_method(name, {}))
