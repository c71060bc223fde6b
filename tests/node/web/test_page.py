"""The status page in a real browser: it draws every scene, complains of nothing, and runs no peer's words."""

from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest
from fake_node import HOSTILE

from scripts.headless import Browser, Tab, find_chromium
from scripts.page_scenes import (
    SCENES,
    Scene,
    a_peer,
    a_round,
    a_status,
    alone,
    an_event,
    crowd,
    hosts,
    peer_id,
    state_of,
    training,
)
from scripts.page_shots import Stage, opened, shoot
from shoal.node.status import CallPartStatus, CallsStatus, FaultStatus, HandoverStatus, HeardRunStatus

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_chromium(), reason="no Chromium is installed: apt-get install chromium"),
]
MAX_BYTES = 100_000
MAX_ELEMENTS = 2500
"""Of the page of a crowd, before somebody asks for all peers."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(find_chromium()) as started:
        yield started


def text(tab: Tab, selector: str) -> str:
    """Return the text of what is shown, with the styles' capitals as they are written."""
    return str(tab.value(f"document.querySelector('{selector}').textContent"))


def count(tab: Tab, selector: str) -> int:
    return int(tab.value(f"document.querySelectorAll('{selector}').length"))


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_is_drawn_without_a_complaint_and_its_picture_is_small(browser: Browser, name: str) -> None:
    picture, complaints = shoot(browser, name)
    assert complaints == []
    assert len(picture) < MAX_BYTES


def test_what_breaks_the_policy_of_the_page_would_be_seen(browser: Browser) -> None:
    scene = alone()
    with Stage(scene) as stage:
        tab = opened(browser, stage, scene)
        tab.value("document.body.setAttribute('style', 'color: red')")
        tab.value(
            "document.head.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))"
        )
        assert tab.value("window.ran ?? null") is None
        assert len(tab.complaints()) == 2
        tab.close()


def test_a_node_that_finds_company_needs_no_banner_any_more(browser: Browser) -> None:
    scene = alone()
    with Stage(scene) as stage:
        tab = opened(browser, stage, scene)
        assert text(tab, "#banner-title") == "This node is alone"
        assert "shoal start --join /ip4/192.0.2.7" in text(tab, "#banner-commands code")
        stage.scene = training()
        tab.wait_for("document.getElementById('banner').hidden")
        stage.tell(an_event(0, "problem", "the disk is full", "error"))
        tab.wait_for("document.querySelector('#events li').textContent.includes('the disk is full')")
        assert count(tab, "#under-way .way") == 6
        assert list(tab.complaints()) == []
        tab.close()


def test_the_button_copies_what_is_to_be_typed(browser: Browser) -> None:
    scene = alone()
    with Stage(scene) as stage:
        tab = opened(browser, stage, scene)
        tab.command("Emulation.setFocusEmulationEnabled", enabled=True)
        tab.value(
            "navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }"
        )
        tab.value("document.querySelector('#banner .copy').click()")
        tab.wait_for("document.querySelector('#banner .copy').textContent === 'Copied'")
        assert tab.value("window.copied") == scene.status.join_command
        tab.close()


def test_a_crowd_is_shown_by_its_first_and_all_of_it_when_asked(browser: Browser) -> None:
    scene = crowd()
    with Stage(scene) as stage:
        tab = opened(browser, stage, scene)
        assert count(tab, "*") < MAX_ELEMENTS
        assert count(tab, "#peers tbody tr") == 26
        assert count(tab, "#swarm circle") == 201
        assert (
            int(tab.value("fetch('/history.json').then((got) => got.json()).then((all) => all.round.length)"))
            <= 2000
        )
        tab.value("document.getElementById('all-peers').click()")
        assert count(tab, "#peers tbody tr") == 201
        tab.value("window.field = document.getElementById('peer-filter'); 0")
        tab.value(
            f"field.value = '{scene.status.peers[7].peer[-8:]}'; field.dispatchEvent(new Event('input'))"
        )
        assert count(tab, "#peers tbody tr") == 2
        assert count(tab, "#runs tbody tr") == 2
        assert "cifar" in text(tab, "#runs")
        assert "10000 of 20000" in text(tab, "#runs")
        tab.close()


