"""The wire: golden vectors of every message, and every way in which bytes of a peer can be wrong."""

from hashlib import blake2b
from typing import Any

import msgpack
import msgspec
import numpy as np
import pytest
from nacl.signing import VerifyKey
from rosters import World, key, public

from shoal.crypto.envelope import seal
from shoal.crypto.keys import PeerId, key_from_seed, peer_id_of
from shoal.gossip import messages, wire
from shoal.gossip.admission.rotations import Rotation
from shoal.gossip.errors import RemoteViolation
from shoal.gossip.messages import Presence, Record, Records
from shoal.gossip.wire import OTHER_RUN, PLAIN, SIGNED, Codec, swarm_id

KEY = key_from_seed(bytes(range(32)))
ME = peer_id_of(bytes(KEY.verify_key))
OTHER_KEY = key_from_seed(bytes(range(1, 33)))
OTHER = peer_id_of(bytes(OTHER_KEY.verify_key))
RUN = b"r" * 32
HASH, BASE = b"h" * 32, b"b" * 32
GROUP, MASK = b"g" * 16, bytes([0, 0, 0, 0, 0, 0, 0, 5])
PRESENCE = Presence(RUN, "run", 7, HASH, BASE, "working", 12.0, (f"/ip4/192.0.2.1/tcp/4710/p2p/{ME}",))

ANNOUNCE = messages.Announce(GROUP, 0, 64.0, BASE, False, b"\0\0\x80\x3f" * 8, b"a" * 8, 0.125)
WORLD = World(delegates=1)
EDICT = WORLD.edict("ban", "mallory", until=1_700_000_000)
REDEEM = WORLD.redeem("dora", "token", WORLD.grant("carl", "token", uses=3))
ROTATION = Rotation(
    charter=WORLD.charter.id,
    under=WORLD.charter.first_founders.id,
    epoch=1,
    former=HASH,
    new=BASE,
    until=1_700_000_000,
    boxes=((public("dora"), b"x" * 80),),
).signed_by(key("ann"), key("bob"))

