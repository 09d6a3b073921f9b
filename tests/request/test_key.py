"""Who asks: compared with how the standard library reads a query, and tried with hostile queries.

``test_key_applications`` compares it with applications in other languages.
"""

from __future__ import annotations

import ipaddress
import random
import subprocess
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.core.store import is_app
from limiter.request.addresses import AddressId
from limiter.request.identity import identify
from limiter.request.key import Key
from tests.places import PYTHON, REPOSITORY


def _find(*texts: bytes, key: str = "app_id") -> str | None:
    return Key(key).find(lambda _: None, *texts)


# Parameters


@pytest.mark.parametrize(
    ("key", "texts", "app_id"),
    [
        ("app_id", [b"x=1&app_id=A.b-c_9&y=2"], "A.b-c_9"),
        ("app_id", [b"&&app_id=acme&"], "acme"),
        ("app_id", [b"a%70p%5fid=acme"], "acme"),
        ("app_id", [b"%61%70%70%5F%69%64=acme"], "acme"),
        ("app_id", [b"app_id2=x&xapp_id=y&app-id=z&appid=z&app__id&app_id=acme"], "acme"),
        ("app_id", [b"app.id2=x&x.app_id=y&app.=z&id[app_id]=1&x[app.id]&app_id=acme"], "acme"),
        ("app_id", [b"x=app_id&y=app.id&app_id=acme"], "acme"),
        ("app_id", [b"x=1;y=2&app_id=acme"], "acme"),
        ("app_id", [b"%&%%&%4&%zz=%zz&app_id=acme"], "acme"),
        ("app_id", [b"\xff=\xfe&app_id=acme"], "acme"),
        # An app_id in the query and one in the form are two.
        ("app_id", [], None),
        ("app_id", [b"app_id=acme", b""], "acme"),
        ("app_id", [b"x=1", b"app_id=acme&y"], "acme"),
        ("app_id", [b"app_id=acme", b"app_id=acme"], None),
        ("app_id", [b"app_id=acme", b"app_id"], None),
        ("app_id", [b"app_id=", b"app_id=acme"], None),
        ("app_id", [b"app_id=ac", b"me"], "ac"),
        # The same rules hold, even if the configured name is odd.
        ("api.key", [b"api%2ekey=acme&app_id=x"], "acme"),
        ("api.key", [b"api_key=acme"], None),
        ("api.key", [b"api.key=acme&api_key=acme"], None),
        ("api.key", [b"api.key=acme&api+key=acme"], None),
        ("apiKey", [b"apiKey=acme&api=1"], "acme"),
        ("apiKey", [b"apikey=acme"], None),
        ("apiKey", [b"apikey=acme&apiKey=acme"], None),
        ("_key", [b"_key=acme&key=1"], "acme"),
        ("_key", [b"%5fkey=acme"], "acme"),
        ("_key", [b"_key=acme&.key=1"], None),
        ("_key", [b"_key=acme&[key=1"], None),
        ("x-key", [b"x-key=acme&x_key=1"], "acme"),
        ("k", [b"k=acme&k"], None),
        ("k", [b""], None),
    ],
)
def test_a_parameter_that_is_given_once_has_the_app_id(
    key: str, texts: list[bytes], app_id: str | None
) -> None:
    assert _find(*texts, key=key) == app_id


BAD = [b"", b"app_id", b"=acme", b"acme", b"app_id&app_id=acme", b"&" * 100_000]
VALUES = [b"acme&app_id=acme", b"acme&app_id", b"acme&%61pp_id=other", b"acme&app%5Fid=", b"a;app_id=b"]
VALUES += [b"acme;x=1", b"=acme", b"acme=", b"acme?app_id=acme", b"a+b", b"+a", b"a\r\nStatus: 200"]
VALUES += [b"%", b"%6", b"%6g", b"%2561", b"a%+1", b"% 6", b"%-1", b"%u0061", b"%\xd9\xa1\xd9\xa1"]
VALUES += [b"%" * 100_000]


