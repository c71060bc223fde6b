"""Sums on a grid that an ask fixes itself, as EncCluster's: of all that stay, and they tell nothing else."""

from collections.abc import Iterable

import msgspec
import numpy as np
import pytest
from secure_members import CONFIG, Members

from shoal.crypto.keys import PeerId
from shoal.gossip.averaging.secure.masked_sum import Stage
from shoal.gossip.events import Send
from shoal.gossip.messages import SECURE_INDEX, Part
from shoal.gossip.policies.masking import Masking

OWN = Masking(clip=0.2, bits=6, levels=4)


def members(count: int = 5, **options: object) -> Members:
    """Return members that give changes of up to about 0.4."""
    config = msgspec.structs.replace(CONFIG, masking=OWN)
    made = Members(count, config=config, is_based=False, **options)  # type: ignore[arg-type]
    for name in made.names:
        made.given[name] -= made.state
        made.vectors[name][:] = made.given[name]
    return made


def clipped(made: Members, names: Iterable[PeerId], factors: Iterable[int]) -> np.ndarray:
    rows = np.clip(np.array([made.given[name] for name in names], np.float64), -OWN.clip, OWN.clip)
    return np.asarray(np.average(rows, axis=0, weights=list(factors)))


def test_the_mean_is_that_of_the_clipped_numbers_with_whole_weights() -> None:
    made = members(5, weights=[10.0, 20.0, 20.0, 20.0, 90.0])
    made.run()
    assert made.check() == tuple(sorted(made.names))
    for core in made.cores.values():
        # Nobody counts more than twice the median.
        assert [core.numbers.factors[number] for number in range(5)] == [1, 2, 2, 2, 4]
    mean = made.vectors[made.names[0]]
    step = 2 * OWN.clip / 63
    assert np.abs(mean - clipped(made, made.names, (1, 2, 2, 2, 4))).max() <= step * 1.01
    assert np.abs(mean).max() <= OWN.clip * (1 + 1e-6)


@pytest.mark.parametrize("stage", [Stage.DEAL, Stage.HEARD, Stage.SUM, Stage.CONSENT, Stage.UNMASK])
def test_who_vanishes_is_no_reason_for_another_attempt(stage: Stage) -> None:
    made = members(6)
    made.kill_at(made.names[1], stage, 3)
    made.kill_at(made.names[4], stage, 5)
    made.run()
    assert set(made.alive) <= set(made.check())


def test_nothing_in_the_open_follows_from_what_is_given() -> None:
    said = []
    for scale in (0.0, 1.0, 1e6):
        made, seen = members(3), list[tuple[str, int]]()

        def watch(sender: PeerId, sent: Send, seen: list[tuple[str, int]] = seen) -> Iterable[Send]:
            seen.append((type(sent.message).__name__, len(sent.data)))
            return [sent]

        for name in made.names:
            made.vectors[name] *= np.float32(scale)
        made.change = watch
        made.run()
        made.check()
        adverts = [advert for core in made.cores.values() for advert in core._adverts.values()]
        assert {(advert.reach, advert.anchor) for advert in adverts} == {((0.0,) * 4, b"zero")}
        said.append(sorted(seen))
    assert said[0] == said[1] == said[2]


def test_the_words_of_a_member_tell_nothing_of_its_numbers() -> None:
    made = members(3, numel=7000)
    words: dict[PeerId, list[bytes]] = {}

    def watch(sender: PeerId, sent: Send) -> Iterable[Send]:
        if isinstance(sent.message, Part) and sent.message.index == Stage.SUM * SECURE_INDEX:
            words.setdefault(sender, []).append(bytes(sent.data))
        return [sent]

    made.change = watch
    made.run()
    made.check()
    for name, told in words.items():
        masked = np.frombuffer(b"".join(told), np.uint64)
        plain = made.cores[name].plain[: masked.size]
        # Fields of the plain words are small; those of the masked ones are anything, and not the same.
        one, other = [(each & np.uint64(511)).astype(np.float64) for each in (masked, plain)]
        alike = float(np.mean((one - one.mean()) * (other - other.mean())) / (one.std() * other.std()))
        assert abs(alike) < 0.2
        assert len(np.unique(masked)) == masked.size


def test_another_attempt_has_fresh_keys_and_other_words() -> None:
    first, second = members(3), members(3, seed=1)
    keys = []
    for made in (first, second):
        made.run()
        made.check()
        keys.append({core._keys.public for core in made.cores.values()})
    assert not keys[0] & keys[1]


def test_a_member_with_keys_that_are_none_is_dropped_and_the_others_open() -> None:
    made = members(5)
    liar = made.names[0]
    core = made.cores[liar]
    core._keys.public = bytes(len(core._keys.public))
    made.run()
    honest = [name for name in made.names if name != liar]
    assert {made.cores[name].stage for name in honest} == {Stage.DONE}
    for name in honest:
        outcome = made.cores[name].outcome
        assert outcome is not None
        assert liar not in outcome.contributors


def test_unlike_grids_are_found_before_anything_is_given() -> None:
    assert OWN.name != Masking(clip=0.2, bits=6, levels=5).name
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"clip": 0.2, "bits": 17}, Masking)


def test_votes_of_members_are_counted_exactly_and_nobody_sees_one() -> None:
    made = members(5, numel=700)
    for name in made.names:
        made.given[name] = np.sign(made.given[name])
        made.vectors[name][:] = made.given[name]
    votes = Masking(clip=1.0, bits=2, levels=1)
    for core in made.cores.values():
        core.numbers._config = msgspec.structs.replace(core.numbers._config, masking=votes)
    made.run()
    made.check()
    counted = np.rint(5 * made.vectors[made.names[0]].astype(np.float64))
    assert np.array_equal(counted, np.sum([made.given[name] for name in made.names], axis=0))
    assert np.abs(5 * made.vectors[made.names[0]] - counted).max() < 1e-5