SIGNED_KINDS: tuple[messages.Message, ...] = (
    messages.Leave(),
    messages.Describe(b"spec"),
    messages.RosterNews(WORLD.charter.id, (EDICT,), (REDEEM,)),
    messages.RosterDigest(WORLD.charter.id, bytes(range(128))),
    messages.RosterHave(WORLD.charter.id, bytes(range(128)), b"eight..." * 2, True),
    messages.RosterKeys(WORLD.charter.id, (ROTATION,)),
    messages.Ready(7, BASE, 300, 1.5, 2, True),
    messages.Propose(7, BASE, 1, 12345, (ME, OTHER), (1, 2), 3, MASK),
    messages.Accept(7, 1, 12345, MASK),
    messages.Decline(7, 1, 12345),
    messages.Commit(7, BASE, 1, 12345, ME, (ME, OTHER), (1, 2), 3, MASK),
    messages.Unheard(7, 1, 12345, MASK),
    ANNOUNCE,
    messages.Unannounced(GROUP, 0, MASK),
    messages.Yield(GROUP, 0, 2, 1),
    messages.Claim(GROUP, 0, 2, 1),
    messages.Alive(GROUP, 0, 1 << 20),
    messages.Cut(GROUP, 0, OTHER),
    messages.Abandon(GROUP, 0),
    messages.Done(GROUP, 0, b"o" * 16),
    messages.Digest(GROUP, 0, HASH, b"a" * 8),
    messages.Missing(GROUP, 0, (0, 3)),
    messages.Want(HASH),
    messages.NotHeld(HASH),
    messages.Fetch(HASH, (0, 1, 70000)),
    messages.Wait(HASH),
    messages.Settle(1 << 50),
    messages.Applied(1 << 50, 5),
    messages.Coming(1 << 50, 5, 1 << 20),
    messages.Roles((messages.RoleOffer("host", True),), 4.0, False, 12.0),
    messages.Unserved(RUN, "forward", b"7/0", "busy"),
)
BULK_KINDS: tuple[messages.Message, ...] = (
    messages.Part(GROUP, 0, 2, 70000, 1),
    messages.Reduced(GROUP, 0, 2, 70000, 1, MASK, b"d" * 16),
    messages.Reveal(GROUP, 0, 3),
    messages.Offer(HASH, BASE, 7, 35880),
    messages.Chunk(HASH, 70000),
    messages.Push(1 << 50, 5, 70000, 0.75),
    messages.Call(RUN, "forward", b"7/0", (("z", (64, 11, 32)),), True),
    messages.Answer(RUN, "forward", b"7/0", (("y", (64, 10)),)),
    messages.Near((f"/ip4/192.168.1.7/tcp/4710/p2p/{ME}",)),
)
OPENED_KINDS: tuple[messages.Message, ...] = (messages.SealedWords(7, (b"sealed",)),)
"""What is made of words that are opened one by one."""
BODIES = {
    "Roles": "95a5526f6c65739192a4686f7374c3cb4010000000000000c2cb4028000000000000",
    "Unserved": (
        "95a8556e736572766564c4207272727272727272727272727272727272727272727272727272727272727272a7666f72"
        "77617264c403372f30a462757379"
    ),
    "Call": (
        "96a443616c6cc4207272727272727272727272727272727272727272727272727272727272727272a7666f7277617264"
        "c403372f309192a17a93400b20c3"
    ),
    "Answer": (
        "95a6416e73776572c4207272727272727272727272727272727272727272727272727272727272727272a7666f727761"
        "7264c403372f309192a17992400a"
    ),
    "Unannounced": "94ab556e616e6e6f756e636564c4106767676767676767676767676767676700c4080000000000000005",
    "Announce": (
        "9aa8416e6e6f756e6365c4106767676767676767676767676767676700cb4050000000000000c4206262626262626262"
        "626262626262626262626262626262626262626262626262c2c4200000803f0000803f0000803f0000803f0000803f00"
        "00803f0000803f0000803fc4086161616161616161cb3fc0000000000000c400"
    ),
    "Push": "95a450757368cf000400000000000005ce00011170cb3fe8000000000000",
    "Settle": "92a6536574746c65cf0004000000000000",
    "Applied": "93a74170706c696564cf000400000000000005",
    "Coming": "94a6436f6d696e67cf000400000000000005ce00100000",
    "Near": (
        "92a44e65617291d9522f6970342f3139322e3136382e312e372f7463702f343731302f7032702f313244334b6f6f5741"
        "34586f70314a6154334d487877594d6b436570597376346950566f704d5877437a35694859644266655342"
    ),
    "Leave": "91a54c65617665",
    "Describe": "92a84465736372696265c40473706563",
    "RosterNews": (
        "94aa526f737465724e657773c42016bc4b43d6bdab7a4b47764ddfd8d94a71e5ad7c70149d8ef5ff4a498bb84722919a"
        "c42016bc4b43d6bdab7a4b47764ddfd8d94a71e5ad7c70149d8ef5ff4a498bb84722c420650d9771feee857db932bc57"
        "418f2dda80434d43c3197bcd4c76c91cb8e5abdb01a362616ec4206add0cee9d2dfa2c49f4c4bc62b99e6d10e52192ab"
        "6633ae193006b3ffac455fce6553f100a090009292c420108806cd5ef9c9367d9d5e620c71ecaf69c2d6034544b4e314"
        "82273c0217fe73c440d2d40f1af8b49515c97a3393f8b195a19564a0afd25bf792919729cc6060a6e34393a64fe6e69f"
        "277580150d53a4f3a25381449703ad077d68c7fb3e16d9410792c42066681631128accf1095288e8f0bb5b6adcdad3d3"
        "a4d780e1198fd5ff8cfede65c44031155d8536ac91716c02d89567a2f0313a2c2c6361b4cd0afa1bcc1688c3074e0d35"
        "bc8134a337974fb75f91ec78baf1e9b1522e1e5546f0279f8c80c6e842039195919bc42016bc4b43d6bdab7a4b47764d"
        "dfd8d94a71e5ad7c70149d8ef5ff4a498bb84722c4208badb29cdfb9bcf35a8162e2f314ff4a2bc0c1e76f418b11cdd8"
        "4db4a64fd42ac42049ac0d59a56ea0a14fd0a307a57464d907b3af4e246148587ebced8a245fc1f6c410000000000000"
        "00000000000000000000ce001093c0c400c2030000c440dfbb42ecf4cb045c93f96878b0f526ff6e80dc091be073a7f3"
        "645884ed5499963d0a144d5ef7b0baecaa9010c673cebd27cde4149e70e8430c590d8a6c3a0e03c4206922ccfa637219"
        "b800c5978c77eb8bbc2d6cb9d96cd0c0e5ede9a625e27d9188ce000f4240c4402a03c3e5b81960677ba001f2863c7b7d"
        "6aaf41739182ed2c2339868619c253354e20200f59ea413d50640572ce5ee4fff694d5bf503580cb41bc6befbf91bf08"
        "c4409a8afd85af03a955840e1e2dd96a00632c507c4b199cd023ae7c30a237367929da567fc3dee812db1f298d838931"
        "e958526d2f08b67365739d86c53f36307a0b"
    ),
    "RosterDigest": (
        "93ac526f73746572446967657374c42016bc4b43d6bdab7a4b47764ddfd8d94a71e5ad7c70149d8ef5ff4a498bb84722"
        "c480000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d"
        "2e2f303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d"
        "5e5f606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f"
    ),
    "RosterHave": (
        "95aa526f7374657248617665c42016bc4b43d6bdab7a4b47764ddfd8d94a71e5ad7c70149d8ef5ff4a498bb84722c480"
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f"
        "303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f"
        "606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7fc41065696768742e2e2e65696768742e"
        "2e2ec3"
    ),
    "RosterKeys": (
        "93aa526f737465724b657973c42016bc4b43d6bdab7a4b47764ddfd8d94a71e5ad7c70149d8ef5ff4a498bb847229198"
        "c42016bc4b43d6bdab7a4b47764ddfd8d94a71e5ad7c70149d8ef5ff4a498bb84722c420650d9771feee857db932bc57"
        "418f2dda80434d43c3197bcd4c76c91cb8e5abdb01c42068686868686868686868686868686868686868686868686868"
        "68686868686868c4206262626262626262626262626262626262626262626262626262626262626262ce6553f1009192"
        "c4206922ccfa637219b800c5978c77eb8bbc2d6cb9d96cd0c0e5ede9a625e27d9188c450787878787878787878787878"
        "787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878"
        "78787878787878787878787878787878787878789292c420108806cd5ef9c9367d9d5e620c71ecaf69c2d6034544b4e3"
        "1482273c0217fe73c440b6675389975b3ff77c95a06ab564d6532f3c6b3b3c147ce70900f31825f888057b4673b2bf0e"
        "5b9cd3a7548e74100f6b7cc5497b9e185bf3e7a1b95ad771690a92c42066681631128accf1095288e8f0bb5b6adcdad3"
        "d3a4d780e1198fd5ff8cfede65c44049db294274c72ed16e6a789941b17ab35e7be933d9beb13fa2f4b75f36a48962dc"
        "ed550deecbdd949a6017d78736e87125d2d3ec0e917827431f66fa020c7404"
    ),
    "Ready": (
        "97a5526561647907c4206262626262626262626262626262626262626262626262626262626262626262cd012ccb3ff8"
        "00000000000002c3"
    ),
    "Propose": (
        "99a750726f706f736507c420626262626262626262626262626262626262626262626262626262626262626201cd3039"
        "92d934313244334b6f6f574134586f70314a6154334d487877594d6b436570597376346950566f704d5877437a356948"
        "59644266655342d934313244334b6f6f574a315473696a48374835463734686641443558697368517a337378726d4174"
        "5659333747744e64394371596692010203c4080000000000000005"
    ),
    "Decline": "94a74465636c696e650701cd3039",
    "Accept": "95a64163636570740701cd3039c4080000000000000005",
    "Commit": (
        "9aa6436f6d6d697407c420626262626262626262626262626262626262626262626262626262626262626201cd3039d9"
        "34313244334b6f6f574134586f70314a6154334d487877594d6b436570597376346950566f704d5877437a3569485964"
        "426665534292d934313244334b6f6f574134586f70314a6154334d487877594d6b436570597376346950566f704d5877"
        "437a35694859644266655342d934313244334b6f6f574a315473696a48374835463734686641443558697368517a3373"
        "78726d41745659333747744e64394371596692010203c4080000000000000005"
    ),
    "Unheard": ("95a7556e68656172640701cd3039c4080000000000000005"),
    "SealedWords": ("93ab5365616c6564576f7264730791c4067365616c6564"),
    "Yield": "95a55969656c64c41067676767676767676767676767676767000201",
    "Claim": "95a5436c61696dc41067676767676767676767676767676767000201",
    "Alive": "94a5416c697665c4106767676767676767676767676767676700ce00100000",
    "Cut": (
        "94a3437574c4106767676767676767676767676767676700d934313244334b6f6f574a315473696a48374835463734686641"
        "443558697368517a337378726d41745659333747744e643943715966"
    ),
    "Abandon": "93a74162616e646f6ec4106767676767676767676767676767676700",
    "Done": ("94a4446f6e65c4106767676767676767676767676767676700c4106f6f6f6f6f6f6f6f6f6f6f6f6f6f6f6f"),
    "Digest": (
        "95a6446967657374c4106767676767676767676767676767676700c42068686868686868686868686868686868686868"
        "68686868686868686868686868c4086161616161616161"
    ),
    "Missing": "94a74d697373696e67c4106767676767676767676767676767676700920003",
    "Want": ("92a457616e74c4206868686868686868686868686868686868686868686868686868686868686868"),
    "NotHeld": ("92a74e6f7448656c64c4206868686868686868686868686868686868686868686868686868686868686868"),
    "Fetch": (
        "93a54665746368c4206868686868686868686868686868686868686868686868686868686868686868930001ce00011170"
    ),
    "Wait": ("92a457616974c4206868686868686868686868686868686868686868686868686868686868686868"),
    "Part": ("96a450617274c410676767676767676767676767676767670002ce0001117001"),
    "Reduced": (
        "98a752656475636564c410676767676767676767676767676767670002ce0001117001c4080000000000000005c41064"
        "646464646464646464646464646464"
    ),
    "Reveal": "94a652657665616cc410676767676767676767676767676767670003",
    "Offer": (
        "95a54f66666572c4206868686868686868686868686868686868686868686868686868686868686868c4206262626262"
        "62626262626262626262626262626262626262626262626262626207cd8c28"
    ),
    "Chunk": ("93a54368756e6bc4206868686868686868686868686868686868686868686868686868686868686868ce00011170"),
}
"""The body of each kind: a msgpack array of the kind's name and its fields, in order."""
RECORD = bytes.fromhex(
    "00629601c410efadeb16e31332fb12a6160fb837ca33c420727272727272727272727272727272727272727272727272"
    "7272727272727272a850726573656e636537c42003a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664"
    "125531b89ca850726573656e6365c4207272727272727272727272727272727272727272727272727272727272727272"
    "a372756e07c4206868686868686868686868686868686868686868686868686868686868686868c42062626262626262"
    "62626262626262626262626262626262626262626262626262a7776f726b696e67cb402800000000000091d9502f6970"
    "342f3139322e302e322e312f7463702f343731302f7032702f313244334b6f6f574134586f70314a6154334d48787759"
    "4d6b436570597376346950566f704d5877437a35694859644266655342c290c2e9d254ca5f9638703f7ae6981ab2b8fd"
    "11a26cfc6826b67f0670d91e0d006d261fd90bb4bf54ef33f82e58a70efb1329d596b1f55dd88fc4859f460746f71b05"
)
"""`PRESENCE`, sealed by its author with sequence 55, as GossipSub carries it."""
FRAME = bytes.fromhex(
    "00005f9601c410efadeb16e31332fb12a6160fb837ca33c4207272727272727272727272727272727272727272727272"
    "727272727272727272a54c6561766565c42003a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc86641255"
    "31b891a54c65617665246df791684ae754fbda7cb041c63124ed7c32849c219fdf2fb4710d53f38d89f454118a3bbfda"
    "d0e548eadfe04b70f001a260685455ecba012adf3ff7e6ae0e"
)
"""The head of the frame of the first `Leave`, with sequence 101."""

