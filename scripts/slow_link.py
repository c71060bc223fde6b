"""A slower way to a local port: delays and limits what passes, in user space.

    python scripts/slow_link.py 4710 --rtt-ms 40 --mbit 100      # prints its own port, runs until killed

Each connection is limited by itself, in each direction, with a queue of 50 ms in front of the limit,
as a home router has. TCP works on both sides of it as ever, so loss is not shown by this.
"""

import argparse
from dataclasses import dataclass

import trio

QUEUE_SECONDS = 0.05
PIECE = 16 * 1024


@dataclass(frozen=True, slots=True)
class Weather:
    """What a direction of a connection suffers."""

    delay: float
    """Seconds one way."""
    rate: float
    """Bytes per second; infinity for no limit."""


async def pump(source: trio.SocketStream, target: trio.SocketStream, weather: Weather) -> None:
    """Carry one direction until it ends."""
    put, take = trio.open_memory_channel[tuple[float, bytes]](1 << 16)

    async def deliver() -> None:
        async for due, data in take:
            await trio.sleep_until(due)
            await target.send_all(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver)
        free = trio.current_time()
        async with put:
            while data := await source.receive_some(PIECE):
                now = trio.current_time()
                free = max(free, now) + len(data) / weather.rate
                await put.send((free + weather.delay, data))
                await trio.sleep(max(0.0, free - now - QUEUE_SECONDS))
    await target.send_eof()


async def serve(port: int, weather: Weather) -> None:
    """Listen, and connect whoever comes with the port."""

    async def carry(stream: trio.SocketStream) -> None:
        try:
            target = await trio.open_tcp_stream("127.0.0.1", port)
            async with target, trio.open_nursery() as nursery:
                nursery.start_soon(pump, stream, target, weather)
                nursery.start_soon(pump, target, stream, weather)
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # an end that is closed hard ends the connection, as a wire does

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(carry, listeners)


def main() -> None:
    """Read the command line and run."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("port", type=int)
    parser.add_argument("--rtt-ms", type=float, default=0.0)
    parser.add_argument("--mbit", type=float, default=float("inf"))
    options = parser.parse_args()
    trio.run(serve, options.port, Weather(options.rtt_ms / 2000, options.mbit * 125_000))


if __name__ == "__main__":
    main()
