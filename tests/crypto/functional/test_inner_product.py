"""Functional encryption: what opens is the sum, and what must not open does not."""

import inspect
import pickle
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from shoal.crypto.errors import AlreadyUsed, BadCiphertext, BadKey, NotOpened
from shoal.crypto.functional import discrete_log, group, inner_product, pairs
from shoal.crypto.functional.inner_product import (
    Agreement,
    OneTimeSecret,
    open_differences,
    open_sums,
    open_tables,
)
from shoal.crypto.functional.pairs import OneTimeKey

BOUND = 1000
WEIGHTS = (3, 1, 7, 16, 2)


def seeded(count: int, salt: int = 0) -> list[OneTimeSecret]:
    return [OneTimeSecret(bytes([salt, place]) * 16) for place in range(count)]


def agreed(secrets: Sequence[OneTimeSecret], values: int, **other: object) -> Agreement:
    weights = WEIGHTS[: len(secrets)]
    keys = tuple(secret.public for secret in secrets)
    made = Agreement(b"round 7, attempt 0", keys, weights, values=values, bound=BOUND)
    return replace(made, **other)  # type: ignore[arg-type]


def sealed_by(secrets: Sequence[OneTimeSecret], agreement: Agreement, table: np.ndarray) -> list[bytes]:
    return [secret.encrypt(agreement, row.tolist()) for secret, row in zip(secrets, table, strict=True)]


def shares_of(secrets: Sequence[OneTimeSecret], agreement: Agreement, sealed: list[bytes]) -> list[bytes]:
    return [secret.key_share(agreement, sealed) for secret in secrets]


def numbers(count: int, values: int, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).integers(-BOUND, BOUND + 1, (count, values))
    found[:, :3] = 0, BOUND, -BOUND
    return found


# --- what opens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 5])
def test_the_sum_opened_is_the_weighted_sum_of_integers_for_200_vectors(count: int) -> None:
    secrets, table = seeded(count), numbers(count, 200)
    agreement = agreed(secrets, 200)
    sealed = sealed_by(secrets, agreement, table)
    found = open_sums(agreement, sealed, shares_of(secrets, agreement, sealed))
    assert found == (np.array(agreement.weights) @ table).tolist()


def test_under_one_label_any_choice_of_one_number_each_opens() -> None:
    secrets, table = seeded(5), numbers(5, 16)
    agreement = agreed(secrets, 16, one_label=True)
    sealed = sealed_by(secrets, agreement, table)
    found = open_tables(agreement, sealed, shares_of(secrets, agreement, sealed))
    assert found.base == int(np.array(agreement.weights) @ table[:, 0])
    assert np.array_equal(found.differences, table - table[:, :1])


def test_a_number_above_the_bound_is_refused_and_a_sum_above_it_does_not_open() -> None:
    secrets = seeded(3)
    agreement = agreed(secrets, 1)
    with pytest.raises(ValueError, match="clip it before"):
        secrets[0].encrypt(agreement, [BOUND + 1])
    sealed = [secret.encrypt(agreement, [BOUND]) for secret in secrets]
    # A liar adds one: nobody can see it in a ciphertext, but the sum is now above every honest one.
    lie = group.add(sealed[0], group.multiply_base(1))
    shares = [secrets[0].key_share(agreement, sealed)]
    shares += [secret.key_share(agreement, [*sealed]) for secret in secrets[1:]]
    assert open_sums(agreement, sealed, shares) == [agreement.largest_sum]
    with pytest.raises(NotOpened):
        open_sums(agreement, [lie, *sealed[1:]], shares)