encode = msgspec.msgpack.Encoder().encode


def codec(key: Any = KEY, swarm: str = "shoal", run: bytes = RUN, sequence: int = 100) -> Codec:
    made = Codec(key, swarm, sequence)
    made.run = run
    return made


def name(message: messages.Message) -> str:
    return type(message).__name__


def refusal(head: bytes, data_bytes: int = 0, *, peer: PeerId = ME, by: Codec | None = None) -> str:
    """Return why a frame is refused."""
    with pytest.raises(RemoteViolation) as caught:
        (by or codec(OTHER_KEY)).decode(peer, head, data_bytes)
    return caught.value.reason


def signed(kind: str, body: bytes, **changes: Any) -> bytes:
    parts: dict[str, Any] = {"swarm": swarm_id("shoal"), "run": RUN, "sequence": 5, **changes}
    return SIGNED + seal(KEY, kind=kind, body=body, **parts)


# --- golden vectors -------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [*SIGNED_KINDS, *BULK_KINDS, *OPENED_KINDS], ids=name)
def test_every_kind_has_its_golden_body(message: messages.Message) -> None:
    assert encode(message).hex() == BODIES[name(message)]


def test_there_is_a_golden_body_of_every_kind() -> None:
    kinds = {kind.__name__ for kind in messages.Wire.__args__}
    assert BODIES.keys() == kinds - {"SealedRecords", "SealedAnnouncements"}, "which hold sealed words"


