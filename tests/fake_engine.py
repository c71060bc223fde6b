"""A hivemind process without hivemind: what it does with an order is said by its first argument.

double    it and another node made the mean: twice the vector
alone     nobody was there
fail      there was somebody, and yet no mean
die       it dies of the first order, and every time it is started again
mute      it says nothing after it is up
broken    it does not even start
"""

import os
import signal
import socket
import struct
import sys
import threading
import time

import msgspec

from shoal.node.framing import Message, frame
from shoal.node.hivemind_engine.ipc import (
    Average,
    Beat,
    Broken,
    EngineSpec,
    Mean,
    Meet,
    Unmade,
    Unmet,
    Up,
    map_memory,
    to_engine,
)


def main() -> None:
    """Serve a daemon."""
    manner, given = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    line = socket.socket(fileno=int(given["--line"]))
    spec = msgspec.json.decode(given["--spec"], type=EngineSpec)
    memory = map_memory(int(given["--memory"]), spec.numel)
    if manner == "broken":
        line.sendall(frame(Broken(text="cannot import hivemind (No module named 'x')")))
        return
    line.sendall(frame(Up(addresses=("/ip4/127.0.0.1/tcp/1/p2p/Qm",))))
    if manner != "mute":
        threading.Thread(target=beat, args=(line,), daemon=True).start()
    met: tuple[str, ...] = ()
    while prefix := line.recv(4, socket.MSG_WAITALL):
        order = to_engine.decode(line.recv(struct.unpack("!I", prefix)[0], socket.MSG_WAITALL))
        if isinstance(order, Meet):
            met += order.addresses
            continue
        assert isinstance(order, Average)
        answer: Message
        match manner:
            case "double":
                memory[: order.numel] *= 2
                answer = Mean(
                    number=order.number,
                    members=(spec.me, *met, "script"),
                    strangers=1,
                    matchmaking_seconds=0.25,
                    exchange_seconds=0.5,
                )
            case "alone":
                answer = Unmet(number=order.number)
            case "fail":
                answer = Unmade(number=order.number, text="a peer's numbers were not finite")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case _:
                continue
        line.sendall(frame(answer))


def beat(line: socket.socket) -> None:
    """Say every now and then that all is well."""
    while True:
        time.sleep(0.2)
        line.sendall(frame(Beat()))


if __name__ == "__main__":
    main()
