"""Rules with count= behind the supervising guard: it counts by the status of the script's answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter import Limiter
from tests.apache.test_guard import Guard
from tests.scripts.test_supervise import PERL, Supervised, guard

__all__ = ["guard"]

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(not Path(PERL).exists(), reason="perl is not installed"),
]

# Answers with the header that is in the extra path.
ANSWER = r'print "$ENV{PATH_INFO}" =~ s/^\/|\|/\n/gr =~ s/^\n//r, "Content-Type: text/plain\n\n";'


@pytest.fixture
def rules(place: Path) -> Path:
    file = place / "rules"
    file.write_text("/app/ GET 2/hour count=302,401,5xx")
    return file


def statuses(guard: Guard, file: Path, rules: Path, *extras: str, **more: str) -> list[str]:
    """Return the status that each of these requests gets; it asks the script for a header."""
    got = []
    for extra in extras:
        answer = guard.ask(file, f"/{extra}", LIMITER_RULES=str(rules), **more)
        header = answer.partition("\n\n")[0]
        lines = dict(line.partition(": ")[::2] for line in header.splitlines())
        got.append(lines.get("Status", "200")[:3])
    return got


def used(guard: Guard) -> int:
    return 2 - Limiter(guard.store, "2/hour").peek("acme").remaining


def test_only_answers_with_these_statuses_count(guard: Supervised, rules: Path) -> None:
    file = guard.perl(ANSWER)
    failing, other = "Status: 401 No|", "Status: 404 No|"
    got = statuses(guard, file, rules, other, failing, "", other, failing, "")
    assert got == ["404", "401", "200", "404", "401", "429"]
    assert used(guard) == 2


@pytest.mark.parametrize(
    ("extra", "counted"),
    [
        ("", 0),
        ("Status: 302 Found|Location: /x|", 1),
        ("Location: https://example.org/|", 1),
        ("Location: /internal|", 0),
        ("Status: 401 No|Location: https://example.org/|", 1),
        ("Status: 500 No|", 1),
        ("Status: 403 No|", 0),
    ],
)
def test_the_status_is_the_one_that_apache_answers_with(
    guard: Supervised, rules: Path, extra: str, counted: int
) -> None:
    statuses(guard, guard.perl(ANSWER), rules, extra)
    assert used(guard) == counted


@pytest.mark.parametrize("script", ["exit 3;", "kill 9, $$;", 'print "nonsense\n\n";', ""])
def test_a_script_that_fails_counts_as_its_answer(guard: Supervised, rules: Path, script: str) -> None:
    assert statuses(guard, guard.perl(script), rules, "") == ["500"]
    assert used(guard) == 1


def test_an_answer_that_is_cut_off_has_the_status_with_which_it_began(
    guard: Supervised, rules: Path
) -> None:
    """It is counted once."""
    file = guard.perl('print "Status: 401 No\n\nbegun"; exit 3;')
    statuses(guard, file, rules, "")
    assert used(guard) == 1


def test_a_large_answer_is_counted_once(guard: Supervised, rules: Path) -> None:
    file = guard.perl('print "Status: 401 No\n\n", "x" x 200000;')
    statuses(guard, file, rules, "")
    assert used(guard) == 1


def test_without_supervision_such_a_rule_is_an_error(guard: Supervised, rules: Path) -> None:
    assert statuses(guard, guard.perl(ANSWER), rules, "", LIMITER_SUPERVISE="0") == ["500"]
    assert "LIMITER_SUPERVISE=1" in guard.entry["reason"]
    assert used(guard) == 0