def test_a_frame_and_a_record_are_the_golden_vectors() -> None:
    assert codec().encode(messages.Leave()) == FRAME
    assert codec().encode_announcement(Records(((Record(ME, 55, PRESENCE), 0.0),))) == RECORD


# --- the same, read by another's msgpack ----------------------------------------------------------


def plain(value: object) -> object:
    """Return what a message is to who knows nothing of our classes: an array of its kind and its fields."""
    if isinstance(value, msgspec.Struct):
        fields = [plain(getattr(value, each)) for each in value.__struct_fields__]
        return [name(value), *fields] if isinstance(value, messages.Message) else fields
    return [plain(each) for each in value] if isinstance(value, tuple) else value


def opened(sealed: bytes) -> tuple[list[Any], object]:
    """Return head and body of an envelope as docs/wire.md describes it; its signature is checked."""
    end = 2 + int.from_bytes(sealed[:2], "big")
    head, body, signature = sealed[2:end], sealed[end:-64], sealed[-64:]
    fields = msgpack.unpackb(head)
    digests = b"".join(blake2b(each, digest_size=32).digest() for each in (head, body))
    VerifyKey(fields[5]).verify(b"shoal/envelope/1\0" + digests, signature)
    return fields, msgpack.unpackb(body)


@pytest.mark.parametrize("message", [*SIGNED_KINDS, *BULK_KINDS], ids=name)
def test_every_golden_body_says_the_same_to_another_msgpack(message: messages.Message) -> None:
    body = bytes.fromhex(BODIES[name(message)])
    assert msgpack.unpackb(body) == plain(message)
    assert msgpack.packb(plain(message)) == body, "the shortest form of every value"


