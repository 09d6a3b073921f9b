"""Who asks: compared with how the standard library reads a query, and tried with hostile queries.

``test_key_applications`` compares it with applications in other languages.
"""

from __future__ import annotations

import subprocess
from urllib.parse import parse_qsl, quote_from_bytes, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.core.store import is_app
from limiter.request.identity import identify
from limiter.request.key import Key
from tests.places import PYTHON, REPOSITORY


def _find(*texts: bytes, key: str = "app_id") -> str | None:
    return Key(key).find(lambda _: None, *texts)


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
        (b"app_id2=x&xapp_id=y&app-id=z&appid=z&app__id&app_id=acme", "acme"),
        (b"app.id2=x&x.app_id=y&app.=z&id[app_id]=1&x[app.id]&app_id=acme", "acme"),
        (b"x=app_id&y=app.id&app_id=acme", "acme"),
        (b"x=1;y=2&app_id=acme", "acme"),
        (b"%&%%&%4&%zz=%zz&app_id=acme", "acme"),
        (b"\xff=\xfe&app_id=acme", "acme"),
    ],
)
def test_found(text: bytes, app_id: str) -> None:
    """There is one app_id, with any text around it and in any encoding."""
    assert _find(text) == app_id


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
    """No app_id is found: it is missing, bad, or given twice."""
    assert _find(text) is None


ODD = [
    b"app.id",
    b"app%2Eid",
    b"app+id",
    b"app%20id",
    b"app[id",
    b"app%5bid",
    b"+app_id",
    b"%20+app.id",
    b" app_id",
    b"\tapp_id",
    b"app_id+",
    b"app_id%00",
    b"app_id%00x",
    b"app_id\x00",
    b"app_id[]",
    b"app_id%5B%5D",
    b"app_id[a][b]",
    b"app.id[0]",
    b"app_id[",
    b"[app_id]",
    b"]app_id",
    b"app_id]",
    b"app_id.x",
    b"app_id:list",
    b"APP_ID",
    b"App_Id",
    b"app%5FID",
    b"?app_id",
    b"%u0061pp_id",
    b"app%u005fid",
    b"\xef\xbb\xbfapp_id",
    b"app_id%253D",
    b"x=1;app_id",
    b";app_id",
    b"x;app.id",
]


@pytest.mark.parametrize("name", ODD)
def test_a_name_that_an_application_might_take_for_it_only_counts(name: bytes) -> None:
    """It is never used as the app_id, and beside the exact name it makes two."""
    assert _find(name + b"=acme") is None
    for other in (b"other", b"acme"):
        assert _find(name + b"=acme&app_id=" + other) is None
        assert _find(b"app_id=" + other + b"&" + name + b"=acme") is None
        assert _find(b"app_id=" + other, name + b"=acme") is None
    assert _find(b"app_id=acme&" + name) is None
    assert _find(name + b"&app_id=acme") is None


@pytest.mark.parametrize(
    ("key", "text", "app_id"),
    [
        ("api.key", b"api.key=acme", "acme"),
        ("api.key", b"api%2ekey=acme&app_id=x", "acme"),
        ("api.key", b"api_key=acme", None),
        ("api.key", b"api.key=acme&api_key=acme", None),
        ("api.key", b"api.key=acme&api+key=acme", None),
        ("apiKey", b"apiKey=acme&api=1", "acme"),
        ("apiKey", b"apikey=acme", None),
        ("apiKey", b"apikey=acme&apiKey=acme", None),
        ("_key", b"_key=acme&key=1", "acme"),
        ("_key", b"%5fkey=acme", "acme"),
        ("_key", b"_key=acme&.key=1", None),
        ("_key", b"_key=acme&[key=1", None),
        ("x-key", b"x-key=acme&x_key=1", "acme"),
        ("k", b"k=acme", "acme"),
        ("k", b"k=acme&k", None),
        ("k", b"", None),
    ],
)
def test_a_parameter_of_another_name(key: str, text: bytes, app_id: str | None) -> None:
    """The same rules hold, even if the configured name is odd."""
    assert _find(text, key=key) == app_id


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
    assert _find(*texts) == app_id


