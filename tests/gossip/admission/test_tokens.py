"""An invite is one word, which is whole or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosters import NOW, World, key, public

from shoal.gossip.admission import bech32m
from shoal.gossip.admission.errors import BadToken
from shoal.gossip.admission.grants import check_redeem
from shoal.gossip.admission.tokens import Token, token_of

WORLD = World()
ADDRESS = "/ip4/203.0.113.7/tcp/4710"


def token(**more: object) -> Token:
    fields: dict[str, object] = {
        "run": bytes(range(32)),
        "swarm": "shoal",
        "settings": {"task": "digits", "rounds": 50, "options": {"lr": 0.1}, "charter": str(WORLD.charter)},
        "inviter": public("carl"),
        "addresses": (ADDRESS,),
        "chain": (WORLD.grant("carl", "token"),),
        "seed": bytes(key("token")),
    }
    return Token(**{**fields, **more})  # type: ignore[arg-type]


def test_a_token_comes_back_from_its_text() -> None:
    text = token().text()
    assert text.startswith("shoal1")
    assert token_of(text) == token_of(text.upper()) == token_of(f" {text[:50]}\n{text[50:]} ") == token()


def test_a_newcomer_joins_with_what_the_token_holds() -> None:
    redeem = token_of(token().text()).redeem(key("dora"), NOW)
    assert redeem is not None
    check_redeem(redeem, WORLD.charter)


def test_a_named_token_holds_no_key_and_is_of_use_to_one() -> None:
    named = token(chain=(WORLD.grant("carl", "dora", is_named=True),), seed=b"")
    redeem = token_of(named.text()).redeem(key("dora"), NOW)
    assert redeem is not None
    check_redeem(redeem, WORLD.charter)
    with pytest.raises(BadToken, match="shoal invite --to"):
        named.redeem(key("emil"), NOW)


def test_a_token_of_an_open_run_needs_no_grant() -> None:
    assert token(chain=(), seed=b"").redeem(key("dora"), NOW) is None


def test_the_seed_is_in_no_repr() -> None:
    assert bytes(key("token")).hex() not in repr(token())
    assert repr(bytes(key("token")))[2:-1] not in repr(token())


@pytest.mark.parametrize("seed", [b"", b"short", bytes(32)])
def test_a_bearer_token_without_its_key_is_refused(seed: bytes) -> None:
    with pytest.raises(BadToken, match="lacks the key"):
        token_of(token(seed=seed).text())


@pytest.mark.parametrize("text", ["", "shoal1", "shoal1qqqqqq", "bc1qqqq", "x" * 9000, "ä"])
def test_other_text_is_no_token(text: str) -> None:
    with pytest.raises(BadToken):
        token_of(text)


@given(data=st.data())
def test_a_token_with_a_wrong_letter_is_refused(data: st.DataObject) -> None:
    text = token().text()
    place = data.draw(st.integers(6, len(text) - 1))
    letter = data.draw(st.sampled_from([each for each in bech32m.ALPHABET if each != text[place]]))
    with pytest.raises(BadToken, match="not an invite"):
        token_of(text[:place] + letter + text[place + 1 :])


@given(st.binary(max_size=300))
def test_bech32m_gives_bytes_back(data: bytes) -> None:
    assert bech32m.decode("shoal", bech32m.encode("shoal", data)) == data


@given(st.text(max_size=200))
def test_no_text_is_an_error_of_ours(text: str) -> None:
    with pytest.raises(BadToken):
        token_of("shoal1" + text)


def test_bech32m_is_that_of_bip_350() -> None:
    """Of the test vectors of that page, those whose data are whole bytes."""
    assert bech32m.decode("abcdef", "abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx")[:2] == bytes([255, 187])
    assert bech32m.decode("a", "a1lqfn3a") == b""
    assert bech32m.encode("a", b"") == "a1lqfn3a"