def test_the_golden_frame_and_record_say_the_same_to_another_msgpack() -> None:
    swarm, key = blake2b(b"shoal", digest_size=16, person=b"shoal/swarm").digest(), bytes(KEY.verify_key)
    assert FRAME[:1] == b"\0"
    assert opened(FRAME[1:]) == ([1, swarm, RUN, "Leave", 101, key], ["Leave"])
    assert opened(RECORD) == ([1, swarm, RUN, "Presence", 55, key], plain(PRESENCE))


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [*SIGNED_KINDS, *BULK_KINDS], ids=name)
def test_every_kind_travels_whole(message: Any) -> None:
    head = codec().encode(message)
    found: Any = codec(OTHER_KEY).decode(ME, head, 0)
    if isinstance(message, messages.Announce):
        message = messages.Announcements(GROUP, 0, (messages.SignedAnnounce(ME, message, head[1:]),))
    assert found == message


def test_announcements_of_others_are_handed_on_as_their_authors_sealed_them() -> None:
    told = codec(OTHER_KEY).decode(ME, codec().encode(ANNOUNCE), 0)
    head = codec(OTHER_KEY).encode(told)
    assert codec().decode(OTHER, head, 0) == told


@pytest.mark.parametrize(
    ("sealed", "reason"),
    [
        (RECORD, "kind does not match"),
        (b"", "bad envelope"),
        (signed("Announce", encode(messages.Leave()))[1:], "kind does not match"),
        (signed("Announce", encode(ANNOUNCE), run=HASH)[1:], "kind does not match"),
        (
            signed("Announce", encode(msgspec.structs.replace(ANNOUNCE, index=1)))[1:],
            "announcement of another exchange",
        ),
        (
            signed("Announce", encode(msgspec.structs.replace(ANNOUNCE, weight=float("nan"))))[1:],
            "malformed message",
        ),
        *(
            (
                signed("Announce", encode(msgspec.structs.replace(ANNOUNCE, discount=discount)))[1:],
                "malformed message",
            )
            for discount in (0.0, -0.5, 1.001, float("nan"), float("inf"))
        ),
    ],
)
def test_what_is_handed_on_must_be_announced_in_this_exchange(sealed: bytes, reason: str) -> None:
    body = encode(messages.SealedAnnouncements(GROUP, 0, (sealed,)))
    assert refusal(signed("SealedAnnouncements", body)) == reason