def _expected(*texts: bytes) -> str | None:
    """Return what the standard library finds."""
    pairs = [
        pair
        for text in texts
        for pair in parse_qsl(text.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    ]
    values = [value for name, value in pairs if name == "app_id"]
    return values[0] if len(values) == 1 and is_app(values[0]) else None


plain = st.just("app_id") | st.text("ap_id", max_size=7) | st.text("abcxyz019_-", max_size=3)
names = plain | st.text("ap_id +%&=.[];AP\0", max_size=9) | st.text(max_size=3)
values = st.text("acme.-_09", max_size=5) | st.text(max_size=4) | st.sampled_from(["a" * 64, "a" * 65])


@given(st.lists(st.lists(st.tuples(plain, values), max_size=3), max_size=2))
def test_what_a_client_writes_is_read_as_the_standard_library_does(
    pairs: list[list[tuple[str, str]]],
) -> None:
    """This holds for all that urlencode makes from ordinary names and any values."""
    texts = [urlencode(some, errors="surrogatepass").encode() for some in pairs]
    assert _find(*texts) == _expected(*texts)


@given(st.lists(st.lists(st.tuples(names, values), max_size=3), max_size=2))
def test_odd_names_make_one_that_is_found_none_but_never_another(
    pairs: list[list[tuple[str, str]]],
) -> None:
    """This holds for all that urlencode makes from any names and values."""
    texts = [urlencode(some, errors="surrogatepass").encode() for some in pairs]
    assert _find(*texts) in (_expected(*texts), None)


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
def test_what_an_attacker_writes_finds_no_one_but_whom_the_standard_library_does(
    texts: list[bytes],
) -> None:
    """An application behind the limiter must not find a different app_id."""
    assert _find(*texts) in (_expected(*texts), None)


@given(st.text("abcXYZ019._-", min_size=1, max_size=64), st.data())
def test_every_spelling_is_the_same_app_id(app_id: str, data: st.DataObject) -> None:
    """Any of its letters may be percent-encoded, in either case."""
    forms = st.sampled_from(["{}", "%{:02x}", "%{:02X}"])
    written = "".join(
        form.format(letter if form == "{}" else ord(letter))
        for letter in app_id
        for form in [data.draw(forms)]
    )
    assert _find(b"app_id=" + written.encode()) == (app_id if is_app(app_id) else None)


@given(st.binary(max_size=80))
def test_whatever_is_found_is_an_app_id(value: bytes) -> None:
    """Any bytes, encoded or not, give a valid app_id or None."""
    for written in (value, quote_from_bytes(value, safe="").encode()):
        found = _find(b"app_id=" + written)
        assert found is None or is_app(found)


@pytest.mark.parametrize(
    ("key", "variable"),
    [
        ("app_id", None),
        ("header:X-Api-Key", b"HTTP_X_API_KEY"),
        ("header:x-api-key", b"HTTP_X_API_KEY"),
        ("header:Authorization", b"HTTP_AUTHORIZATION"),
        ("header:Content-Type", b"CONTENT_TYPE"),
        ("header:content-length", b"CONTENT_LENGTH"),
        ("header:Content-Language", b"HTTP_CONTENT_LANGUAGE"),
        ("header:K2", b"HTTP_K2"),
        ("env:REMOTE_ADDR", b"REMOTE_ADDR"),
        ("env:REMOTE_USER", b"REMOTE_USER"),
        ("env:SSL_CLIENT_S_DN_CN", b"SSL_CLIENT_S_DN_CN"),
        ("env:lower", b"lower"),
    ],
)
def test_the_variable_that_has_the_id(key: str, variable: bytes | None) -> None:
    """It follows RFC 3875: HTTP_ and the header's name, except for the two headers of the body."""
    assert Key(key).variable == variable


BAD = ["", " ", "app id", "app_id ", "a=b", "a&b", "a;b", "a%62", "a+b", "a[]", "a\0", "a\n", "\u00e9"]
BAD += ["\udcff", "\u212a", ".", "_", "-._", ":", ":x", "x:y", "Header:X", "headers:X", "cookie:x"]
BAD += [
    "header:",
    "header: X",
    "header:X Y",
    "header:X_Api_Key",
    "header:X.Y",
    "header:X:Y",
    "header:\u00e9",
]
BAD += [
    "header:-",
    "env:",
    "env:A=B",
    "env: A",
    "env:A-B",
    "env:A\0",
    "env:_",
    "env:env:A",
    "x" * 9999 + "!",
]


@pytest.mark.parametrize("text", BAD, ids=lambda text: ascii(text)[:20])
def test_a_bad_key_is_a_value_error(text: str) -> None:
    """The error names the text and what is expected, in one line."""
    with pytest.raises(
        ValueError, match=r"^key '.*: expected a (parameter|header|variable)'s name"
    ) as error:
        Key(text)
    assert repr(text)[:200] in str(error.value)
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_a_header_with_an_underscore_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="dropped or confused on the way"):
        Key("header:X_Api_Key")


