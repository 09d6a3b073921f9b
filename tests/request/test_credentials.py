"""Credentials: each login counts as one client, whatever spelling of it an application accepts."""

from __future__ import annotations

import base64
import random

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from limiter.request.credentials import credentials
from limiter.request.key import Key

JWT = b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhY21lIn0.c2lnbmF0dXJlIG9mIDMyIGJ5dGVzIGluIGFsbCE"


def basic(login: bytes) -> bytes:
    return b"Basic " + base64.b64encode(login)


def find(value: bytes) -> str | None:
    """Return the app_id for this value of the header."""
    return Key("header:Authorization").find({b"HTTP_AUTHORIZATION": value}.get)


@pytest.mark.parametrize(
    ("value", "counts_as"),
    [
        (basic(b"acme:secret"), b"acme"),
        (basic(b"acme:"), b"acme"),
        (basic(b"acme:a:b"), b"acme"),
        (basic(b" acme :x"), b"acme"),
        (basic("J\u00f6rg:x".encode()), "J\u00f6rg".encode()),
        (b"bASIC   YWNtZTp4", b"acme"),
        (b"Bearer t/n-._~+", b"Bearer t/n-._~+"),
        (b"BEARER \t token", b"Bearer token"),
        (b"Bearer token==", b"Bearer token"),
        (b"Bearer " + JWT, b"Bearer " + JWT),
        (b"Bearer " + JWT + b"=", b"Bearer " + JWT),
        (b"Bearer eyJ", b"Bearer eyJ"),  # no dot, so it is no JSON web token
        (b"Bearer eyJ0.eyJ0.", b"Bearer eyJ0.eyJ0."),  # without a signature
        (b"token abc=", b"Token abc"),
        (b"acme", b"acme"),
        (b"acme=", b"acme"),
        (b"acme!", b"acme!"),
        (JWT, JWT),
        (JWT + b"=", JWT),
    ],
)
def test_what_credentials_count_as(value: bytes, counts_as: bytes) -> None:
    assert credentials(value) == (counts_as, "")


BASIC = "is not the canonical base64"
WRONG = [
    (b"Basic", "without credentials"),
    (b"bearer", "without credentials"),
    (b"Basic acme:secret", BASIC),
    (b"Basic YWNtZTp4=", BASIC),
    (b"Basic YWNtZTp4====", BASIC),
    (b"Basic YWNtZTp4!", BASIC),
    (b"Basic YWNt ZTp4", BASIC),
    (b"Basic YWNtZTp4\x0b", BASIC),
    (b"Basic YWNtZTp4YQ", BASIC),  # without its padding
    (b"Basic YWNtZTp4YR==", BASIC),  # with bits that decode to nothing
    (b"Basic YWNtZTp4YQ==YQ==", BASIC),
    (b"Basic YWNtZQ==", BASIC),  # no colon
    (b"Basic ====", BASIC),
    (basic(b"ac\nme:x"), BASIC),
    (basic(b"acme:x\0"), BASIC),
    (basic(b"acme\x7f:x"), BASIC),
    (basic(b":secret"), "empty name"),
    (basic(b" :secret"), "empty name"),
    (b"Basic 8J+YgDp4\xff", BASIC),
    (b"Bearer ==", "is not a token"),
    (b"Bearer a b", "is not a token"),
    (b"Bearer a,b", "is not a token"),
    (b'Bearer "a"', "is not a token"),
    (b"Bearer a=b", "is not a token"),
    (b"Bearer t\xc3\xb6", "is not a token"),
    (b"Bearer " + JWT[:-1] + b"F", "JSON web token"),  # bits that decode to nothing
    (b"Bearer " + JWT[:-4] + b"~" + JWT[-4:], "JSON web token"),
    (b"Bearer " + JWT[:-4] + b"+" + JWT[-3:], "JSON web token"),
    (b"Bearer " + JWT + b".x", "JSON web token"),  # a part of one letter
    (JWT[:-1] + b"F", "JSON web token"),
    (b'Token token="abc"', "several spellings"),
    (b"Digest username=acme", "several spellings"),
]


@pytest.mark.parametrize(("value", "reason"), WRONG)
def test_credentials_in_another_spelling_are_refused_with_a_reason(value: bytes, reason: str) -> None:
    """The reason contains no part of them.  Nobody is admitted by them."""
    counts_as, why = credentials(value)
    assert counts_as == b""
    assert reason in why
    assert find(value) is None


def test_a_user_counts_by_name_and_not_by_password() -> None:
    assert find(basic(b"acme:one")) == find(basic(b"acme:two")) == "acme"
    assert find(basic(b"Acme:one")) == "Acme"


LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def spelled(text: bytes, last: bytes, chance: random.Random) -> bytes:
    """Return base64 that a lenient decoder reads as this.

    ``last`` are the two letters for 62 and 63: bits of the last letter that decode to nothing may be set,
    letters that are not base64 may stand anywhere, and ``=`` at the end.
    """
    alphabet = LETTERS + last
    bare = text.rstrip(b"=")
    free = {2: 16, 3: 4}.get(len(bare) % 4, 1)
    if bare:
        value = alphabet.index(bare[-1:]) // free * free + chance.randrange(free)
        bare = bare[:-1] + alphabet[value : value + 1]
    padded = bare + b"=" * (-len(bare) % 4 + chance.choice([0, 0, 1, 4]))
    at = chance.randint(0, len(bare))
    junk = bytes(chance.choices(b"!~:,*\r\x0b \xff", k=chance.choice([0, 0, 1, 2])))
    return padded[:at] + junk + padded[at:]


@given(st.binary(min_size=1, max_size=9), st.binary(max_size=9), st.randoms(use_true_random=False))
def test_no_spelling_of_a_basic_login_is_another_client(
    name: bytes, password: bytes, chance: random.Random
) -> None:
    login = name.replace(b":", b";") + b":" + password
    text = base64.b64encode(login)
    other = spelled(text, b"+/", chance)
    assert base64.b64decode(other) == login
    assert find(b"basic " + other) in (find(basic(login)), None)


@given(st.binary(min_size=1, max_size=9), st.randoms(use_true_random=False))
def test_no_spelling_of_a_web_token_is_another_client(signature: bytes, chance: random.Random) -> None:
    signed = JWT.rpartition(b".")[0] + b"."
    text = base64.urlsafe_b64encode(signature).rstrip(b"=")
    other = spelled(text, b"-_", chance)
    if chance.random() < 0.5:
        other = other.replace(b"-", b"+").replace(b"_", b"/")
    assert base64.urlsafe_b64decode(other + b"==") == signature
    app_id = find(b"Bearer " + signed + text)
    assert app_id is not None
    assert find(b"Bearer " + signed + other) in (app_id, None)


@given(st.binary(max_size=30))
@example(b"\x0b")
def test_any_value_is_read_or_refused(value: bytes) -> None:
    stripped = value.strip(b" \t")
    for scheme in (b"", b"Basic ", b"Bearer ", b"Bearer eyJ.", b"X "):
        counts_as, why = credentials(scheme + stripped)
        assert bool(counts_as) is not bool(why)


@given(st.binary(min_size=1, max_size=30), st.binary(max_size=30))
def test_every_login_is_accepted_as_an_encoder_writes_it(name: bytes, password: bytes) -> None:
    """Without control characters, which RFC 7617 forbids, and with a name."""
    controls = bytes(range(32)) + b"\x7f"
    name, password = name.translate(None, controls + b":"), password.translate(None, controls)
    assume(name.strip(b" "))
    assert credentials(basic(name + b":" + password)) == (name.strip(b" "), "")