def test_records_of_others_are_handed_on_as_their_authors_sealed_them() -> None:
    theirs = codec(OTHER_KEY).open_record(RECORD)
    assert (theirs.author, theirs.sequence, theirs.presence, theirs.sealed) == (ME, 55, PRESENCE, RECORD)
    ours = Record(OTHER, 9, Presence(b"", "", 0, b"", b"", "helping", 12.0))
    head = codec(OTHER_KEY).encode(Records(((ours, 0.0), (theirs, 2.5)), reply=True))
    found = codec().decode(OTHER, head, 0)
    assert isinstance(found, Records)
    assert found.reply
    assert [(record.author, record.sequence, record.presence, age) for record, age in found.records] == [
        (OTHER, 9, ours.presence, 0.0),
        (ME, 55, PRESENCE, 2.5),
    ]
    assert found.records[1][0].sealed == RECORD


def sealed_ready(run: bytes = RUN) -> bytes:
    """Return what a peer signed when it was ready, as who shows it has kept it."""
    return codec(OTHER_KEY, run=run).encode(messages.Ready(7, BASE))[1:]


def test_words_about_a_group_are_shown_as_their_authors_sealed_them() -> None:
    words = tuple(
        messages.Signed(OTHER, word, codec(OTHER_KEY).encode(word)[1:])
        for word in (messages.Ready(7, BASE, 300), messages.Accept(7, 1, 12345, MASK))
    )
    shown = messages.Shown(7, words)
    assert codec(OTHER_KEY).decode(ME, codec().encode(shown), 0) == shown


@pytest.mark.parametrize(
    ("sealed", "reason"),
    [
        (sealed_ready()[:-1] + b"!", "bad envelope"),
        (sealed_ready(run=HASH), "other run"),
        (RECORD, "malformed message"),
        (codec().encode(messages.Decline(7, 1, 12345))[1:], "kind does not match"),
        (bytes(messages.MAX_WORD_BYTES + 1), "malformed message"),
    ],
)
def test_a_word_that_its_author_did_not_sign_for_this_run_is_not_shown(sealed: bytes, reason: str) -> None:
    assert refusal(signed("SealedWords", encode(messages.SealedWords(7, (sealed,))))) == reason


def test_no_more_words_are_opened_than_a_group_has_members() -> None:
    words = (sealed_ready(),) * (messages.MAX_GROUP + 1)
    assert refusal(signed("SealedWords", encode(messages.SealedWords(7, words)))) == "malformed message"


def test_a_record_is_opened_once_however_often_it_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = codec(OTHER_KEY)
    first = opened.open_record(RECORD)
    monkeypatch.setattr(wire, "open_envelope", pytest.fail)
    assert opened.open_record(bytes(RECORD)) is first


def test_of_each_author_the_last_two_records_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = codec(OTHER_KEY)
    sealed = [
        codec().encode_announcement(Records(((Record(ME, sequence, PRESENCE), 0.0),)))
        for sequence in range(10)
    ]
    for each in sealed:
        opened.open_record(each)
    assert list(opened._opened) == sealed[-2:]
    monkeypatch.setattr(wire, "open_envelope", pytest.fail)
    assert [opened.open_record(each).sequence for each in sealed[-2:]] == [8, 9]


def test_memory_of_opened_records_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_AUTHORS", 3)
    opened = codec(OTHER_KEY)
    for number in range(10):
        key = key_from_seed(bytes([number]) * 32)
        author = peer_id_of(bytes(key.verify_key))
        opened.open_record(codec(key).encode_announcement(Records(((Record(author, 1, PRESENCE), 0.0),))))
    assert len(opened._opened) == len(opened._recent) == 3


