"""Masking: whole numbers modulo 2^64 that say nothing but their sum, also where members vanish.

Each member of a list makes two secrets for every label: an X25519 key for pairs, and one for itself, of
which others see the hash. A label is what is opened as a whole: a part of a vector, in one attempt at one
round. Under it the member's mask is

    PRG(itself) + sum over j > i of PRG(pair of i and j) - sum over j < i of PRG(pair of i and j)

so that pairs cancel in the sum of all. Both secrets of every label are shared among all members with a
threshold (shamir.py), each share sealed to its holder. Of whoever is in the sum the holders then reveal their
shares of the secret for itself, and of whoever is not those of the secret for pairs: never both. Bonawitz,
Ivanov, Kreuter and others, Practical Secure Aggregation for Privacy-Preserving Machine Learning (CCS 2017),
section 4; what is agreed on before anything is revealed is the caller's (section 4.3, consistency check).

What holds: fewer than `threshold` members together, whoever they are, see words that are uniform, but for
the sum of a list. That assumes X25519, BLAKE2b and AEGIS-128L as in libsodium, and fresh keys for each
attempt. Where some of them also tell others different lists, it holds for fewer than 2 threshold - members.
What does not hold: that what a member masks is small or honest; and a list that a member tells two others
differently, unless the caller compares it first.

    keys = MaskKeys(n_labels)          public half goes to all -> Roster(context, every member's public half)
    masks = Masks(keys, me, roster)    masks.dealt goes to all
    masks.take(dealt, maskers)         what members dealt, by their numbers, and who is in the masks
    masks.hide(label, words)           words + mask, modulo 2^64
    masks.reveal(lists)                shares for one list per label, once
    masks.mask_of(label, reveals)      what the sum of the list has more than the words

Secrets stand in no repr and in no exception.
"""

from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from itertools import combinations, islice
from typing import Final

from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError as NaclError
from nacl.public import Box, PrivateKey, PublicKey
from nacl.utils import random

from shoal.crypto.errors import BadKey, BadShare, SecondList
from shoal.crypto.keystream import Keystream, Words
from shoal.crypto.shamir import Entropy, join, split

KEY: Final = 32
SEALED: Final = Box.NONCE_SIZE + 16
"""What sealing adds to a share, in bytes."""
LEAST: Final = 3
"""Members of a list that is opened: of two each would know the other's words."""
MAX_TRIES: Final = 400
"""Sets of holders that are tried where a share is wrong."""


