"""The notation: what it means, its error messages, and the names of directories."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from limiter.core.burst import Burst
from limiter.core.directories import limit_of
from limiter.core.fixed import Fixed
from limiter.core.limit import SECOND, Limit, Sliding
from limiter.core.notation import parse

UNITS = {
    1: ("second", "seconds", "sec", "s"),
    60: ("minute", "minutes", "min", "m"),
    3600: ("hour", "hours", "h"),
    86400: ("day", "days", "d"),
    2_592_000: ("month", "months"),
    31_104_000: ("year", "years"),
}
MEANINGS = [
    ("10/second", Sliding, 10, 1, "10-per-1s"),
    ("10 per second", Sliding, 10, 1, "10-per-1s"),
    ("10per2sec", Sliding, 10, 2, "10-per-2s"),
    ("10perminute", Sliding, 10, 60, "10-per-60s"),
    ("10 PERminutes", Sliding, 10, 60, "10-per-60s"),
    ("  100 / Minute ", Sliding, 100, 60, "100-per-60s"),
    ("007/HOUR", Sliding, 7, 3600, "7-per-3600s"),
    ("1000/3 days", Sliding, 1000, 259200, "1000-per-259200s"),
    ("9/month", Sliding, 9, 2592000, "9-per-2592000s"),
    ("9 per 2 Years", Sliding, 9, 62208000, "9-per-62208000s"),
    ("0/second", Sliding, 0, 1, "0-per-1s"),
    ("0/second fixed", Sliding, 0, 1, "0-per-1s"),
    ("0/second burst 5", Sliding, 0, 1, "0-per-1s"),
    ("10/second fixed", Fixed, 10, 1, "10-per-1s-fixed"),
    ("10001/hour Fixed", Fixed, 10001, 3600, "10001-per-3600s-fixed"),
    ("5/second burst 20", Burst, 20, 4, "5-per-1s-burst-20"),
    ("3/second burst 1", Burst, 1, 1 / 3, "3-per-1s-burst-1"),
    ("login=5/minute", Sliding, 5, 60, "login=5-per-60s"),
    (" \tapi-v2 = 100 per HOUR fixed", Fixed, 100, 3600, "api-v2=100-per-3600s-fixed"),
    ("z9-=5/second burst 20", Burst, 20, 4, "z9-=5-per-1s-burst-20"),
    (f"{'a' * 32}=0/second", Sliding, 0, 1, f"{'a' * 32}=0-per-1s"),
]


@pytest.mark.parametrize(("text", "kind", "quota", "seconds", "name"), MEANINGS)
def test_a_limit_has_kind_hits_window_and_name_and_the_name_names_it(
    text: str, kind: type[Limit], quota: int, seconds: float, name: str
) -> None:
    (limit,) = parse(text)
    assert type(limit) is kind
    assert limit.quota == quota
    assert limit.window == -(-seconds * SECOND // 1)
    assert limit.name == name
    assert repr(limit) == f"<{kind.__name__} {name}>"
    for segment in range(limit.segments):
        found = limit_of(limit.directory(segment))
        assert found is not None
        assert (type(found[0]), vars(found[0]), found[1]) == (type(limit), vars(limit), segment)


NO_NAMES = (
    "notes 16-per-1s.1 100-per-1s.3 10-per-1s. 10-per-1s.0 100-per-1s.01 100-per-1s.\u00b2 100-per-1s.\u0661"
    " 010-per-1s 10-per-1m 10-per-60s-Fixed 10-per-1s-burst 0-per-1s 0-per-1s-burst-5 1-per-1s;2-per-1s"
    " =10-per-1s Login=10-per-1s login==10-per-1s 9=10-per-1s log.in=10-per-1s login=10-per-1m login=16-per-1s.1"
)


@pytest.mark.parametrize("name", ["", "10 per 1s", "login =10-per-1s", *NO_NAMES.split()])
def test_any_other_name_names_no_limit(name: str) -> None:
    assert limit_of(name) is None


def test_several_limits_keep_their_order() -> None:
    names = [limit.name for limit in parse("100/minute; 1000/hour ;5/s")]
    assert names == ["100-per-60s", "1000-per-3600s", "5-per-1s"]


def test_the_same_numbers_under_other_names_are_other_limits() -> None:
    """Without a name they are one limit, which may be given only once."""
    limits = parse("5/minute;login=5/minute;api = 5 per 60 s")
    assert [limit.policy for limit in limits] == ["", "login", "api"]
    assert [limit.name for limit in limits] == ["5-per-60s", "login=5-per-60s", "api=5-per-60s"]
    assert len({(limit.quota, limit.window) for limit in limits}) == 1


@given(st.integers(0, 10000), st.integers(1, 10), st.sampled_from(sorted(UNITS)), st.data())
def test_every_spelling_is_the_same_limit(
    count: int, multiple: int, seconds: int, data: st.DataObject
) -> None:
    unit = data.draw(st.sampled_from(UNITS[seconds]))
    between = data.draw(st.sampled_from(["/", " / ", " per ", " PER "]))
    (limit,) = parse(f"{count}{between}{multiple} {unit.upper()}")
    assert (limit.quota, limit.window) == (count, multiple * seconds * SECOND)


NAME = "a name of at most 32 letters, digits and '-', beginning with a letter"


@pytest.mark.parametrize(
    ("text", "expected", "place"),
    [
        ("", "a number of hits", "1, found the end"),
        ("ten/second", "a number of hits", "1, found 'ten/second'"),
        ("-1/second", "a number of hits", "1, found '-1/second'"),
        ("1.5/second", "'/' or 'per'", "2, found '.5/second'"),
        ("10", "'/' or 'per'", "3, found the end"),
        ("10 second", "'/' or 'per'", "4, found 'second'"),
        ("10/", "a unit (second, minute, hour, day, month or year)", "4, found the end"),
        ("10/fortnight", "a unit (second, minute, hour, day, month or year)", "4, found 'fortnight'"),
        ("10/0 seconds", "a window of at least 1 second", "4, found '0 seconds'"),
        ("10/3661 days", "a window of at most 3660 days", "4, found '3661 days'"),
        ("10/second;", "a number of hits", "11, found the end"),
        ("10/second,", "a number of hits", "11, found the end"),
        ("10/second:5/day", "';', ',', '|' or the end", "10, found ':5/day'"),
        ("10/second floating", "';', ',', '|' or the end", "11, found 'floating'"),
        ("10/second burst", "the bucket's capacity", "16, found the end"),
        ("10/second burst 0", "a capacity of at least 1", "17, found '0'"),
        ("1/day burst 3661", "a bucket that fills within 3660 days", "13, found '3661'"),
        ("9/s;8/m;9 per 1s", "a limit not yet given (9-per-1s is there already)", "9, found '9 per"),
        ("1" + "0" * 15 + "/s fixed", "a number of at most 999999999999999", "1, found '1000"),
        ("1" * 5000 + "/second", "a number of at most 999999999999999", "1, found '1111"),
        ("\u0661\u0660/second", "a number of hits", "1, found '\u0661"),
        ("10/second\n", "';', ',', '|' or the end", "10, found '\\n'"),
        ("=5/minute", NAME, "1, found '=5/minute'"),
        ("5/s; 9=5/minute", NAME, "6, found '9=5/minute'"),
        ("-a=5/minute", NAME, "1, found '-a=5/minute'"),
        (f"{'a' * 33}=5/minute", NAME, f"1, found '{'a' * 20}'"),
        ("Login=5/minute", "a number of hits", "1, found 'Login=5/minute'"),
        ("log in=5/minute", "a number of hits", "1, found 'log in=5/minute'"),
        ("l\u00f6gin=5/minute", "a number of hits", "1, found 'l\u00f6gin=5/minute'"),
        ("login=", "a number of hits", "7, found the end"),
        ("login==5/minute", "a number of hits", "7, found '=5/minute'"),
        ("login=api=5/minute", "a number of hits", "7, found 'api=5/minute'"),
        ("5/minute=login", "';', ',', '|' or the end", "9, found '=login'"),
        (
            "a=5/minute;b=5/minute;a=6/hour",
            "a limit not yet given (a=5-per-60s is there already)",
            "23, found 'a=6/hour'",
        ),
        ("a=5/m;a = 5/m", "a limit not yet given (a=5-per-60s is there already)", "7, found 'a = 5/m'"),
    ],
)
def test_an_error_names_the_text_and_the_place(text: str, expected: str, place: str) -> None:
    with pytest.raises(ValueError, match=r"^limit ") as error:
        parse(text)
    message = str(error.value)
    assert message.startswith(f"limit {text[:200]!r}: expected {expected} at character {place}")
    assert "\n" not in message


def test_too_many_sliding_hits_are_an_error_with_advice() -> None:
    with pytest.raises(ValueError, match="at most 10000 hits") as error:
        parse("5/s; 10001 per 2 hours")
    assert "write '10001 per 2 hours fixed' or '10001 per 2 hours burst 10001'" in str(error.value)
    for advice in ("10001 per 2 hours fixed", "10001 per 2 hours burst 10001"):
        parse(advice)


@given(st.text())
def test_any_text_is_limits_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse(text)


separators = st.sampled_from(";,|")
blanks = st.sampled_from(["", " ", "  ", "\t"])
amounts = st.integers(0, 10_000)
multiples = st.sampled_from(["", "1", "2", "007", "10"])
granularities = st.sampled_from(["second", "minute", "hour", "day", "month", "year"])
of_limits = st.tuples(
    *(amounts, blanks, st.sampled_from(["/", "per", " PER "]), blanks, multiples, blanks),
    *(granularities, st.sampled_from(["", "s", "S"]), blanks),
).map(lambda parts: "".join(map(str, parts)))


@pytest.mark.one_python
@given(st.lists(of_limits, min_size=1, max_size=3), st.lists(separators, min_size=3, max_size=3))
def test_what_the_library_limits_accepts_means_the_same_here(
    texts: list[str], between: list[str]
) -> None:
    """Up to the longest window, and but for a limit that is given twice."""
    limits = pytest.importorskip("limits")
    text = "".join([part for pair in zip(texts, between) for part in pair])[:-1]
    expected = [(it.amount, it.get_expiry()) for it in limits.parse_many(text)]
    assume(len(set(expected)) == len(expected))
    assume(max(seconds for _, seconds in expected) <= 3660 * 86400)
    assert [(it.quota, it.window // SECOND) for it in parse(text)] == expected