def test_a_split_model_is_shown_with_its_hosts_its_calls_and_who_took_a_role(browser: Browser) -> None:
    scene = hosts()
    with Stage(scene) as stage:
        tab = opened(browser, stage, scene)
        assert count(tab, "#hosts tbody tr") == 4
        held = text(tab, "#hosts")
        assert peer_id(2)[-8:] in held
        assert "nobody" in held
        assert text(tab, "#calls-sum") == "21.4 calls a second, 1 not answered, 0 calls of peers wait"
        assert count(tab, "#calls tbody tr") == 4
        assert "31 ms" in text(tab, "#calls")
        went_on = text(tab, "#handovers li")
        assert f"this node went on with {peer_id(1)[-8:]} after 2.2 s" in went_on
        stage.scene = training()
        tab.wait_for("document.getElementById('hosts').closest('.card').hidden")
        assert list(tab.complaints()) == []
        tab.close()


def hostile() -> Scene:
    """Return a node whose peers say nothing but markup."""
    peer = a_peer(
        1, 3, state_of(3), address=HOSTILE, phase=HOSTILE, run_name=HOSTILE, run="ab12cd34ef56", link=HOSTILE
    )
    done = a_round(2, outcome="failed", reason=HOSTILE)
    done = msgspec.structs.replace(done, members=[HOSTILE])
    named = a_round(1, metrics={HOSTILE: 0.5})
    status = a_status(
        round=3, history=[named, done], peers=[peer], metrics={HOSTILE: 0.5}, problems=[HOSTILE]
    )
    status = msgspec.structs.replace(
        status,
        runs=[
            HeardRunStatus(name=HOSTILE, run_id=HOSTILE, peers=1, linked=1, round=1, ours=False, task=HOSTILE)
        ],
        refusals=[HOSTILE],
        drops={HOSTILE: 1},
        named_faults=[FaultStatus(HOSTILE, HOSTILE, 1, 1.0)],
        calls=CallsStatus(
            hosts={HOSTILE: [HOSTILE]},
            per_second=0.0,
            waiting=0,
            unanswered=0,
            parts=[CallPartStatus(HOSTILE, HOSTILE, 0.0)],
            handovers=[HandoverStatus(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 0.0, 0.0)],
        ),
        name=HOSTILE,
    )
    return Scene(status, [named, done], [an_event(0, HOSTILE, HOSTILE)])


def test_what_a_peer_chose_is_text_and_nothing_else(browser: Browser) -> None:
    scene = hostile()
    with Stage(scene) as stage:
        tab = opened(browser, stage, scene)
        assert count(tab, "script") == 2
        assert count(tab, "main img, main script, main iframe") == 0
        for place in (
            "#peers",
            "#problems",
            "#refusals",
            "#drops",
            "#faults",
            "#events",
            "#rounds",
            "#tiles",
            "#who",
            "#runs",
            "#hosts",
            "#calls",
            "#handovers",
        ):
            assert "<script>alert(1)</script>" in text(tab, place), place
        assert list(tab.complaints()) == []
        tab.close()


def test_the_state_of_a_peer_has_one_colour_in_table_and_picture(browser: Browser) -> None:
    scene = replace(training(), events=[an_event(0, "run", "begun")])
    with Stage(scene) as stage:
        tab = opened(browser, stage, scene)
        dots = set(
            tab.value("[...document.querySelectorAll('#swarm circle')].map((each) => each.style.fill)")
        )
        swatches = set(
            tab.value("[...document.querySelectorAll('#peers .swatch')].map((each) => each.style.background)")
        )
        assert len(swatches) == 2
        assert swatches <= dots
        assert tab.value("document.getElementById('times').querySelector('canvas') !== null")
        tab.close()