@pytest.mark.parametrize(
    ("value", "app_id"),
    [
        (None, None),
        (b"", None),
        (b" \t", None),
        (b"acme", "acme"),
        (b" acme\t", "acme"),
        (b"acme,other", None),
        (b"acme, acme", None),
        (b"acme,", None),
        (b"a b", identify(b"a b")),
        (b"2001:db8::1", identify(b"2001:db8::2")),
    ],
)
def test_a_header(value: bytes | None, app_id: str | None) -> None:
    """The header's value is used, unless it was sent twice; the query does not matter."""
    environ = {} if value is None else {b"HTTP_X_API_KEY": value}
    assert Key("header:X-Api-Key").find(environ.get) == app_id
    assert Key("header:X-Api-Key").find(environ.get, b"app_id=other", b"app_id=other") == app_id


@pytest.mark.parametrize("value", [b"bearer tok/en", b"BEARER  tok/en", b" Bearer \t tok/en "])
def test_credentials_have_one_spelling(value: bytes) -> None:
    """Otherwise one token would have many names: its application reads all these spellings alike."""
    key = Key("header:Authorization")
    assert key.find({b"HTTP_AUTHORIZATION": value}.get) == identify(b"Bearer tok/en")
    assert key.find({b"HTTP_AUTHORIZATION": b"Bearer tok/EN"}.get) != identify(b"Bearer tok/en")
    assert key.find({b"HTTP_AUTHORIZATION": b"acme"}.get) == "acme"


@pytest.mark.parametrize(
    ("value", "app_id"),
    [
        (None, None),
        (b"", None),
        (b"acme", "acme"),
        (b"a,b", identify(b"a,b")),
        (b"CN=x", identify(b"CN=x")),
    ],
)
def test_a_variable(value: bytes | None, app_id: str | None) -> None:
    """Its value is used, including commas."""
    environ = {} if value is None else {b"REMOTE_USER": value}
    assert Key("env:REMOTE_USER").find(environ.get, b"app_id=other") == app_id


def test_forwarding_is_believed_for_the_address_alone_and_from_trusted_proxies_alone() -> None:
    environ = {
        b"REMOTE_ADDR": b"10.0.0.1",
        b"REMOTE_USER": b"10.0.0.1",
        b"HTTP_X_FORWARDED_FOR": b"203.0.113.9, 198.51.100.7, 10.0.0.2",
    }
    assert Key("env:REMOTE_ADDR", "10.0.0.0/8").find(environ.get) == "198.51.100.7"
    assert Key("env:REMOTE_ADDR", "10.0.0.1 198.51.100.7").find(environ.get) == "10.0.0.2"
    assert Key("env:REMOTE_ADDR", "10.0.0.2").find(environ.get) == "10.0.0.1"
    assert Key("env:REMOTE_ADDR").find(environ.get) == "10.0.0.1"
    assert Key("env:REMOTE_USER", "10.0.0.0/8").find(environ.get) == "10.0.0.1"
    del environ[b"HTTP_X_FORWARDED_FOR"]
    assert Key("env:REMOTE_ADDR", "10.0.0.0/8").find(environ.get) == "10.0.0.1"


def test_bad_proxies_are_a_value_error_that_names_the_part() -> None:
    with pytest.raises(ValueError, match=r"^trusted proxy '10.0.0.1/8': expected "):
        Key("env:REMOTE_ADDR", "192.0.2.7, 10.0.0.1/8")


@pytest.mark.parametrize(
    ("key", "loaded"),
    [
        ("app_id", set()),
        ("header:X", {"limiter.request.identity"}),
        ("env:REMOTE_ADDR", {"limiter.request.digest", "limiter.request.identity", "_socket", "sha256"}),
    ],
)
def test_no_more_is_loaded_than_the_key_needs(key: str, loaded: set[str]) -> None:
    """It loads no module of Python's library, only built-in parts of the interpreter."""
    script = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from limiter.request.key import Key; import limiter.core.store\n"
        "before = set(sys.modules)\n"
        "environ = {b'HTTP_X': b'acme', b'REMOTE_ADDR': b'2001:db8::1'}\n"
        f"assert Key({key!r}, '10.0.0.0/8').find(environ.get, b'app_id=acme')\n"
        "print(*set(sys.modules) - before)"
    )
    ran = subprocess.run([PYTHON, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    names = {"sha256" if name in ("_sha2", "_sha256") else name for name in ran.stdout.split()}
    assert names == loaded
