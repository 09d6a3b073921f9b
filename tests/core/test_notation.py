"""The notation: what it means, and its error messages."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.core.burst import Burst
from limiter.core.fixed import Fixed
from limiter.core.limit import SECOND, Limit, Sliding
from limiter.core.notation import parse

UNITS = {
    1: ("second", "seconds", "sec", "s"),
    60: ("minute", "minutes", "min", "m"),
    3600: ("hour", "hours", "h"),
    86400: ("day", "days", "d"),
}


@pytest.mark.parametrize(
    ("text", "kind", "quota", "seconds", "name"),
    [
        ("10/second", Sliding, 10, 1, "10-per-1s"),
        ("10 per second", Sliding, 10, 1, "10-per-1s"),
        ("10 per 2 seconds", Sliding, 10, 2, "10-per-2s"),
        ("10/2s", Sliding, 10, 2, "10-per-2s"),
        ("10per2sec", Sliding, 10, 2, "10-per-2s"),
        ("  100 / Minute ", Sliding, 100, 60, "100-per-60s"),
        ("007/HOUR", Sliding, 7, 3600, "7-per-3600s"),
        ("1000/3 days", Sliding, 1000, 259200, "1000-per-259200s"),
        ("10000/d", Sliding, 10000, 86400, "10000-per-86400s"),
        ("0/second", Sliding, 0, 1, "0-per-1s"),
        ("0/second fixed", Sliding, 0, 1, "0-per-1s"),
        ("0/second burst 5", Sliding, 0, 1, "0-per-1s"),
        ("10/second fixed", Fixed, 10, 1, "10-per-1s-fixed"),
        ("10001/hour Fixed", Fixed, 10001, 3600, "10001-per-3600s-fixed"),
        ("5/second burst 20", Burst, 20, 4, "5-per-1s-burst-20"),
        ("3/second burst 1", Burst, 1, 1 / 3, "3-per-1s-burst-1"),
    ],
)
def test_meaning(text: str, kind: type[Limit], quota: int, seconds: float, name: str) -> None:
    """One limit has the right kind, hits, window and name."""
    (limit,) = parse(text)
    assert type(limit) is kind
    assert limit.quota == quota
    assert limit.window == -(-seconds * SECOND // 1)
    assert limit.name == name
    assert repr(limit) == f"<{kind.__name__} {name}>"


def test_several() -> None:
    """Limits keep their order."""
    assert [limit.name for limit in parse("100/minute; 1000/hour ;5/s")] == [
        "100-per-60s",
        "1000-per-3600s",
        "5-per-1s",
    ]


@given(st.integers(0, 10000), st.integers(1, 40), st.sampled_from(sorted(UNITS)), st.data())
def test_every_spelling(count: int, multiple: int, seconds: int, data: st.DataObject) -> None:
    """All spellings of a limit are the same limit."""
    unit = data.draw(st.sampled_from(UNITS[seconds]))
    between = data.draw(st.sampled_from(["/", " / ", " per ", " PER "]))
    (limit,) = parse(f"{count}{between}{multiple} {unit.upper()}")
    assert (limit.quota, limit.window) == (count, multiple * seconds * SECOND)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "limit '': expected a number of hits at character 1, found the end"),
        ("ten/second", "expected a number of hits at character 1, found 'ten/second'"),
        ("-1/second", "expected a number of hits at character 1, found '-1/second'"),
        ("1.5/second", "expected '/' or 'per' at character 2, found '.5/second'"),
        ("10", "expected '/' or 'per' at character 3, found the end"),
        ("10 second", "expected '/' or 'per' at character 4, found 'second'"),
        ("10/", "expected a unit (second, minute, hour or day) at character 4, found the end"),
        (
            "10/fortnight",
            "expected a unit (second, minute, hour or day) at character 4, found 'fortnight'",
        ),
        ("10/0 seconds", "expected a window of at least 1 second at character 4, found '0 seconds'"),
        ("10/3661 days", "expected a window of at most 3660 days at character 4, found '3661 days'"),
        ("10/second;", "expected a number of hits at character 11, found the end"),
        ("10/second,5/day", "expected ';' or the end at character 10, found ',5/day'"),
        ("10/second floating", "expected ';' or the end at character 11, found 'floating'"),
        ("10/second burst", "expected the bucket's capacity at character 16, found the end"),
        ("10/second burst 0", "expected a capacity of at least 1 at character 17, found '0'"),
        (
            "1/day burst 3661",
            "expected a bucket that fills within 3660 days at character 13, found '3661'",
        ),
        (
            "10/second;60/minute;10 per 1 s",
            "(10-per-1s is there already) at character 21, found '10 per 1 s'",
        ),
        (
            "1" + "0" * 15 + "/second fixed",
            "expected a number of at most 999999999999999 at character 1",
        ),
        ("1" * 5000 + "/second", "expected a number of at most 999999999999999 at character 1"),
        ("\u0661\u0660/second", "expected a number of hits at character 1"),
        ("10/second\n", "expected ';' or the end at character 10, found '\\n'"),
    ],
)
def test_error_names_text_and_place(text: str, message: str) -> None:
    """A bad limit is a ValueError that quotes the text and points to the place."""
    with pytest.raises(ValueError, match=r"^limit ") as error:
        parse(text)
    assert message in str(error.value)
    assert repr(text[:200]) in str(error.value)
    assert "\n" not in str(error.value)


def test_many_sliding_hits_are_refused_with_advice() -> None:
    """Above 10,000 slots, the error recommends another kind."""
    with pytest.raises(ValueError, match="at most 10000 hits") as error:
        parse("5/s; 10001 per 2 hours")
    assert "say '10001 per 2 hours fixed' or '10001 per 2 hours burst 10001'" in str(error.value)
    for advice in ("10001 per 2 hours fixed", "10001 per 2 hours burst 10001"):
        parse(advice)


@given(st.text())
def test_any_text_is_limits_or_a_value_error(text: str) -> None:
    """No other exception is ever raised."""
    with contextlib.suppress(ValueError):
        assert parse(text)
