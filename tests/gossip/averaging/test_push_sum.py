"""Push-sum between peers: the true weighted mean on any graph, and no mass lost or counted twice."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import WAIT, Edges, Floats, Pairs, directed_ring, line, ring, star

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.plausible import LONGEST, NEWCOMERS, OWN_SHARES
from shoal.gossip.averaging.push_sum import (
    LEAST_HELD,
    MAX_DOUBTFUL,
    TOO_HEAVY,
    TOO_LONG,
    PushSum,
    PushSumConfig,
)
from shoal.gossip.deadlines import BEAT
from shoal.gossip.events import Loan, Send
from shoal.gossip.messages import Applied, Coming, Push, Settle
from shoal.gossip.sequence import Sequence

NUMEL = 10
GRAPHS = {"ring": ring(8), "directed ring": directed_ring(8), "line": line(8), "star": star(8)}


def make(edges: Edges, count: int, seed: int = 0, **options: float | str) -> tuple[Pairs, Floats]:
    """Return peers with unlike vectors and weights, and the weighted mean."""
    dice = np.random.default_rng(seed)
    vectors = dice.normal(size=(count, NUMEL)).astype(np.float32).astype(np.float64)
    weights = [float(1 + number % 4) for number in range(count)]
    mean = np.average(vectors, axis=0, weights=weights)
    return Pairs(edges, vectors, weights, seed=seed, **options), mean  # type: ignore[arg-type]


def random_graph(count: int, dice: Random) -> list[tuple[int, int]]:
    """Return a sparse directed graph on which mass gets from everyone to everyone."""
    order = dice.sample(range(count), count)
    around = [(order[i - 1], order[i]) for i in range(count)]
    chords = [(dice.randrange(count), dice.randrange(count)) for _ in range(count // 2)]
    return sorted({(a, b) for a, b in around + chords if a != b})


def period_matrix(pairs: Pairs, rounds: int) -> Floats:
    """Return what so many rounds in which all give at the same time do to any vector."""
    count = len(pairs.names)
    product = np.eye(count)
    for round_ in range(rounds):
        step = np.eye(count) / 2
        for number, name in enumerate(pairs.names):
            targets = sorted(pairs.targets[name])
            step[pairs.names.index(targets[round_ % len(targets)]), number] += 0.5
        product = step @ product
    return product


@pytest.mark.parametrize("name", GRAPHS)
def test_all_estimates_become_the_weighted_mean(name: str) -> None:
    pairs, mean = make(GRAPHS[name], 8)
    for _ in range(600):
        pairs.round()
    assert pairs.estimates() == pytest.approx(np.tile(mean, (8, 1)), abs=1e-5)
    assert not pairs.dropped


@pytest.mark.slow
@given(st.integers(2, 10), st.integers(0, 10_000))
@settings(deadline=None, max_examples=15)
def test_on_any_sparse_directed_graph_too(count: int, seed: int) -> None:
    pairs, mean = make(random_graph(count, Random(seed)), count, seed)
    for _ in range(60 * count):
        pairs.round()
    assert pairs.estimates() == pytest.approx(np.tile(mean, (count, 1)), abs=1e-4)


def test_a_plain_mean_of_neighbours_would_be_wrong_where_weights_are_not() -> None:
    """On a star the middle is given more than it gives: without weights its mass would count too much."""
    pairs, mean = make(star(8), 8)
    for _ in range(300):
        pairs.round()
    middle = pairs.cores[pairs.names[0]]
    assert middle.weights[0] > 2 * np.mean([core.weights[0] for core in pairs.cores.values()])
    assert pairs.estimates()[0] == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_error_falls_at_the_rate_of_the_graphs_second_eigenvalue(name: str) -> None:
    pairs, mean = make(GRAPHS[name], 8, least_held=0.0)
    period = 1 if name == "directed ring" else 7 if name == "star" else 2
    second = float(np.sort(np.abs(np.linalg.eigvals(period_matrix(pairs, period))))[-2])
    assert second < 1
    # The first time, peers ask each other before they give: not all at the same time.
    for _ in range(period):
        pairs.round()
    start = np.abs(pairs.estimates() - mean).max()
    periods = int(np.log(1e-3) / np.log(second)) + 1
    for _ in range(period * periods):
        pairs.round()
    left = np.abs(pairs.estimates() - mean).max() / start
    assert left < 10 * second**periods
    assert left > 1e-3 * second**periods, "faster than it can be: somebody knows more than it was given"


def test_a_directed_ring_contracts_by_the_cosine() -> None:
    """Its step is (1 + shift) / 2, whose eigenvalues are cos(pi k / n) in size."""
    matrix = period_matrix(make(directed_ring(8), 8)[0], 1)
    sizes = np.sort(np.abs(np.linalg.eigvals(matrix)))
    assert sizes[-2] == pytest.approx(np.cos(np.pi / 8))


@pytest.mark.slow
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from(["float32", "int8", "int4", "bfloat16"]))
@settings(deadline=None, max_examples=40)
def test_loss_copies_reordering_and_broken_links_keep_the_mass(seed: int, in_order: bool, codec: str) -> None:
    dice = Random(seed)
    count = dice.randrange(2, 6)
    edges = random_graph(count, dice)
    pairs, mean = make(edges, count, seed, loss=dice.choice((0.0, 0.2, 0.5)), copies=0.3, codec=codec)
    sums, weights = pairs.mass()
    broken: set[frozenset[PeerId]] = set()
    for _ in range(120):
        match dice.randrange(6):
            case 0 | 1:
                pairs.step(dice.choice(pairs.names))
            case 2:
                pairs.wait(dice.choice((0.1, WAIT, 3 * WAIT)))
            case 3 if pairs.links - broken:
                link = dice.choice(sorted(pairs.links - broken, key=sorted))
                broken.add(link)
                pairs.disconnect(*sorted(link))
            case 4 if broken:
                link = dice.choice(sorted(broken, key=sorted))
                broken.remove(link)
                pairs.connect(*sorted(link))
            case _:
                pairs.deliver(in_order=in_order)
        found_sums, found_weights = pairs.mass()
        assert found_weights == pytest.approx(weights, rel=1e-12)
        assert found_sums == pytest.approx(sums, abs=1e-4)
    for link in broken:
        pairs.connect(*sorted(link))
    pairs.settle()
    # Nothing is under way any more: what there is, peers hold.
    assert sum(core.weights[0] for core in pairs.cores.values()) == pytest.approx(weights[0], rel=1e-12)
    assert not any(held.sent for core in pairs.cores.values() for held in core._given.values())
    if codec == "float32":
        for _ in range(60 * count):
            pairs.round()
        assert pairs.estimates() == pytest.approx(np.tile(mean, (count, 1)), abs=1e-3)
    assert not pairs.dropped


def test_a_push_that_is_acknowledged_too_late_is_taken_back_and_then_counts_nowhere() -> None:
    pairs, _ = make(line(2), 2)
    one, other = pairs.names
    pairs.round()
    pairs.step(one)
    late = [frame for frame in pairs._heap if isinstance(frame[2], Push)]
    pairs._heap.clear()
    pairs.wait(WAIT)
    pairs.run()
    core = pairs.cores[one]
    assert core.target is None
    assert not core._given[other].sent
    before = pairs.mass()
    for sender, to, message, data in late:
        assert pairs.cores[to].handle(sender, message, data, pairs.now) == []
    assert pairs.mass()[1] == pytest.approx(before[1], rel=0)


def test_a_push_that_arrived_before_the_link_broke_counts_once() -> None:
    pairs, _ = make(line(2), 2)
    one, other = pairs.names
    pairs.round()
    sums, weights = pairs.mass()
    pairs.step(one)
    while pairs._heap and isinstance(pairs._heap[0][2], Push):
        pairs.deliver()
    pairs._heap.clear()
    pairs.disconnect(one, other)
    assert pairs.cores[one]._given[other].sent, "it cannot know"
    pairs.connect(one, other)
    pairs.run()
    assert not pairs.cores[one]._given[other].sent
    held = sum(core.weights for core in pairs.cores.values())
    assert held == pytest.approx(weights, rel=1e-12)
    assert sum(core.sums for core in pairs.cores.values()) == pytest.approx(sums, abs=1e-5)


def test_who_dies_takes_its_mass_with_it_and_the_others_agree_on_what_is_left() -> None:
    pairs, _ = make(ring(6), 6)
    for _ in range(3):
        pairs.round()
    dead = pairs.names[3]
    for near in (pairs.names[2], pairs.names[4]):
        pairs.disconnect(dead, near)
        pairs.cores[near].forget(dead)
    gone = pairs.cores[dead]
    pairs.cores[dead] = PushSum(NUMEL, PushSumConfig(chunk_numel=4), Sequence(0))
    sums, weights = pairs.mass()
    assert weights[0] == pytest.approx(sum(1 + n % 4 for n in range(6)) - gone.weights[0])
    pairs.names.remove(dead)
    for targets in pairs.targets.values():
        targets.discard(dead)
    for _ in range(200):
        pairs.round()
    left = np.concatenate([sums[4 * c : 4 * c + 4] / weights[c] for c in range(3)])
    assert pairs.estimates() == pytest.approx(np.tile(left, (5, 1)), abs=1e-5)


def test_who_comes_back_gets_no_push_of_its_former_life_and_its_giver_takes_nothing_back() -> None:
    """It may have applied some of it, and passed that on before it died."""
    pairs, _ = make(line(2), 2)
    one, other = pairs.names
    pairs.round()
    whole = pairs.cores[one].weights.copy()
    pairs.step(one)
    former = pairs._heap.copy()
    pairs._heap.clear()
    pairs.disconnect(one, other)
    pairs.start(other).mint(np.zeros(NUMEL, np.float32), 2.0)
    pairs.connect(one, other)
    pairs.run()
    pairs._heap += former
    pairs.run(in_order=False)
    assert pairs.cores[one].weights == pytest.approx(whole / 2, rel=0)
    pairs.round()
    assert pairs.mass()[1] == pytest.approx(whole / 2 + 2.0)


@pytest.mark.parametrize("epochs", [1 << 40, 1])
def test_what_a_peer_passed_on_before_it_died_is_not_counted_twice(epochs: int) -> None:
    """`epochs`: where those of its next life begin; 1: its clock was set back."""
    pairs, _ = make(line(3), 3)
    one, middle, last = pairs.names
    pairs.round()
    whole = pairs.mass()[1]
    pairs.step(one)
    while pairs._heap and pairs._heap[0][2].chunk < 2:
        pairs.deliver()
    pairs._heap.clear()
    pairs.cores[middle]._last = one
    pairs.step(middle)
    pairs.run()
    died = pairs.cores[middle].weights.copy()
    for near in (one, last):
        pairs.disconnect(middle, near)
    pairs.cores[middle] = PushSum(NUMEL, PushSumConfig(chunk_numel=4), Sequence(epochs - 1))
    for near in (one, last):
        pairs.connect(middle, near)
    pairs.settle()
    held = sum(core.weights for core in pairs.cores.values())
    assert np.all(held <= whole - died)


def test_progress_moves_the_mean_by_each_peers_share_wherever_the_mass_is() -> None:
    pairs, mean = make(star(5), 5)
    for _ in range(200):
        pairs.round()
    dice = np.random.default_rng(1)
    deltas = dice.normal(size=(5, NUMEL)).astype(np.float32)
    weights = [float(1 + number % 4) for number in range(5)]
    for core, delta, weight in zip(pairs.cores.values(), deltas, weights, strict=True):
        core.move(delta, weight)
    for _ in range(200):
        pairs.round()
    expected = mean + np.average(deltas, axis=0, weights=weights)
    assert pairs.estimates() == pytest.approx(np.tile(expected, (5, 1)), abs=1e-4)


@pytest.mark.parametrize("edges", [star(8), line(8), [(0, 1)]])
def test_a_peer_never_gives_away_more_than_three_quarters_of_its_share(edges: Edges) -> None:
    """So progress never throws its estimate about: it moves by at most four times itself."""
    pairs, _ = make(edges, 8)
    for _ in range(60):
        pairs.round()
        assert all(core.weights.min() >= core.share / 4 for core in pairs.cores.values())


def test_with_more_examples_a_peer_brings_more_mass_and_keeps_its_estimate() -> None:
    core = PushSum(4, PushSumConfig(chunk_numel=4), Sequence(0))
    core.mint(np.ones(4, np.float32), 2.0)
    core.move(np.zeros(4, np.float32), 5.0)
    assert core.weights == pytest.approx([5.0])
    estimate = np.empty(4, np.float32)
    core.read(estimate)
    assert estimate == pytest.approx([1.0] * 4)


def test_who_holds_little_keeps_it_at_the_cost_of_few_steps() -> None:
    def rounds(least_held: float) -> int:
        pairs, mean = make(ring(8), 8, least_held=least_held)
        for round_ in range(1000):
            if np.abs(pairs.estimates() - mean).max() < 1e-3:
                return round_
            pairs.round()
        return 1000

    assert rounds(LEAST_HELD) <= 1.2 * rounds(0.0) + 2


def test_without_a_link_everything_is_kept() -> None:
    core = PushSum(4, PushSumConfig(chunk_numel=4), Sequence(0))
    core.mint(np.ones(4, np.float32), 2.0)
    assert core.step({PeerId("nobody")}, 0.0) == []
    assert core.target is None
    assert core.weights == pytest.approx([2.0])


def test_a_step_goes_on_without_a_peer_that_never_answers() -> None:
    pairs, _ = make(line(3), 3)
    middle = pairs.names[1]
    pairs.step(middle)
    for _ in range(3):
        pairs._heap.clear()
        pairs.wait(WAIT)
    assert pairs.cores[middle].target is None
    pairs.step(middle)
    assert pairs.cores[middle].target == pairs.names[2]


def test_what_is_in_doubt_is_bounded() -> None:
    count = MAX_DOUBTFUL + 3
    pairs, _ = make(star(count), count, least_held=0.0)
    for _ in range(count):
        pairs.round()
    hub = pairs.names[0]
    for _ in pairs.names[1:]:
        pairs.step(hub)
        pairs._heap.clear()
        target = pairs.cores[hub].target
        assert target is not None
        pairs.disconnect(hub, target)
        pairs.targets[hub].discard(target)
    doubtful = [peer for peer, held in pairs.cores[hub]._given.items() if held.sent]
    assert len(doubtful) == MAX_DOUBTFUL


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (Push(5, 2, 9, 1.0), bytes(16)),
        (Push(5, 2, 0, 1.0), bytes(15)),
        (Push(5, 2, 0, 1.0), np.full(4, np.nan, np.float32).tobytes()),
        (Push(5, 2, 0, 1.0), np.full(4, 1e30, np.float32).tobytes()),
    ],
)
def test_who_pushes_garbage_is_dropped_and_nothing_is_applied(message: Push, data: bytes) -> None:
    core = PushSum(4, PushSumConfig(chunk_numel=4), Sequence(0))
    core.mint(np.ones(4, np.float32), 2.0)
    liar = PeerId("liar")
    assert core.handle(liar, Settle(5), b"", 0.0) == [Send(liar, Applied(5, 1))]
    effects = core.handle(liar, message, data, 0.0)
    assert [type(effect).__name__ for effect in effects] == ["Drop"]
    assert core.weights == pytest.approx([2.0])


def test_answers_that_nobody_asked_for_change_nothing() -> None:
    pairs, _ = make(line(2), 2)
    one, other = pairs.names
    pairs.round()
    weights = pairs.cores[one].weights.copy()
    for epoch in (0, 1, 1 << 61):
        assert pairs.cores[one].handle(other, Applied(epoch, 1 << 50), b"", pairs.now) == []
    assert pairs.cores[one].weights == pytest.approx(weights, rel=0)


def settled(core: PushSum, giver: PeerId) -> int:
    """Let a giver ask, and return the id that it is answered."""
    (answer,) = core.handle(giver, Settle(1), b"", 0.0)
    assert isinstance(answer, Send)
    assert isinstance(answer.message, Applied)
    return answer.message.id


@pytest.mark.parametrize("is_stranger", [False, True])
def test_a_heavy_push_counts_as_much_as_its_giver_can_plausibly_have(is_stranger: bool) -> None:
    giver = PeerId("giver")
    core = PushSum(4, PushSumConfig(chunk_numel=4), Sequence(0))
    core.found(giver, 0.0)
    core.mint(np.ones(4, np.float32), 2.0)
    core.accounts.strangers = frozenset({giver} if is_stranger else ())
    last = settled(core, giver)
    core.handle(giver, Push(1, last, 0, 0.1), np.full(4, 0.1, np.float32).tobytes(), 0.0)
    assert not core.partial
    for id_ in range(1, 20):
        numbers = np.full(4, -1e10, np.float32)
        core.handle(giver, Push(1, last + id_, 0, 1e10), numbers.tobytes(), 0.0)
    assert (giver, TOO_HEAVY) in core.partial
    most = 2.0 * (NEWCOMERS if is_stranger else OWN_SHARES + 2)
    assert core.weights[0] == pytest.approx(2.0 + most)
    out = np.empty(4, np.float32)
    core.read(out)
    # Where no colleague gave anything, nothing tells how far a newcomer's may be.
    assert out == pytest.approx(1.0 if is_stranger else (2.0 - most) / (2.0 + most))


def test_newcomers_that_go_on_pushing_draw_no_farther_than_a_colleague_does() -> None:
    colleague, newcomers = PeerId("colleague"), [PeerId(f"newcomer {i}") for i in range(8)]
    core = PushSum(4, PushSumConfig(chunk_numel=4), Sequence(0))
    for peer in (colleague, *newcomers):
        core.found(peer, 0.0)
    core.mint(np.ones(4, np.float32), 1.0)
    core.accounts.strangers = frozenset(newcomers)
    last = {peer: settled(core, peer) for peer in (colleague, *newcomers)}
    near = np.full(4, 1.01 * 0.5, np.float32).tobytes()
    core.handle(colleague, Push(1, last[colleague] + 1, 0, 0.5), near, 0.0)
    held = core.weights[0]
    far = np.full(4, -1e6, np.float32).tobytes()
    for count in range(1, 50):
        for peer in newcomers:
            core.handle(peer, Push(1, last[peer] + count, 0, 1.0), far, 0.0)
    assert core.weights[0] == pytest.approx(held + NEWCOMERS)
    # That little of it counts is told; to bring more than there is room for is no fault.
    assert {peer for peer, _ in core.partial} == set(newcomers)
    assert (newcomers[1], "") in core.partial
    out = np.empty(4, np.float32)
    core.read(out)
    assert np.all(np.abs(out - 1.0) < 0.02)


@pytest.mark.parametrize("held", [0.0, 1.0])
@pytest.mark.parametrize("weight", [0.0, 5e-324, 1e-300, 1e-40])
def test_a_newcomers_push_of_next_to_no_weight_moves_nothing(weight: float, held: float) -> None:
    colleague, newcomer = PeerId("colleague"), PeerId("newcomer")
    core = PushSum(4, PushSumConfig(chunk_numel=4), Sequence(0))
    for peer in (colleague, newcomer):
        core.found(peer, 0.0)
    core.mint(np.full(4, held, np.float32), 1.0)
    core.accounts.strangers = frozenset({newcomer})
    last = {peer: settled(core, peer) for peer in (colleague, newcomer)}
    near = np.full(4, 1.01 * held * 0.5, np.float32).tobytes()
    core.handle(colleague, Push(1, last[colleague] + 1, 0, 0.5), near, 0.0)
    sums = core.sums.copy()
    far = np.full(4, 1e6, np.float32).tobytes()
    core.handle(newcomer, Push(1, last[newcomer] + 1, 0, weight), far, 0.0)
    assert core.sums == pytest.approx(sums, abs=1e-6)


def test_a_push_of_little_weight_brings_no_more_than_that_weight_can() -> None:
    giver = PeerId("giver")
    core = PushSum(4, PushSumConfig(chunk_numel=4), Sequence(0))
    core.found(giver, 0.0)
    core.mint(np.ones(4, np.float32), 2.0)
    last = settled(core, giver)
    core.handle(giver, Push(1, last + 1, 0, 0.5), np.full(4, 1e9, np.float32).tobytes(), 0.0)
    out = np.empty(4, np.float32)
    core.read(out)
    assert out == pytest.approx((2.0 + 0.5 * LONGEST) / 2.5)
    assert core.partial == [(giver, TOO_LONG)]


def pushing(longest: float = 100.0) -> tuple[PushSum, PeerId, list[Loan], int]:
    """Return a giver whose push of three chunks is under way, its taker, what is lent, and the epoch."""
    pairs, _ = make([(0, 1)], 2)
    giver, taker = pairs.names
    core = pairs.cores[giver]
    core.longest = longest
    (ask, _) = core.step({taker}, 0.0)
    assert isinstance(ask, Send)
    assert isinstance(ask.message, Settle)
    effects = core.handle(taker, Applied(ask.message.epoch, 0), b"", 0.0)
    lent = [each.data for each in effects if isinstance(each, Send) and isinstance(each.data, Loan)]
    assert len(lent) == 3
    return core, taker, lent, ask.message.epoch


def asked(core: PushSum, now: float) -> bool:
    """Whether the giver asks about its push now."""
    return any(isinstance(each, Send) and isinstance(each.message, Settle) for each in core.timer(now))


def test_a_push_that_moves_is_waited_for_and_one_that_stops_is_asked_about_a_patience_later() -> None:
    core, taker, lent, epoch = pushing()
    for second in range(1, 9):
        # Of 40 bytes one in 0.9 s, each of which earns two and a half.
        core.handle(taker, Coming(epoch, 0, second), b"", 0.9 * second)
        assert not asked(core, 0.9 * second)
    core.handle(taker, Coming(epoch, 1, 0), b"", 8.0)
    assert core.given_up == []
    assert not any(loan.is_over for loan in lent)
    assert not asked(core, 8.0 + 0.9 * WAIT)
    assert asked(core, 8.0 + 1.1 * WAIT)
    assert core.given_up == [taker]
    assert all(loan.is_over for loan in lent), "nobody applies what is sent from now on"


def test_words_of_bytes_earn_no_more_than_the_bulk_may_take() -> None:
    core, taker, _, epoch = pushing(longest=5.0)
    now = 0.0
    while not asked(core, now):
        now += WAIT / 4
        core.handle(taker, Coming(epoch, 0, 1 << 50), b"", now)
        assert now < 10.0
    # More than the next chunk is not believed: two fifths of the time, and the patience.
    assert now <= 5.0 * 16 / 40 + 2 * WAIT


def test_a_taker_tells_once_a_beat_how_much_has_come() -> None:
    pairs, _ = make([(0, 1)], 2)
    giver, taker = pairs.names
    core = pairs.cores[taker]
    assert core.arriving(giver, 5, 0.0) == [], "it gave nothing"
    (answer,) = core.handle(giver, Settle(3), b"", 0.0)
    assert isinstance(answer, Send)
    assert isinstance(answer.message, Applied)
    assert core.arriving(giver, 5, 0.9 * BEAT) == []
    assert core.arriving(giver, 5, BEAT) == [Send(giver, Coming(3, answer.message.id, 5))]
    first = Push(3, answer.message.id + 1, 0, 1.0)
    assert core.handle(giver, first, np.zeros(4, np.float32).tobytes(), 1.5 * BEAT) == []
    assert core.arriving(giver, 7, 2 * BEAT) == [Send(giver, Coming(3, first.id, 7))]
