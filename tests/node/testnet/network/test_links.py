"""The means by which nodes are linked are chosen with a reason, and only shaped networks can be changed."""

from pathlib import Path

import pytest

from shoal.node.testnet.faults import Fault, Link
from shoal.node.testnet.network import namespaces
from shoal.node.testnet.network.links import (
    PORTS,
    Uncut,
    Wires,
    Wish,
    changed,
    changing,
    choose,
    closing,
    joining,
    load_wires,
    network_flags,
    opening,
    save_wires,
    wrapped,
)
from shoal.node.testnet.plan import BadPlan, Plan

BAD_LINE = Plan(nodes=3, link=Link(latency=0.08))
SPLIT = Plan(nodes=3, faults=(Fault(kind="split", at=1, nodes=(1,)),))


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "missing", lambda: "that takes root")


@pytest.fixture
def with_(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "missing", lambda: "")


@pytest.mark.usefixtures("without")
def test_without_namespaces_a_shaped_network_is_a_proxy_and_says_why(tmp_path: Path) -> None:
    wires = choose(BAD_LINE, tmp_path, "auto", changeable=False)
    assert (wires.means, wires.why) == ("proxy", "no network namespaces: that takes root")
    assert wires.link == BAD_LINE.link
    ports = {*wires.listen, *wires.announce}
    assert len(ports) == 6
    assert all(port in PORTS for port in ports)
    flags = network_flags(wires, 2)
    assert flags == [
        *("--listen", f"/ip4/127.0.0.1/tcp/{wires.listen[1]}"),
        *("--announce", f"/ip4/127.0.0.1/tcp/{wires.announce[1]}"),
    ]
    assert wrapped(wires, 2, ["x"]) == ["x"]
    assert opening(wires) == joining(wires, 1) == closing(wires, 3) == []


@pytest.mark.usefixtures("with_")
def test_where_the_kernel_can_it_shapes_the_links_itself(tmp_path: Path) -> None:
    wires = choose(BAD_LINE, tmp_path, "auto", changeable=False)
    assert wires.means == "namespaces"
    assert wires.tag != choose(BAD_LINE, tmp_path / "other", "auto", changeable=False).tag
    assert network_flags(wires, 2) == ["--listen", "/ip4/10.213.0.2/tcp/4710"]
    assert wrapped(wires, 2, ["x"]) == ["ip", "netns", "exec", f"shoal-{wires.tag}-2", "x"]
    assert len(closing(wires, 3)) == 4
    assert opening(wires)
    assert joining(wires, 1)[-1][0] == "tc"


@pytest.mark.usefixtures("with_")
@pytest.mark.parametrize(
    ("plan", "wish", "changeable", "means"),
    [
        (Plan(), "auto", False, "bare"),
        (Plan(churn=1.0), "auto", False, "bare"),
        (Plan(), "auto", True, "namespaces"),
        (SPLIT, "auto", False, "namespaces"),
        (SPLIT, "proxy", False, "proxy"),
        (Plan(), "bare", True, "bare"),
    ],
)
def test_links_are_shaped_only_where_somebody_wants_them_so(
    tmp_path: Path, plan: Plan, wish: Wish, changeable: bool, means: str
) -> None:
    assert choose(plan, tmp_path, wish, changeable=changeable).means == means


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize(
    ("plan", "wish", "reason"),
    [(BAD_LINE, "bare", "leave out --network bare"), (Plan(), "namespaces", "that takes root")],
)
def test_means_that_cannot_be_had_are_refused(tmp_path: Path, plan: Plan, wish: Wish, reason: str) -> None:
    with pytest.raises(BadPlan, match=reason):
        choose(plan, tmp_path, wish, changeable=False)


def test_two_sides_do_not_reach_each_other_and_each_is_whole() -> None:
    wires = Wires(means="proxy", side=(1, 2))
    assert wires.reaches(1, 2)
    assert wires.reaches(3, 4)
    assert not wires.reaches(1, 3)
    assert Wires(means="proxy").reaches(1, 3)


def test_changes_are_kept_and_a_bare_network_has_none(tmp_path: Path) -> None:
    save_wires(tmp_path, Wires(means="proxy"))
    changed(tmp_path, 3, side=(1,))
    changed(tmp_path, 3, slow={2: Link(latency=0.5)})
    wires = load_wires(tmp_path)
    assert (wires.side, wires.link_of(2).latency, wires.link_of(1)) == ((1,), 0.5, Link())
    save_wires(tmp_path, Wires(means="bare"))
    with pytest.raises(Uncut, match="--network proxy"):
        changed(tmp_path, 3, side=(1,))
    (tmp_path / "wires.json").unlink()
    with pytest.raises(Uncut, match="not known"):
        changed(tmp_path, 3, side=(1,))


def test_in_namespaces_only_what_changes_is_touched() -> None:
    old = Wires(means="namespaces", tag="ab", side=(1,))
    new = Wires(means="namespaces", tag="ab", side=(2,), slow={3: Link(latency=0.1)})
    commands = changing(old, new, 3)
    assert [command[-1] for command in commands] == ["bridge", "apart", "0%"]
    assert changing(new, new, 3) == []
