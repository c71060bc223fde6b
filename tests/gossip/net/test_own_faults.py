"""A programming error in a handshake is said aloud, blamed on nobody else, and costs no link."""

from typing import Any

import pytest
import trio
from hosts import config, link

from shoal.crypto.keys import new_key
from shoal.gossip.events import DialFailed, PeerFound
from shoal.gossip.net import libp2p_host
from shoal.gossip.net.libp2p_host import open_host
from shoal.gossip.net.own_faults import own_fault
from shoal.gossip.net.transport.records import AES, Suite


class OldAead:
    """A cipher as a version below our bounds has it: it cannot write into a buffer that is given."""

    def __init__(self, key: bytes) -> None:
        pass


@pytest.fixture
def old_library(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite("aes", AES.noise_name, OldAead)  # type: ignore[arg-type]  # that it does not fit is the point
    monkeypatch.setattr(libp2p_host, "suites_by_speed", lambda: (suite,))


@pytest.mark.usefixtures("old_library")
def test_nodes_whose_own_records_fail_are_linked_by_standard_noise_and_say_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        with trio.fail_after(250):
            async with open_host(new_key(), config()) as one, open_host(new_key(), config()) as other:
                await link(one, other)
                connection = next(iter(one.network.swarm.get_connections()))
                assert "shoal" not in connection.get_negotiated_security_protocol()

    trio.run(main)
    loud = [each for each in caplog.records if each.levelname == "ERROR"]
    assert any(each.exc_info and "encrypt_into" in str(each.exc_info[1]) for each in loud)
    assert any("standard Noise" in each.message for each in loud)
    assert "not a shoal node" not in caplog.text


def test_a_fault_of_the_standard_too_is_called_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with trio.fail_after(250):
            async with (
                open_host(new_key(), config(fast_links=False)) as one,
                open_host(new_key(), config(fast_links=False)) as other,
            ):

                async def broken(*_: Any) -> None:
                    raise NameError("name 'Noise' is not defined")

                upgrader = one.network.swarm.upgrader
                monkeypatch.setattr(upgrader.security_multistream, "secure_outbound", broken)
                one.dial_nowait(other.addresses()[0])
                while not isinstance(event := await one.next_event(), DialFailed | PeerFound):
                    pass
                assert event == DialFailed(other.addresses()[0], "own fault")

    trio.run(main)


def test_what_a_peer_sends_is_no_fault_of_ours() -> None:
    def cause(error: Exception, inner: Exception) -> Exception:
        error.__cause__ = inner
        return error

    assert own_fault(ValueError("garbage")) is None
    assert own_fault(cause(ValueError("garbage"), EOFError())) is None
    found = TypeError("takes 2 arguments")
    assert own_fault(cause(ValueError("it failed"), found)) is found
    assert own_fault(ExceptionGroup("several", [OSError(), found])) is found