@pytest.mark.parametrize("count", range(3, 9))
def test_key_shares_add_up_to_the_weighted_sum_of_the_keys_and_shares_of_zero_to_zero(count: int) -> None:
    secrets = [OneTimeSecret(bytes([count, place]) * 16) for place in range(count)]
    scalars = [secret._scalars for secret in secrets]
    weights = tuple(range(1, count + 1))
    agreement = Agreement(b"", tuple(s.public for s in secrets), weights, values=1, bound=1)
    sealed = [secret.encrypt(agreement, [1]) for secret in secrets]
    shares = [secret.key_share(agreement, sealed) for secret in secrets]
    for half in range(2):
        wanted = sum(w * each[half] for w, each in zip(weights, scalars, strict=True) if each) % group.ORDER
        found = sum(int.from_bytes(share[32 * half :][:32], "little") for share in shares)
        assert found % group.ORDER == wanted
    keys = [OneTimeKey(bytes([count, place]) * 16) for place in range(count)]
    publics = [key.public for key in keys]
    zeros = [key.zero_scalars(publics, b"context", 2) for key in keys]
    assert [sum(column) % group.ORDER for column in zip(*zeros, strict=True)] == [0, 0]


# --- what must not open --------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["ciphertext", "share"])
def test_with_one_part_missing_nothing_opens(lost: str) -> None:
    for trial in range(100):
        secrets = seeded(3, trial)
        agreement = agreed(secrets, 1)
        sealed = sealed_by(secrets, agreement, numbers(3, 3, trial)[:, :1])
        shares = shares_of(secrets, agreement, sealed)
        if lost == "share":
            shares[trial % 3] = bytes(64)
        else:
            sealed[trial % 3] = group.IDENTITY
        with pytest.raises(NotOpened):
            open_sums(agreement, sealed, shares)


def test_shares_for_unlike_lists_of_ciphertexts_do_not_fit_together() -> None:
    secrets, others = seeded(3), seeded(3)
    agreement = agreed(secrets, 1)
    sealed = [secret.encrypt(agreement, [5]) for secret in secrets]
    other = [secret.encrypt(agreement, [5]) for secret in others[:2]] + [others[2].encrypt(agreement, [6])]
    mixed = [secrets[0].key_share(agreement, sealed)]
    mixed += [secret.key_share(agreement, other) for secret in others[1:]]
    with pytest.raises(NotOpened):
        open_sums(agreement, sealed, mixed)


def test_two_keys_of_unlike_weights_are_never_given() -> None:
    secrets = seeded(3)
    agreement = agreed(secrets, 1)
    sealed = [secret.encrypt(agreement, [5]) for secret in secrets]
    greedy = replace(agreement, weights=(1, 1, 1))
    with pytest.raises(ValueError, match="encrypt under this agreement first"):
        secrets[0].key_share(greedy, sealed)
    secrets[0].key_share(agreement, sealed)
    for again in (agreement, greedy):
        with pytest.raises(AlreadyUsed):
            secrets[0].key_share(again, sealed)
        with pytest.raises(AlreadyUsed):
            secrets[0].encrypt(again, [5])


def test_a_key_serves_one_context() -> None:
    keys = [OneTimeKey() for _ in range(3)]
    publics = [key.public for key in keys]
    keys[0].zero_scalars(publics, b"first", 4)
    with pytest.raises(AlreadyUsed):
        keys[0].zero_scalars(publics, b"second", 4)
    with pytest.raises(BadKey, match="3 or more"):
        keys[1].zero_scalars(publics[:2], b"first", 4)


def test_what_any_two_of_three_shares_of_zero_add_up_to_is_uniform() -> None:
    keys = [OneTimeKey(bytes([place]) * 32) for place in range(3)]
    publics = [key.public for key in keys]
    shares = [key.zero_scalars(publics, b"context", 3_000) for key in keys]
    for left_out in range(3):
        kept = [share for place, share in enumerate(shares) if place != left_out]
        sums = [sum(column) % group.ORDER for column in zip(*kept, strict=True)]
        # The four highest bits of 252 are nearly always zero.
        low = b"".join((each & ((1 << 248) - 1)).to_bytes(31, "little") for each in sums)
        counts = np.bincount(np.frombuffer(low, np.uint8), minlength=256)
        chi_square = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
        assert chi_square < 310.46  # of 255 degrees of freedom, p = 0.01