def threshold_of(members: int) -> int:
    """Return how many shares open: all but a third of the members, and three at least."""
    return max(LEAST, members - members // 3)


_PRIME: Final = 2**255 - 19
_SMALL_ORDER: Final = frozenset(
    number.to_bytes(KEY, "little")
    for number in (
        *(0, 1, _PRIME - 1, _PRIME, _PRIME + 1),
        0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
        0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
    )
)
"""Points of order 1, 2, 4 and 8 of Curve25519 and of its twist, as libsodium refuses them."""


class MaskKeys:
    """The secrets of one member for one attempt. Never used twice."""

    def __init__(self, labels: int, entropy: Entropy = random) -> None:
        """`labels`: how many things are opened apart."""
        self._seal, self._secret = entropy(KEY), entropy(2 * KEY * labels)
        self.labels = labels
        secrets = [(number % 2 == 0, secret) for number, secret in enumerate(_cut(self._secret))]
        halves = [_public_half(secret, for_pairs=for_pairs) for for_pairs, secret in secrets]
        self.public = b"".join([crypto_scalarmult_base(self._seal), *halves])
        """Bytes [(1 + 2 labels) * 32]: a key for sealing, then by label a key for pairs and the hash of the
        secret for itself."""

    def __repr__(self) -> str:
        """Say no secret."""
        return f"MaskKeys({self.labels} labels)"


def is_public(half: bytes, labels: int) -> bool:
    """Tell whether bytes of a peer are public keys for so many labels, each of which gives a secret."""
    if len(half) != KEY * (1 + 2 * labels):
        return False
    cut = _cut(half)
    # The highest bit is ignored. With a point of small order all would know the pair's secret.
    return all(key[:-1] + bytes([key[-1] & 0x7F]) not in _SMALL_ORDER for key in (cut[0], *cut[1::2]))


class Roster:
    """The members of one attempt, with their public keys."""

    def __init__(self, context: bytes, publics: Mapping[int, bytes], labels: int) -> None:
        """`context`: names run, round, attempt and ask. `publics`: by member, each as `is_public` wants it.

        Raises:
            BadKey: fewer than three members, or keys that are none.
        """
        if len(publics) < LEAST:
            raise BadKey(f"{len(publics)} of at least {LEAST} members")
        if not all(is_public(half, labels) for half in publics.values()):
            raise BadKey("not public keys for these labels")
        self.members, self.labels = sorted(publics), labels
        self.publics, self.threshold = dict(publics), threshold_of(len(publics))
        text = [len(context).to_bytes(4, "big"), context, labels.to_bytes(4, "big")]
        text += [member.to_bytes(4, "big") + publics[member] for member in self.members]
        self.digest = blake2b(b"".join(text), digest_size=KEY, person=b"shoal/roster").digest()
        """Equal where all was agreed on."""

    def public(self, member: int, label: int, *, for_pairs: bool) -> bytes:
        """Return the public half of a secret of a member."""
        at = KEY * (1 + 2 * label + (not for_pairs))
        return self.publics[member][at : at + KEY]


class Masks:
    """One member's masks in one attempt. See the module's docstring."""

    def __init__(self, keys: MaskKeys, me: int, roster: Roster, entropy: Entropy = random) -> None:
        """`me`: this member's number in the roster.

        Raises:
            BadKey: the roster does not have these keys.
        """
        if roster.publics.get(me) != keys.public:
            raise BadKey("the roster has other keys of this member")
        self._keys, self._me, self.roster = keys, me, roster
        self._is_used: set[int] = set()
        self._dealers: dict[int, bytes] = {}
        self._context = b""
        self._lists: tuple[frozenset[int], ...] | None = None
        shares = split(keys._secret, len(roster.members), roster.threshold, entropy)
        self._own = dict(zip(roster.members, shares, strict=True))[me]
        seal, halves = PrivateKey(keys._seal), roster.publics
        self._boxes = {
            member: Box(seal, PublicKey(halves[member][:KEY])) for member in roster.members if member != me
        }
        self.dealt = b"".join(
            bytes(self._boxes[member].encrypt(share, entropy(Box.NONCE_SIZE)))
            for member, share in zip(roster.members, shares, strict=True)
            if member != me
        )
        """For all: the shares of the secrets, each sealed to its holder, in the holders' order."""

    def __repr__(self) -> str:
        """Say no secret."""
        return f"Masks(member {self._me} of {len(self.roster.members)})"

    @property
    def dealt_bytes(self) -> int:
        """How many bytes every member deals."""
        return (len(self.roster.members) - 1) * (2 * KEY * self.roster.labels + SEALED)

    def take(self, dealt: Mapping[int, bytes], maskers: Collection[int]) -> None:
        """Take what members dealt. `maskers`: who is in the masks, as all members agree.

        Of a masker whose shares did not come this member holds none; whoever opens does without it.

        Raises:
            BadShare: they are fewer than the threshold, or this member is not one; or it was told before.
        """
        least, known = max(LEAST, self.roster.threshold), set(self.roster.members)
        if self._context or len(maskers) < least or not {self._me} <= set(maskers) <= known:
            raise BadShare(f"{len(maskers)} of at least {least} members dealt shares")
        for member in sorted(maskers):
            sealed = dealt.get(member, b"")
            self._dealers[member] = self._own if member == self._me else self._opened(member, sealed)
        text = b"".join(member.to_bytes(4, "big") for member in sorted(maskers))
        self._context = blake2b(text, key=self.roster.digest, digest_size=KEY, person=b"shoal/dealt").digest()

    @property
    def maskers(self) -> list[int]:
        """Members whose pairs are in the masks, in their order."""
        return sorted(self._dealers)

    def transcript(self, lists: Sequence[frozenset[int]]) -> bytes:
        """Return the digest of all that was agreed on so far and of the lists to open, 32 bytes.

        Shares are revealed only after `threshold` members have said the same.
        """
        text = [b"".join(member.to_bytes(4, "big") for member in sorted(each)) for each in lists]
        packed = b"".join(len(each).to_bytes(4, "big") + each for each in text)
        return blake2b(packed, key=self._context, digest_size=KEY, person=b"shoal/lists").digest()

    def hide(self, label: int, words: Words) -> None:
        """Add this member's mask to words, uint64 [n], in place; once for a label.

        Raises:
            SecondList: words of this label were hidden before: their difference would be plain.
        """
        if label in self._is_used or not self._context:
            raise SecondList("a mask is used once, when all have dealt")
        self._is_used.add(label)
        pairs, own = self._secrets(label)
        Keystream(self._key(own, label, b"self")).mask(words)
        for other in self.maskers:
            if other != self._me:
                self._add_pair(words, pairs, self._me, other, label)

    def reveal(self, lists: Sequence[frozenset[int]]) -> bytes:
        """Return this member's shares for the lists of contributors, one per label, for all to see.

        Raises:
            SecondList: it has revealed shares for other lists.
            BadShare: a list is too short, or has somebody who dealt nothing.
        """
        fixed = tuple(frozenset(each) for each in lists)
        if self._lists not in (None, fixed):
            raise SecondList("shares for other lists were revealed before")
        if len(fixed) != self.roster.labels or not all(self._may_open(each) for each in fixed):
            raise BadShare(f"a list with fewer than {LEAST} contributors, or with strangers, is not opened")
        self._lists = fixed
        return b"".join(self._revealed(member) for member in self.maskers)

    def mask_of(self, reveals: Mapping[int, bytes]) -> "OpenedMasks":
        """Return what opens the sums of the lists that this member revealed for.

        `reveals`: by member, what it revealed; malformed ones count for nothing.

        Raises:
            BadShare: fewer than the threshold are whole, or no set of holders gives the secrets.
        """
        if self._lists is None:
            raise BadShare("no lists to open")
        size = self._reveal_size
        whole = {member: told for member, told in reveals.items() if len(told) == size * len(self.maskers)}
        secrets: dict[tuple[int, int], bytes] = {}
        guessed = self._joined_at_once(whole)
        for place, member in enumerate(self.maskers):
            if not self._are_of(member, found := guessed[place]):
                told = {h: whole[h][size * place : size * (place + 1)] for h in whole}
                found = self._joined(member, {h: each[1:] for h, each in told.items() if each[0]})
            secrets |= {(member, label): secret for label, secret in enumerate(_cut(found))}
        return OpenedMasks(self, self._lists, secrets)

    # --- inside -----------------------------------------------------------------------------------

    @property
    def _reveal_size(self) -> int:
        return 1 + KEY * self.roster.labels

    def _may_open(self, contributors: frozenset[int]) -> bool:
        return len(contributors) >= LEAST and contributors <= self._dealers.keys()

    def _revealed(self, member: int) -> bytes:
        share, lists = self._dealers[member], self._lists
        if not share or lists is None:
            return bytes(self._reveal_size)
        parts = [
            share[2 * KEY * label + KEY * (member in contributors) :][:KEY]
            for label, contributors in enumerate(lists)
        ]
        return b"\x01" + b"".join(parts)

    def _joined_at_once(self, whole: Mapping[int, bytes]) -> list[bytes]:
        """Return by masker what the first holders' shares give: its secrets, unless one of these lied."""
        numbers = {holder: place for place, holder in enumerate(self.roster.members)}
        told = {numbers[holder]: shares for holder, shares in whole.items() if holder in numbers}
        size, need = self._reveal_size, self.roster.threshold
        if len(told) < need:
            raise BadShare(f"{len(told)} of at least {need} members revealed their shares")
        joined = join(told, need)
        return [joined[size * place + 1 : size * (place + 1)] for place in range(len(self.maskers))]

    def _joined(self, member: int, shares: Mapping[int, bytes]) -> bytes:
        """Return the secrets of a member, from holders whose shares give those of its public keys."""
        numbers = {holder: place for place, holder in enumerate(self.roster.members)}
        told = {numbers[holder]: share for holder, share in shares.items() if holder in numbers}
        need = self.roster.threshold
        if len(told) < need:
            raise BadShare(f"{len(told)} of at least {need} members revealed their shares")
        for left_out in islice(_few_of(sorted(told), len(told) - need), MAX_TRIES):
            found = join({h: share for h, share in told.items() if h not in left_out}, need)
            if self._are_of(member, found):
                return found
        raise BadShare("members revealed shares of another secret")

    def _are_of(self, member: int, secrets: bytes) -> bool:
        assert self._lists is not None
        return all(
            _public_half(secret, for_pairs=for_pairs)
            == self.roster.public(member, label, for_pairs=for_pairs)
            for label, secret in enumerate(_cut(secrets))
            for for_pairs in (member not in self._lists[label],)
        )

    def _opened(self, dealer: int, sealed: bytes) -> bytes:
        """Return the share of a dealer's secrets that is ours; nothing where it dealt us none."""
        size = 2 * KEY * self.roster.labels + SEALED
        holders = [member for member in self.roster.members if member != dealer]
        at = size * holders.index(self._me)
        try:
            return (
                self._boxes[dealer].decrypt(sealed[at : at + size])
                if len(sealed) == size * len(holders)
                else b""
            )
        except NaclError:
            return b""

    def _secrets(self, label: int) -> tuple[bytes, bytes]:
        pairs, own = _cut(self._keys._secret[2 * KEY * label : 2 * KEY * (label + 1)])
        return pairs, own

    def _key(self, secret: bytes, label: int, what: bytes) -> bytes:
        text = self._context + label.to_bytes(4, "big") + what
        return blake2b(text, key=secret, digest_size=KEY, person=b"shoal/mask").digest()

    def _add_pair(self, words: Words, secret: bytes, member: int, other: int, label: int) -> None:
        """Add what the pair of `member`, whose secret this is, and another adds to the words of `member`."""
        shared = crypto_scalarmult(secret, self.roster.public(other, label, for_pairs=True))
        low, high = sorted((member, other))
        key = self._key(shared, label, low.to_bytes(4, "big") + high.to_bytes(4, "big"))
        Keystream(key).mask(words, is_minus=member != low)


class OpenedMasks:
    """What is left of the masks in the sums of the lists."""

    def __init__(
        self, masks: Masks, lists: Sequence[frozenset[int]], secrets: Mapping[tuple[int, int], bytes]
    ) -> None:
        """`secrets`: by member and label, what was joined."""
        self._masks, self._lists, self._secrets = masks, lists, secrets

    def __repr__(self) -> str:
        """Say no secret."""
        return f"OpenedMasks({len(self._lists)} labels)"

    def unhide(self, label: int, words: Words) -> None:
        """Take the masks from the sum of the words of a label's list, uint64 [n], in place."""
        masks, contributors = self._masks, self._lists[label]
        for member in masks.maskers:
            secret = self._secrets[member, label]
            if member in contributors:
                Keystream(masks._key(secret, label, b"self")).mask(words, is_minus=True)
                continue
            for other in sorted(contributors):
                # What the pair adds to the absent one is what the other lacks.
                masks._add_pair(words, secret, member, other, label)


def _few_of(holders: list[int], most: int) -> "list[tuple[int, ...]]":
    """Return the sets of up to two holders to leave out, the smallest first."""
    return [each for size in range(min(most, 2) + 1) for each in combinations(holders, size)]


def _public_half(secret: bytes, *, for_pairs: bool) -> bytes:
    """Return what all may see of a secret: a key to agree with, or a hash to know it by when opened."""
    if for_pairs:
        return crypto_scalarmult_base(secret)
    return blake2b(secret, digest_size=KEY, person=b"shoal/mask self").digest()


def _cut(keys: bytes) -> list[bytes]:
    return [keys[at : at + KEY] for at in range(0, len(keys), KEY)]
