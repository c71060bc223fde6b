"""Child processes are started again, after pauses that grow while they do not last."""

import trio
import trio.testing

from shoal.node.children import Keeper

STEADY = 100.0


def moments(lives: list[tuple[float, str | None]]) -> tuple[list[float], int]:
    """Return when each life began, and how many restarts were counted; a life is (seconds, reason)."""
    began: list[float] = []
    keeper = Keeper(STEADY)

    async def live() -> str | None:
        began.append(trio.current_time())
        seconds, reason = lives[len(began) - 1]
        await trio.sleep(seconds)
        return reason

    trio.run(keeper.run, live, clock=trio.testing.MockClock(autojump_threshold=0))
    return [round(each - began[0], 6) for each in began], keeper.restarts


def test_pauses_double_up_to_a_bound() -> None:
    lives: list[tuple[float, str | None]] = [(0.0, "died")] * 7
    assert moments([*lives, (0.0, None)]) == ([0, 1, 3, 7, 15, 31, 61, 91], 7)


def test_after_a_steady_life_pauses_begin_anew() -> None:
    found, _ = moments([(0, "died"), (0, "died"), (STEADY + 1, "died"), (0, None)])
    assert found == [0, 1, 3, 3 + STEADY + 1 + 1]


def test_a_life_without_a_reason_is_followed_at_once_and_is_no_restart() -> None:
    assert moments([(2, ""), (0, None)]) == ([0, 2], 0)