def test_a_sum_of_two_peers_hides_nothing_and_is_refused() -> None:
    with pytest.raises(ValueError, match="hides nothing"):
        agreed(seeded(2), 1)
    with pytest.raises(ValueError, match="most that can be opened"):
        agreed(seeded(3), 1, bound=1 << 30)


# --- the leak of one label -----------------------------------------------------------------------------


def test_under_one_label_every_difference_is_for_all_to_see_and_under_own_labels_none() -> None:
    table = numbers(3, 16)
    secrets = seeded(3)
    shared = agreed(secrets, 16, one_label=True)
    for row, sealed in zip(table, sealed_by(secrets, shared, table), strict=True):
        # Without any key.
        assert np.array_equal(open_differences(sealed, BOUND), row - row[0])
    secrets = seeded(3)
    apart = agreed(secrets, 16)
    for sealed in sealed_by(secrets, apart, table):
        with pytest.raises(NotOpened):
            open_differences(sealed, BOUND)
    with pytest.raises(ValueError, match="no table"):
        open_tables(apart, [], [])


def test_equal_numbers_under_unlike_labels_have_unlike_ciphertexts() -> None:
    secret = seeded(3)[0]
    sealed = secret.encrypt(agreed(seeded(3), 50), [7] * 50)
    assert len({sealed[32 * place :][:32] for place in range(50)}) == 50
    other = seeded(3)[0].encrypt(agreed(seeded(3), 50, context=b"attempt 1"), [7] * 50)
    assert not {sealed[32 * p :][:32] for p in range(50)} & {other[32 * p :][:32] for p in range(50)}


def test_a_label_is_hashed_to_a_point_of_no_known_logarithm() -> None:
    source = inspect.getsource(group.hash_to_group)
    assert "from_uniform" in source
    assert "base" not in source
    point = group.hash_to_group(b"label")
    assert group.is_point(point)
    assert discrete_log.find_log(point, 1 << 20) is None


# --- who is who ----------------------------------------------------------------------------------------


def test_no_function_takes_secrets_of_two_peers() -> None:
    for module in (inner_product, pairs):
        for _, function in inspect.getmembers(module, inspect.isfunction):
            taken = str(inspect.signature(function))
            assert not re.search("OneTimeSecret|OneTimeKey", taken)


def test_secrets_are_in_no_repr_no_pickle_and_no_error() -> None:
    seed = bytes(range(32))
    for one in (OneTimeSecret(seed), OneTimeKey(seed)):
        assert seed.hex()[:8] not in repr(one)
        assert repr(one).count(one.public.hex()[:8]) == 1
        assert not hasattr(one, "__dict__")
        with pytest.raises(TypeError, match="not written anywhere"):
            pickle.dumps(one)
    with pytest.raises(BadKey) as caught:
        OneTimeKey(seed[:31])
    assert seed.hex()[:8] not in str(caught.value)


@pytest.mark.parametrize(
    "bad", [b"", bytes(32), group.IDENTITY, b"\xff" * 32, group.multiply_base(5)[:31], bytes([2]) + bytes(31)]
)
def test_what_is_no_point_of_the_subgroup_is_refused(bad: bytes) -> None:
    with pytest.raises(BadCiphertext):
        agreed(seeded(3), 1).check_ciphertext(bad)


@pytest.mark.parametrize(
    "bad", [b"", bytes(63), b"\xff" * 64, group.ORDER.to_bytes(32, "little") + bytes(32)]
)
def test_what_is_no_pair_of_scalars_is_refused(bad: bytes) -> None:
    with pytest.raises(BadCiphertext):
        inner_product.check_share(bad)


@pytest.mark.parametrize("bad", [b"", bytes(32), bytes([1]) + bytes(31)])
def test_a_public_key_that_makes_everyone_s_pair_key_the_same_is_refused(bad: bytes) -> None:
    assert not pairs.is_public_key(bad)
    keys = [OneTimeKey() for _ in range(2)]
    with pytest.raises(BadKey):
        keys[0].zero_scalars([*(key.public for key in keys), bad], b"", 1)


