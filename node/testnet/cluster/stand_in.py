"""Stand-in: a process of the launcher's machine that stands for a node on a machine of a Ray cluster.

    python -P -m shoal.node.testnet.cluster.stand_in ADDRESS INDEX HOME COMMAND...

Launcher, guard and commands see a node: a process that ends as the node ends, writes its log, and answers in
its home. Inside, all of it is one actor (`Host`), on the machine whose turn it is:

    launcher            stand-in                                   actor on another machine
    SIGTERM     ->      signal                             ->      the node
    GET /status ->      the home's control socket          ->      the node's
    log         <-      standard output                    <-      its log
    home        <-      written here when it has ended     <-      its home

If this process is killed, Ray ends the actor, and the actor's guard the node.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from shoal.node.errors import UserError
from shoal.node.storage.home import Home
from shoal.node.testnet.cluster.host import Host, pack, read_request, unpack
from shoal.node.testnet.cluster.placing import machine_for

LOOK_EVERY: Final = 0.3
"""Seconds between two looks at log and process."""


class StandIn:
    """Looks after one actor until its node has ended."""

    def __init__(self, actor: Any, home: Path) -> None:
        """`actor`: of `Host`. `home`: of the node, on this machine."""
        self._actor, self._home = actor, Home(home)
        self._news = threading.Event()
        self._signals: list[int] = []

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """Remember a signal that is to reach the node."""
        self._signals.append(number)
        self._news.set()

    def run(self, command: Sequence[str], ip: str) -> int:
        """Start the node and look after it; returns how it ended."""
        call = self._actor.start.remote(command, str(self._home.path), str(Path.cwd()), ip, {})
        ray.get(call)
        listener = self._listen()
        threading.Thread(target=self._answer, args=(listener,), daemon=True).start()
        try:
            return self._look_after()
        finally:
            self._home.remove_sockets()
            listener.close()

    def _look_after(self) -> int:
        offset = 0
        while True:
            while self._signals:
                ray.get(self._actor.signal.remote(self._signals.pop(0)))
            text, exit_code = ray.get(self._actor.look.remote(offset))
            offset += len(text)
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()
            if exit_code is not None:
                unpack(ray.get(self._actor.home.remote()), self._home.path)
                ray.get(self._actor.close.remote())
                return int(exit_code)
            if not text:
                self._news.wait(LOOK_EVERY)
                self._news.clear()

    def _listen(self) -> socket.socket:
        self._home.run_dir.mkdir(parents=True, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._home.new_socket("control", os.environ)))
        listener.listen()
        return listener

    def _answer(self, listener: socket.socket) -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:  # closed: the node has ended
                return
            with line:
                try:
                    line.settimeout(LOOK_EVERY + 10)
                    line.sendall(ray.get(self._actor.ask.remote(read_request(line))))
                except (OSError, ray.exceptions.RayError):
                    continue


def main(arguments: Sequence[str]) -> int:
    """Run a node on the cluster to its end; returns its exit code."""
    address, index, home, *command = arguments
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        print(f"error: no Ray cluster at {address}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        return 1
    try:
        machine = machine_for(int(index), ray.nodes())
        # Nodes of a study may well be more than processors: they wait for each other most of the time.
        where = NodeAffinitySchedulingStrategy(node_id=machine["NodeID"], soft=False)
        made = ray.remote(Host).options(num_cpus=0, scheduling_strategy=where)
        stand_in = StandIn(made.remote(pack(Path(home))), Path(home))
        signal.signal(signal.SIGTERM, stand_in.note)
        signal.signal(signal.SIGINT, stand_in.note)
        exit_code = stand_in.run(command, machine["NodeManagerAddress"])
    except (UserError, ray.exceptions.RayError) as error:
        print(f"error: {' '.join(str(error).split())[:500]}", file=sys.stderr)
        return 1
    finally:
        ray.shutdown()
    return exit_code if exit_code >= 0 else 128 - exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
