"""Frames: what is sent comes whole, in whatever pieces; what is too long or cut off is refused."""

import socket
import struct

import msgspec
import pytest
import trio

from shoal.node.framing import MAX_FRAME_BYTES, Message, frame, read_frame, receive_frame, send_frame


class Word(Message, frozen=True):
    """A message."""

    text: str


decode = msgspec.msgpack.Decoder(Word).decode
WORD = Word(text="x" * 1000)


class Pieces:
    """Gives bytes in pieces of a size, then none."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data, self.size = data, size

    async def receive(self, count: int) -> bytes:
        piece, self.data = self.data[: min(count, self.size)], self.data[min(count, self.size) :]
        return piece


@pytest.mark.parametrize("size", [1, 3, 7, 5000])
def test_a_frame_comes_whole_in_whatever_pieces(size: int) -> None:
    async def main() -> list[Word]:
        line = Pieces(frame(WORD) + frame(Word(text="")), size)
        return [decode(await receive_frame(line.receive)) for _ in range(2)]

    assert trio.run(main) == [WORD, Word(text="")]


def test_a_blocking_end_reads_what_a_waiting_one_sends() -> None:
    ours, theirs = socket.socketpair()

    async def main() -> Word:
        await send_frame(trio.socket.from_stdlib_socket(ours), WORD)
        return decode(await trio.to_thread.run_sync(read_frame, theirs))

    with ours, theirs:
        assert trio.run(main) == WORD


@pytest.mark.parametrize(
    ("data", "error"),
    [(frame(WORD)[:-1], EOFError), (b"", EOFError), (struct.pack("!I", MAX_FRAME_BYTES + 1), ValueError)],
)
def test_a_frame_that_is_cut_off_or_too_long_is_refused(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        trio.run(receive_frame, Pieces(data, 100).receive)
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(data)
        with pytest.raises(error):
            read_frame(theirs)