def test_a_share_is_given_only_for_a_list_in_which_our_ciphertext_is() -> None:
    secrets = seeded(3)
    agreement = agreed(secrets, 1)
    sealed = [secret.encrypt(agreement, [1]) for secret in secrets]
    for bad in (sealed[:2], [sealed[1], sealed[0], sealed[2]], [sealed[0], b"", sealed[2]]):
        with pytest.raises(BadCiphertext):
            secrets[0].key_share(agreement, bad)
    assert len(secrets[0].key_share(agreement, sealed)) == 64


# --- logarithms, vectors, speed ------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, -1, 16_384, -16_384, 16_385, 32_769, -32_770, 99_999, -100_000])
def test_a_logarithm_is_found_within_its_bound_and_not_beyond(number: int) -> None:
    point = group.multiply_base(number)
    assert discrete_log.find_log(point, 100_000) == number
    assert discrete_log.find_log(point, abs(number)) == number
    if number:
        assert discrete_log.find_log(point, abs(number) - 1) is None


GOLDEN = (
    "2fe57da347cd62431528daac5fbb290730fff684afc4cfc2ed90995f58cb3b74",
    "fca30b7246910ef47cdfa7ff33a2ce30d0e41e4adb8ba1853f7fc011e2e7dabb"
    "7c961cb34b176adcb3dda83ac34e4c910a647d137ef9be875ef76f420144bf41",
    "a86d85b0822aa6f578165dc7f50939b3fb87b72455cb561bb922bfbb166e0d05"
    "9ce0364fd82302774a615d6c88a1ac2a94dcb879d094397443c759cab44bfc06",
    "8295c40ccfbd74ff0ac6b46ed5c36e927d55d87eeb84e2a3b75593c81f2517da",
)
"""A public key, two ciphertexts, a key share, and the point of a label."""


def test_golden_vectors() -> None:
    secrets = seeded(3)
    agreement = agreed(secrets, 2)
    sealed = [secret.encrypt(agreement, [-1, 1000]) for secret in secrets]
    share = secrets[0].key_share(agreement, sealed)
    found = (secrets[0].public, sealed[0], share, group.hash_to_group(b"shoal"))
    assert tuple(each.hex() for each in found) == GOLDEN


@pytest.mark.parametrize("place", range(0, 64, 3))
def test_a_flipped_byte_of_a_share_or_a_ciphertext_opens_nothing(place: int) -> None:
    secrets = seeded(3)
    agreement = agreed(secrets, 2)
    sealed = [secret.encrypt(agreement, [-1, 1000]) for secret in secrets]
    shares = shares_of(secrets, agreement, sealed)
    with pytest.raises((NotOpened, BadCiphertext)):
        checked_and_opened(agreement, sealed, [shares[0], flipped(shares[1], place), shares[2]])
    with pytest.raises((NotOpened, BadCiphertext)):
        checked_and_opened(agreement, [sealed[0], flipped(sealed[1], place), sealed[2]], shares)


def flipped(data: bytes, place: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << place % 8
    return bytes(changed)


def checked_and_opened(agreement: Agreement, sealed: list[bytes], shares: list[bytes]) -> None:
    for each in sealed:
        agreement.check_ciphertext(each)
    open_sums(agreement, sealed, shares)


@pytest.mark.parametrize(("one_label", "operations"), [(True, 64 + 4), (False, 64 * 5)])
def test_64_centroids_cost_at_most_five_operations_of_the_group_each(
    monkeypatch: pytest.MonkeyPatch, one_label: bool, operations: int
) -> None:
    """Each takes 70 microseconds on one core of 2024."""
    done: list[str] = []

    def count(name: str) -> None:
        operation = getattr(group, name)

        def counted(*arguments: object) -> bytes:
            done.append(name)
            return bytes(operation(*arguments))

        monkeypatch.setattr(group, name, counted)

    secrets = seeded(3)
    agreement = agreed(secrets, 64, one_label=one_label)
    for name in ("multiply", "multiply_base", "hash_to_group"):
        count(name)
    secrets[0].encrypt(agreement, numbers(3, 64)[0].tolist())
    assert len(done) == operations