@pytest.mark.parametrize("text", [*BAD, *[b"app_id=" + value for value in VALUES]])
def test_no_app_id_is_found_if_it_is_missing_or_bad_or_given_twice(text: bytes) -> None:
    assert _find(text) is None


PHP = [b"app.id", b"app%2Eid", b"app+id", b"app%20id", b"app[id", b"app%5bid", b"+app_id", b"%20+app.id"]
PHP += [b" app_id", b"\tapp_id", b"app_id+", b"app_id%00", b"app_id%00x", b"app_id\0"]
BRACKETS = [b"app_id[]", b"app_id%5B%5D", b"app_id[a][b]", b"app.id[0]", b"app_id[", b"[app_id]"]
BRACKETS += [b"]app_id", b"app_id]"]
CASE = [b"APP_ID", b"App_Id", b"app%5FID"]
OTHERS = [b"app_id.x", b"app_id:list", b"?app_id", b"%u0061pp_id", b"app%u005fid", b"app_id%253D"]
OTHERS += [b"\xef\xbb\xbfapp_id", b"x=1;app_id", b";app_id", b"x;app.id"]


@pytest.mark.parametrize("name", [*PHP, *BRACKETS, *CASE, *OTHERS])
def test_a_name_that_an_application_may_read_as_app_id_only_counts(name: bytes) -> None:
    """It is never used as the app_id, and beside the exact name it makes two."""
    assert _find(name + b"=acme") is None
    assert _find(name + b"=acme&app_id=other") is None
    assert _find(b"app_id=acme&" + name + b"=acme") is None
    assert _find(b"app_id=other", name + b"=acme") is None
    assert _find(b"app_id=acme&" + name) is None


