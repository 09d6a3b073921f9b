"""Who asks: held against the standard library's reading of a query, and against hostile ones."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote_from_bytes, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.request import find_app_id
from limiter.store import is_app


@pytest.mark.parametrize(
    ("text", "app_id"),
    [
        (b"app_id=acme", "acme"),
        (b"app_id=a", "a"),
        (b"app_id=" + b"a" * 64, "a" * 64),
        (b"app_id=A.b-c_9", "A.b-c_9"),
        (b"x=1&app_id=acme&y=2", "acme"),
        (b"&&app_id=acme&", "acme"),
        (b"app_id=%61%63%6D%6d", "acmm"),
        (b"a%70p%5fid=acme", "acme"),
        (b"%61%70%70%5F%69%64=acme", "acme"),
        (b"app_id2=x&xapp_id=y&APP_ID=z&app_id=acme", "acme"),
        (b"app+id=x&app_id+=y&+app_id=z&app_id=acme", "acme"),
        (b"app_id%00=x&app_id=acme", "acme"),
        (b"%&%%&%4&%zz=%zz&app_id=acme", "acme"),
        (b"\xff=\xfe&app_id=acme", "acme"),
        (b"app_id%253D=x&app_id=acme", "acme"),
    ],
)
def test_found(text: bytes, app_id: str) -> None:
    """One app_id, whatever stands around it and however it is written."""
    assert find_app_id(text) == app_id


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"app_id",
        b"app_id=",
        b"=acme",
        b"acme",
        b"APP_ID=acme",
        b"app_id =acme",
        b"app_id=acme&app_id=acme",
        b"app_id=acme&app_id",
        b"app_id&app_id=acme",
        b"app_id=acme&%61pp_id=other",
        b"app_id=acme&app%5Fid=",
        b"app_id=acme;x=1",
        b"app_id=acme;app_id=other",
        b"app_id==acme",
        b"app_id=acme=",
        b"app_id=acme#x",
        b"app_id=acme?app_id=acme",
        b"app_id[]=acme",
        b"app_id=" + b"a" * 65,
        b"app_id=" + b"%61" * 65,
        b"app_id=a+b",
        b"app_id=+a",
        b"app_id=a%20b",
        b"app_id=a%0a",
        b"app_id=a\n",
        b"app_id=a\r\nStatus: 200",
        b"app_id=a%00",
        b"app_id=a\x00",
        b"app_id=.",
        b"app_id=..",
        b"app_id=.new-1",
        b"app_id=%2e%2e%2facme",
        b"app_id=../acme",
        b"app_id=/etc/passwd",
        b"app_id=acme/10-per-1s",
        b"app_id=-acme",
        b"app_id=_acme",
        b"app_id=~root",
        b"app_id=%",
        b"app_id=%6",
        b"app_id=%6g",
        b"app_id=%zz",
        b"app_id=%2561",
        b"app_id=a%+1",
        b"app_id=% 6",
        b"app_id=%-1",
        b"app_id=%\xd9\xa1\xd9\xa1",
        b"app_id=\xc3\xa9",
        b"app_id=%C3%A9",
        b"app_id=%u0061",
        b"app_id=\xef\xbd\x81",
        b"app_id=%f0%9f%92%a9",
        b"app_id=" + b"%" * 100_000,
        b"&" * 100_000,
    ],
)
def test_not_found(text: bytes) -> None:
    """Nobody in particular asks: missing, bad, or given twice."""
    assert find_app_id(text) is None


@pytest.mark.parametrize(
    ("texts", "app_id"),
    [
        ((), None),
        ((b"", b""), None),
        ((b"app_id=acme", b""), "acme"),
        ((b"", b"app_id=acme"), "acme"),
        ((b"x=1", b"app_id=acme&y"), "acme"),
        ((b"app_id=acme", b"app_id=acme"), None),
        ((b"app_id=acme", b"app_id=other"), None),
        ((b"app_id=acme", b"app_id"), None),
        ((b"app_id=", b"app_id=acme"), None),
        ((b"app_id=ac", b"me"), "ac"),
    ],
)
def test_all_texts_count_together(texts: tuple[bytes, ...], app_id: str | None) -> None:
    """An app_id in the query and one in the form are two."""
    assert find_app_id(*texts) == app_id


def _expected(*texts: bytes) -> str | None:
    """What the standard library finds."""
    pairs = [
        pair
        for text in texts
        for pair in parse_qsl(text.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    ]
    values = [value for name, value in pairs if name == "app_id"]
    return values[0] if len(values) == 1 and is_app(values[0]) else None


names = st.just("app_id") | st.text("ap_id +%&=", max_size=7) | st.text(max_size=3)
values = st.text("acme.-_09", max_size=5) | st.text(max_size=4) | st.sampled_from(["a" * 64, "a" * 65])


@given(st.lists(st.lists(st.tuples(names, values), max_size=3), max_size=2))
def test_what_a_client_writes_is_read_as_the_standard_library_does(
    pairs: list[list[tuple[str, str]]],
) -> None:
    """Whatever urlencode makes of any names and values."""
    texts = [urlencode(some, errors="surrogatepass").encode() for some in pairs]
    assert find_app_id(*texts) == _expected(*texts)


pieces = st.sampled_from(
    [
        b"app_id",
        b"=",
        b"&",
        b"%",
        b"+",
        b";",
        b"%61",
        b"%5f",
        b"%5",
        b"%3D",
        b"%26",
        b"acme",
        b"a",
        b"\xff",
    ]
)


@given(st.lists(st.lists(pieces, max_size=12).map(b"".join), max_size=3))
def test_what_an_attacker_writes_is_read_as_the_standard_library_does(texts: list[bytes]) -> None:
    """An application behind the limiter must not find another app_id than it did."""
    assert find_app_id(*texts) == _expected(*texts)


@given(st.text("abcXYZ019._-", min_size=1, max_size=64), st.data())
def test_every_spelling_is_the_same_app_id(app_id: str, data: st.DataObject) -> None:
    """Any of its letters may be percent-encoded, in either case."""
    forms = st.sampled_from(["{}", "%{:02x}", "%{:02X}"])
    written = "".join(
        form.format(letter if form == "{}" else ord(letter))
        for letter in app_id
        for form in [data.draw(forms)]
    )
    assert find_app_id(b"app_id=" + written.encode()) == (app_id if is_app(app_id) else None)


@given(st.binary(max_size=80))
def test_whatever_is_found_is_an_app_id(value: bytes) -> None:
    """Any bytes at all, encoded or not, are an app_id or nothing."""
    for written in (value, quote_from_bytes(value, safe="").encode()):
        found = find_app_id(b"app_id=" + written)
        assert found is None or is_app(found)