def test_every_frame_has_a_sequence_of_its_own() -> None:
    sender, receiver = codec(), codec(OTHER_KEY)
    for _ in range(3):
        receiver.decode(ME, sender.encode(messages.Leave()), 0)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_of_a_signed_frame_is_refused(bit: int) -> None:
    for index in range(len(FRAME)):
        altered = bytearray(FRAME)
        altered[index] ^= 1 << bit
        refusal(bytes(altered))


def test_every_flipped_byte_of_a_record_is_refused() -> None:
    opened = codec(OTHER_KEY)
    for index in range(len(RECORD)):
        altered = bytearray(RECORD)
        altered[index] ^= 0x40
        with pytest.raises(RemoteViolation, match="bad envelope"):
            opened.open_record(bytes(altered))


def test_every_cut_of_a_signed_frame_is_refused() -> None:
    assert refusal(b"") == "malformed frame"
    for length in range(1, len(FRAME)):
        assert refusal(FRAME[:length]) == "bad envelope"
    assert refusal(FRAME + b"\x00") == "bad envelope"


def test_a_replayed_frame_is_refused() -> None:
    receiver = codec(OTHER_KEY)
    receiver.decode(ME, FRAME, 0)
    assert refusal(FRAME, by=receiver) == "replayed"
    receiver.decode(ME, signed("Leave", encode(messages.Leave()), sequence=100_000), 0)
    assert refusal(signed("Leave", encode(messages.Leave()), sequence=99_000), by=receiver) == "replayed"


def test_a_frame_of_another_swarm_is_refused() -> None:
    assert refusal(codec(swarm="another").encode(messages.Leave())) == "other swarm"
    record = codec(swarm="another").encode_announcement(Records(((Record(ME, 1, PRESENCE), 0.0),)))
    with pytest.raises(RemoteViolation, match="other swarm"):
        codec(OTHER_KEY).open_record(record)


@pytest.mark.parametrize("message", SIGNED_KINDS, ids=name)
def test_only_what_concerns_a_run_is_refused_from_another_run(message: Any) -> None:
    head = codec(run=b"x" * 32).encode(message)
    if isinstance(message, wire.OF_A_RUN):
        assert refusal(head) == OTHER_RUN
    else:
        assert codec(OTHER_KEY).decode(ME, head, 0) == message


def test_a_frame_that_another_has_signed_is_refused() -> None:
    assert refusal(codec(OTHER_KEY).encode(messages.Leave()), by=codec()) == "not signed by the link's peer"


@pytest.mark.parametrize("message", SIGNED_KINDS, ids=name)
def test_unsigned_control_is_refused(message: messages.Message) -> None:
    assert refusal(PLAIN + encode(message)) == "unsigned control message"


@pytest.mark.parametrize("message", BULK_KINDS, ids=name)
def test_signed_bulk_is_refused(message: messages.Message) -> None:
    assert refusal(signed(name(message), encode(message))) == "kind does not match"


def test_a_body_of_another_kind_than_the_envelope_says_is_refused() -> None:
    assert refusal(signed("Want", encode(messages.Leave()))) == "kind does not match"
    assert refusal(signed("Presence", encode(messages.Leave()))) == "kind does not match"
    assert refusal(signed("Presence", encode(PRESENCE))) == "malformed message"


def test_a_signed_frame_with_data_beside_it_is_refused() -> None:
    assert refusal(FRAME, 1) == "malformed frame"