def _expected(*texts: bytes) -> str | None:
    """Return what the standard library finds."""
    pairs = [
        pair
        for text in texts
        for pair in parse_qsl(text.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    ]
    values = [value for name, value in pairs if name == "app_id"]
    return values[0] if len(values) == 1 and is_app(values[0]) else None


def _written(names: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """Return queries that a client makes from such names and any values."""
    values = (
        st.text("acme.-_09", max_size=5) | st.text(max_size=4) | st.sampled_from(["a" * 64, "a" * 65])
    )
    pairs = st.lists(st.tuples(names, values), max_size=3)
    return pairs.map(lambda some: urlencode(some, errors="surrogatepass").encode())


plain = st.just("app_id") | st.text("ap_id", max_size=7) | st.text("abcxyz019_-", max_size=3)
odd = st.text("ap_id +%&=.[];AP\0", max_size=9) | st.text(max_size=3)
pieces = b"app_id = & % + ; %61 %5f %5 %3D %26 acme a \xff".split(b" ")
hostile = st.lists(st.sampled_from(pieces), max_size=12).map(b"".join)


@given(st.lists(_written(plain), max_size=2))
def test_ordinary_names_are_read_as_the_standard_library_does(texts: list[bytes]) -> None:
    assert _find(*texts) == _expected(*texts)


@given(st.lists(_written(plain | odd) | hostile, max_size=3))
def test_no_query_gives_another_app_id_than_the_standard_library_finds(texts: list[bytes]) -> None:
    """An application behind the limiter must not find a different app_id."""
    assert _find(*texts) in (_expected(*texts), None)


@given(st.text("abcXYZ019._-", max_size=66).map(str.encode) | st.binary(max_size=80), st.randoms())
def test_a_valid_app_id_is_found_in_any_spelling_and_no_other_value(
    value: bytes, chance: random.Random
) -> None:
    """Any of its letters may be percent-encoded, in either case."""
    text = value.decode("latin-1")
    app_id = text if is_app(text) else None
    forms = ["%{:02x}", "%{:02X}"]
    written = "".join(
        letter if app_id and chance.random() < 0.5 else chance.choice(forms).format(ord(letter))
        for letter in text
    )
    assert _find(b"app_id=" + written.encode()) == app_id


# Headers and variables


@pytest.mark.parametrize(
    ("key", "variable", "value", "app_id"),
    [
        ("header:X-Api-Key", "HTTP_X_API_KEY", None, None),
        ("header:X-Api-Key", "HTTP_X_API_KEY", b"", None),
        ("header:X-Api-Key", "HTTP_X_API_KEY", b" acme\t", "acme"),
        ("header:x-api-key", "HTTP_X_API_KEY", b"acme", "acme"),
        ("header:K2", "HTTP_K2", b"acme", "acme"),
        # A header that was sent twice has a comma.
        ("header:X-Api-Key", "HTTP_X_API_KEY", b"acme,other", None),
        ("header:X-Api-Key", "HTTP_X_API_KEY", b"acme,", None),
        ("header:X-Api-Key", "HTTP_X_API_KEY", b"a b", identify(b"a b")),
        ("header:Authorization", "HTTP_AUTHORIZATION", b"acme", "acme"),
        ("header:Authorization", "HTTP_AUTHORIZATION", b" BEARER \t t/n ", identify(b"Bearer t/n")),
        ("header:Authorization", "HTTP_AUTHORIZATION", b"Bearer t/n M", None),
        ("header:Authorization", "HTTP_AUTHORIZATION", b"Basic YWNtZTp4", "acme"),
        ("header:Authorization", "HTTP_AUTHORIZATION", b" ", None),
        # RFC 3875 excepts the two headers of the body.
        ("header:Content-Type", "CONTENT_TYPE", b"text", "text"),
        ("header:content-length", "CONTENT_LENGTH", b"7", "7"),
        ("header:Content-Language", "HTTP_CONTENT_LANGUAGE", b"en", "en"),
        ("env:REMOTE_USER", "REMOTE_USER", None, None),
        ("env:REMOTE_USER", "REMOTE_USER", b"", None),
        ("env:REMOTE_USER", "REMOTE_USER", b"a,b", identify(b"a,b")),
        ("env:REMOTE_USER", "REMOTE_USER", b"bearer x", identify(b"bearer x")),
        ("env:lower", "lower", b"acme", "acme"),
        ("env:lower", "lower", b"", None),
        ("env:HTTP_X", "HTTP_X", None, None),
        ("env:SSL_CLIENT_S_DN", "SSL_CLIENT_S_DN", None, None),
        ("env:REDIRECT_REMOTE_USER", "REDIRECT_REMOTE_USER", None, None),
        ("env:REDIRECT_REDIRECT_HTTP_X", "REDIRECT_REDIRECT_HTTP_X", None, None),
        # The address alone may be forwarded.
        ("env:REMOTE_ADDR", "REMOTE_ADDR", b"10.0.0.1", "198.51.100.7"),
        ("env:REMOTE_USER", "REMOTE_USER", b"10.0.0.1", "10.0.0.1"),
    ],
)
def test_a_header_or_a_variable(
    key: str, variable: str, value: bytes | None, app_id: str | None
) -> None:
    """The query does not matter."""
    environ = {} if value is None else {variable.encode(): value}
    environ[b"HTTP_X_FORWARDED_FOR"] = b"203.0.113.9, 198.51.100.7"
    it = Key(key, proxies="10.0.0.0/8")
    assert it.variable == variable.encode()
    assert it.find(environ.get, b"app_id=other", b"app_id=other") == app_id


@pytest.mark.parametrize("key", ["env:REMOTE_ADRR", "env:TENANT", "env:SERVER_NAME", "env:SSL_CLIENT"])
def test_a_variable_that_the_server_does_not_set_is_an_error(key: str) -> None:
    """Otherwise everybody would get 401 after a typing error, and no log would say why."""
    with pytest.raises(ValueError, match=f"key '{key}': the server does not set this variable"):
        Key(key).find({b"REMOTE_ADDR": b"192.0.2.1"}.get)


@pytest.mark.parametrize("value", [None, b"", b" ", b"localhost", b"unix:", b"unix:/run/socket"])
@pytest.mark.parametrize("proxies", ["", "10.0.0.0/8", "0.0.0.0/0 ::/0"])
def test_a_peer_on_a_unix_socket_is_an_error_that_says_what_to_do(
    value: bytes | None, proxies: str
) -> None:
    """Otherwise everybody would get 401, or be one client."""
    environ = {b"HTTP_X_FORWARDED_FOR": b"198.51.100.7"}
    if value is not None:
        environ[b"REMOTE_ADDR"] = value
    with pytest.raises(ValueError, match=r"^key 'env:REMOTE_ADDR': .*unix socket") as error:
        Key("env:REMOTE_ADDR", proxies).find(environ.get)
    assert "LIMITER_TRUSTED_PROXIES=unix" in str(error.value)
    assert Key("env:REMOTE_ADDR", f"unix {proxies}").find(environ.get) == "198.51.100.7"


@pytest.mark.parametrize("entries", [None, b"", b"unknown", b"198.51.100.7, localhost"])
def test_a_trusted_unix_socket_without_a_forwarded_address_is_an_error(entries: bytes | None) -> None:
    environ = {} if entries is None else {b"HTTP_X_FORWARDED_FOR": entries}
    with pytest.raises(ValueError, match="let the proxy send X-Forwarded-For"):
        Key("env:REMOTE_ADDR", "unix").find(environ.get)


def test_the_prefix_of_ipv6_is_a_setting() -> None:
    for prefix in (1, 48, 64, 128):
        key = Key("env:REMOTE_ADDR", "", prefix)
        network = ipaddress.ip_network(f"2001:db8:7:7::7/{prefix}", strict=False)
        found = key.find({b"REMOTE_ADDR": b"2001:db8:7:7::7"}.get)
        assert found == identify(str(network).encode())


def test_an_address_is_known_only_if_it_is_that_of_the_client() -> None:
    """Anybody may send an address in a header.  It must not choose limits of a network."""
    get = {b"REMOTE_ADDR": b"::ffff:10.0.0.1", b"HTTP_X": b"10.0.0.1"}.get
    found = Key("env:REMOTE_ADDR").find(get)
    assert found == "10.0.0.1"
    assert isinstance(found, AddressId)
    assert found.address == bytes([10, 0, 0, 1])
    for key in ("header:X", "env:HTTP_X"):
        other = Key(key).find(get)
        assert other == "10.0.0.1"
        assert not isinstance(other, AddressId)


# Mistakes


PARAMETERS = ["", " ", "app id", "app_id ", "a=b", "a&b", "a;b", "a%62", "a+b", "a[]", "a\0", "a\n"]
PARAMETERS += [".", "_", "-._", "\u00e9", "\udcff", "\u212a", "x" * 9999 + "!"]
PARAMETERS += [":", ":x", "x:y", "Header:X", "headers:X", "cookie:x"]
HEADERS = ["", " X", "X Y", "X_Api_Key", "X.Y", "X:Y", "\u00e9", "-"]
VARIABLES = ["", "A=B", " A", "A-B", "A\0", "_", "env:A"]
MISTAKES = [(text, "a parameter's name") for text in PARAMETERS]
MISTAKES += [(f"header:{text}", "a header's name") for text in HEADERS]
MISTAKES += [(f"env:{text}", "a variable's name") for text in VARIABLES]


@pytest.mark.parametrize(("key", "expected"), MISTAKES, ids=lambda it: ascii(it)[:20])
def test_a_bad_key_is_a_value_error(key: str, expected: str) -> None:
    """The error names the text and what is expected, in one line."""
    with pytest.raises(ValueError, match=r"^key '") as error:
        Key(key)
    assert str(error.value).startswith(f"key {key!r:.200}: expected {expected}")
    assert "\n" not in str(error.value)


# Modules


@pytest.mark.parametrize(
    ("key", "loaded"),
    [
        ("header:X", {"limiter.request.identity"}),
        (
            "env:REMOTE_ADDR",
            {
                *("limiter.request.addresses", "limiter.request.digest", "limiter.request.identity"),
                *("_socket", "sha256"),
            },
        ),
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
