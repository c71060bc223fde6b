"""The daemon's side of the hivemind engine, with a process that only speaks its line."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from shoal.crypto.keys import PeerId
from shoal.gossip.member.commands import Averaged, Event, Failed, SetEngine
from shoal.methods.registry import load_method
from shoal.node import children
from shoal.node.config import engine_preflight, preflight
from shoal.node.config.engine_preflight import check_engine
from shoal.node.config.settings import load
from shoal.node.errors import BadConfig
from shoal.node.hivemind_engine import engine
from shoal.node.hivemind_engine.engine import Ask, Engine, NoEngine

ME = PeerId("me")
FAKE = Path(__file__).parents[2] / "fake_engine.py"


class Table:
    """An engine whose every word is kept."""

    def __init__(self, manner: str, others: tuple[str, ...] = ()) -> None:
        self.answers_in, self.answers = trio.open_memory_channel[Averaged | Failed](math.inf)
        self.commands: list[Any] = []
        self.problems: list[str] = []
        self.engine = Engine(
            ME,
            ("/ip4/127.0.0.1/tcp/0",),
            1.0,
            self,
            argv=(sys.executable, str(FAKE), manner),
        )
        self.looks, self._others = 0, others
        self.engine.attached("shoal-1", 8, "float32")

    def command(self, event: Event) -> None:
        self.commands.append(event)

    def others(self) -> tuple[str, ...]:
        self.looks += 1
        return self._others

    def answer(self, result: Averaged | Failed) -> None:
        self.answers_in.send_nowait(result)

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def ask(self, vector: np.ndarray, quorum: int = 1) -> None:
        self.engine.average(Ask(3, 0, vector, 64.0, expected=2, seconds=5.0, quorum=quorum))

    def run(self, test: Callable[[], Any]) -> None:
        async def main() -> None:
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.engine.run)
                    await test()
                    nursery.cancel_scope.cancel()

        trio.run(main)


def test_the_mean_stands_in_the_vector_and_names_the_group() -> None:
    table, vector = Table("double", others=("other",)), np.ones(4, np.float32)

    async def test() -> None:
        # Before it looks for others a second time, the process has been told of those of the first.
        while table.looks < 2:
            await trio.sleep(0.01)
        table.ask(vector)
        answer = await table.answers.receive()
        assert isinstance(answer, Averaged)
        assert (answer.round, answer.index) == (3, 0)
        assert answer.exchanged.contributors == ("me", "other", "script")
        assert (answer.matchmaking_seconds, answer.exchange_seconds) == (0.25, 0.5)
        assert table.engine.strangers == 1
        assert vector.tolist() == [2.0] * 4

    table.run(test)
    assert table.commands[0] == SetEngine(("/ip4/127.0.0.1/tcp/1/p2p/Qm",))
    assert table.commands[-1] == SetEngine(())


def test_who_is_alone_goes_on_alone_unless_the_quorum_is_higher() -> None:
    table, vector = Table("alone"), np.ones(4, np.float32)

    async def test() -> None:
        table.ask(vector)
        table.ask(vector, quorum=2)
        first, second = await table.answers.receive(), await table.answers.receive()
        assert isinstance(first, Averaged)
        assert first.exchanged.contributors == ("me",)
        assert second == Failed("TooFew", "1 of at least 2 peers were there")
        assert vector.tolist() == [1.0] * 4

    table.run(test)


def test_a_mean_that_was_not_made_fails_the_ask_and_says_why() -> None:
    table = Table("fail")

    async def test() -> None:
        table.ask(np.ones(4, np.float32))
        assert await table.answers.receive() == Failed("GossipError", "a peer's numbers were not finite")

    table.run(test)


def test_a_process_that_dies_fails_its_ask_and_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "FIRST_PAUSE", 0.01)
    table = Table("die")

    async def test() -> None:
        for _ in range(2):
            table.ask(np.ones(4, np.float32))
            assert await table.answers.receive() == Failed("GossipError", "the hivemind engine ended")

    table.run(test)
    assert table.engine.restarts >= 1
    assert "the hivemind engine was killed by signal 9 (SIGKILL)" in table.problems[1]


@pytest.mark.slow
def test_a_silent_process_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LEAST_SILENCE", 1.0)
    monkeypatch.setattr(engine, "GRACE", 0.1)
    monkeypatch.setattr(children, "FIRST_PAUSE", 0.01)
    table = Table("mute")

    async def test() -> None:
        table.ask(np.ones(4, np.float32))
        assert isinstance(await table.answers.receive(), Failed)
        while not table.engine.restarts:
            await trio.sleep(0.01)

    table.run(test)
    assert "said nothing for 1 s" in table.problems[1]


def test_a_process_that_cannot_start_ends_the_node_with_one_line() -> None:
    table = Table("broken")
    with pytest.raises(NoEngine) as caught:
        trio.run(table.engine.run)
    assert str(caught.value).startswith("cannot import hivemind")
    assert "leave out --engine hivemind" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_an_earlier_trainer_asked_is_not_answered_to_the_next() -> None:
    table = Table("alone")
    table.ask(np.ones(4, np.float32))
    table.engine.attached("shoal-1", 8, "float32")

    async def test() -> None:
        table.ask(np.ones(4, np.float32), quorum=2)
        assert isinstance(await table.answers.receive(), Failed)

    table.run(test)


# --- what is refused before a node starts ----------------------------------------------------------


def test_without_hivemind_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_preflight, "is_installed", lambda: False)
    check_engine("native", load_method("diloco", {}), "diloco", "topk")
    with pytest.raises(BadConfig, match=r"not installed: pip install -e '\.\[hivemind\]', or leave out"):
        check_engine("hivemind", load_method("fedavg", {}), "fedavg", "float32")


@pytest.mark.parametrize("name", ["fedstar", "fedln", "matu"])
def test_a_method_that_needs_other_exchanges_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_preflight, "is_installed", lambda: True)
    with pytest.raises(BadConfig, match="take --method fedavg, fedprox or diloco"):
        check_engine("hivemind", load_method(name, {}), name, "float32")


def test_a_codec_that_hivemind_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_preflight, "is_installed", lambda: True)
    for method in ("fedavg", "fedprox", "diloco"):
        check_engine("hivemind", load_method(method, {}), method, "int8")
    with pytest.raises(BadConfig, match="choose --codec float32, float16, int8"):
        check_engine("hivemind", load_method("fedavg", {}), "fedavg", "bfloat16")


def test_a_node_that_nobody_can_dial_cannot_use_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine_preflight, "is_installed", lambda: True)
    flags = {"run.task": "digits", "run.engine": "hivemind", "network.hidden": True, "http.port": 0}
    config, _ = load(tmp_path, flags, {})
    with pytest.raises(BadConfig, match="leave out --hidden or --engine hivemind"):
        preflight.check(config)