def test_a_signed_frame_that_is_too_large_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "open_envelope", pytest.fail)
    assert refusal(SIGNED + bytes(wire.MAX_CONTROL_BYTES)) == "malformed frame"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        encode(None),
        encode({}),
        encode([]),
        encode(["Nothing"]),
        encode([5, HASH]),
        encode(["Want"]),
        encode(["Want", HASH[:-1]]),
        encode(["Want", HASH + b"h"]),
        encode(["Want", "h" * 32]),
        encode(["Want", HASH, 1]),
        encode(["Ready", -1, BASE]),
        encode(["Ready", (1 << 40) + 1, BASE]),
        encode(["Ready", 7, BASE, 1 << 31]),
        encode(["Ready", 7, BASE, 1, float("nan")]),
        encode(["Ready", 7, BASE, 1, float("inf")]),
        encode(["Ready", 7, BASE, 1, -1.0]),
        encode(["Ready", 7, BASE, 1, 1.0, 65]),
        encode(["Propose", 7, BASE, 0, 0, [], []]),
        encode(["Propose", 7, BASE, 0, 0, [ME] * 65, [1]]),
        encode(["Propose", 7, BASE, 0, 0, ["x" * 65], [1]]),
        encode(["Propose", 7, BASE, 0, 0, [ME], [1] * 65]),
        encode(["Propose", 7, BASE, 0, 1 << 53, [ME], [1]]),
        encode(["Accept", 7, 1 << 17, 0, MASK]),
        encode(["Accept", 7, 0, 0, MASK[:-1]]),
        encode(["Claim", GROUP, 7000, 0, 0]),
        encode(["Claim", GROUP[:-1], 0, 0, 0]),
        encode(["Claim", GROUP, 0, 64, 0]),
        encode(["Missing", GROUP, 0, []]),
        encode(["Missing", GROUP, 0, [0] * 65]),
        encode(["Fetch", HASH]),
        encode(["Fetch", HASH, [0] * 65]),
        encode(["Fetch", HASH, [(1 << 31) + 1]]),
        encode(["Describe", bytes(200_001)]),
        encode(["SealedRecords", [[b"", 0.0]] * 33]),
        encode(["SealedRecords", [[bytes(4097), 0.0]]]),
        encode(["SealedRecords", [[b"", -1.0]]]),
        encode(["SealedRecords", [[b"", float("nan")]]]),
        encode(["SealedRecords", [[b""]]]),
        encode(["Leave"])[:-1],
        encode(["Leave"]) + b"\x00",
        b"\x91\xa5\xff\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff\xa5Leave",
        b"\x92\xa4Want\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000,
    ],
)
def test_a_body_of_a_wrong_form_is_refused(body: bytes) -> None:
    kind = "Ready"
    assert refusal(signed(kind, body)) == "malformed message"
    assert refusal(PLAIN + body) == "malformed message"


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -float("inf"), -1.0, 1e16])
def test_a_weight_that_would_spoil_a_mean_is_refused(weight: float) -> None:
    part = encode(["Part", GROUP, 0, 0, 0, 0, weight])
    assert refusal(PLAIN + part, 4) in ("malformed message", "weight is not finite")


@pytest.mark.parametrize(
    "change",
    [
        {"run": b"x" * 32},
        {"lease": 0.0},
        {"lease": 601.0},
        {"lease": float("nan")},
        {"addresses": ("/ip4/192.0.2.1/tcp/1",) * 9},
        {"addresses": ("x" * 257,)},
        {"phase": "x" * 17},
        {"round": -1},
        {"state": HASH + b"h"},
    ],
)
def test_a_record_of_a_wrong_form_is_refused(change: dict[str, Any]) -> None:
    presence = msgspec.structs.replace(PRESENCE, **change)
    sealed = signed("Presence", encode(presence))[1:]
    with pytest.raises(RemoteViolation, match="malformed record"):
        codec(OTHER_KEY).open_record(sealed)
    head = signed("SealedRecords", encode(messages.SealedRecords(((sealed, 0.0),))))
    assert refusal(head) == "malformed record"


def test_a_record_too_large_to_be_handed_on_is_refused() -> None:
    wide = msgspec.structs.replace(PRESENCE, addresses=("\U0001f40b" * 256,) * 8)
    sealed = signed("Presence", encode(wide))[1:]
    assert len(sealed) > messages.MAX_RECORD_BYTES
    with pytest.raises(RemoteViolation, match="malformed record"):
        codec(OTHER_KEY).open_record(sealed)


def test_no_other_message_passes_for_a_record() -> None:
    with pytest.raises(RemoteViolation, match="kind does not match"):
        codec(OTHER_KEY).open_record(FRAME[1:])


def test_random_bytes_raise_nothing_but_a_violation() -> None:
    dice = np.random.default_rng(0)
    receiver = codec(OTHER_KEY)
    for length in dice.integers(0, 300, 2000):
        for lane in (b"", SIGNED, PLAIN):
            refusal(lane + b"\xc1" + dice.bytes(int(length)), by=receiver)
