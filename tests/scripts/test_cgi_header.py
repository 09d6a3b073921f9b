"""The beginning of a script's output: when it is passed on, and what is no header."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.scripts.cgi_header import MOST, Beginning

GOOD = {
    "content type": b"Content-Type: text/plain\n\n",
    "ends of line": b"Content-Type: text/plain\r\nX-Y: z\r\n\r\n",
    "no field": b"\n",
    "empty value": b"X:\n\n",
    "several colons": b"Location: http://localhost:80/\n\n",
    "every sign of a name": b"!#$%&'*+-.^_`|~09azAZ: x\n\n",
    "tabulators and high bytes": b"X: \xc3\xa4\t\xff\n\n",
    "status": b"Status: 404 Not Found\n\n",
    "status without a phrase": b"STATUS:200\n\n",
    "longest line": b"X: %b\n\n" % (b"y" * 8186),
}
BAD = {
    "no colon": (b"Hello\n", "line 1 of its header, b'Hello': has no colon"),
    "no colon in the second line": (b"X: y\nHello\n", "line 2 of its header, b'Hello': has no colon"),
    "no name": (b": x\n", "does not begin with a name"),
    "blank in the name": (b"X Y: z\n", "does not begin with a name"),
    "folded": (b"X: y\n z: 1\n", "line 2 of its header, b' z: 1': does not begin with a name"),
    "NUL": (b"X: \0\n", "has control characters"),
    "return within": (b"X: y\rZ: z\n", "has control characters"),
    "delete": (b"X: \x7f\n", "has control characters"),
    "no status": (b"Status:\n", "expected a status from 200 to 599"),
    "status that is no number": (b"Status: fine\n", "expected a status from 200 to 599"),
    "status of four digits": (b"Status: 2000\n", "expected a status from 200 to 599"),
    "status that is none": (b"Status: 600 No\n", "expected a status from 200 to 599"),
    "status of no answer": (b"Status: 100 Continue\n", "expected a status from 200 to 599"),
    "long line": (b"X: %b\n" % (b"y" * 8187), "has more than 8189 bytes"),
    "long line without an end": (b"y" * 8190, "has more than 8189 bytes"),
    "no end": (b"X: y\n" * (MOST // 5 + 1), "there is no blank line in its first 64 KiB"),
}


def take(beginning: Beginning, output: bytes, size: int) -> None:
    """Pass it parts of that size; it must not pass any of them on."""
    for at in range(0, len(output), size):
        assert beginning.take(output[at : at + size]) == b""


@pytest.mark.parametrize("header", GOOD.values(), ids=GOOD)
def test_header_is_held_until_the_body_begins(header: bytes) -> None:
    beginning = Beginning()
    assert beginning.flaw == "without any output"
    take(beginning, header[:-1], 1)
    assert beginning.flaw == ("before the end of its header" if header[:-1] else "without any output")
    take(beginning, header[-1:], 1)
    assert beginning.flaw == ""
    assert not beginning.has_passed
    assert beginning.take(b"body") == header + b"body"
    assert beginning.has_passed
    assert beginning.take(b"and more") == b"and more"
    assert (beginning.release(), beginning.flaw) == (b"", "")


@pytest.mark.parametrize(("output", "reason"), BAD.values(), ids=BAD)
def test_what_is_no_header_is_refused(output: bytes, reason: str) -> None:
    for size in (1, 4096):
        beginning = Beginning()
        with pytest.raises(ValueError, match=re.escape(reason)):
            take(beginning, output, size)
        assert not beginning.has_passed


def test_answer_of_5xx_is_held_to_its_end_or_64_kib() -> None:
    header = b"Status: 503 Service Unavailable\n\n"
    beginning = Beginning()
    assert beginning.take(header + b"x") == b""
    assert beginning.flaw == ""
    rest = b"y" * (MOST - len(header) - 2)
    assert beginning.take(rest) == b""
    assert beginning.take(b"z") == header + b"x" + rest + b"z"


@given(st.lists(st.binary(max_size=20), max_size=20), st.sampled_from([200, 500]))
def test_all_that_is_taken_is_given_back(parts: list[bytes], status: int) -> None:
    beginning = Beginning()
    header = b"Status: %d\n\n" % status
    given_back = b"".join([beginning.take(part) for part in [header, *parts]])
    assert given_back + beginning.release() == header + b"".join(parts)
