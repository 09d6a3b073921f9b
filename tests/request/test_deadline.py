"""The deadline of one request is kept.

``tests/apache/test_health.py`` shows that the client has the whole answer then, though the store hangs.
"""

from __future__ import annotations

import errno
import sys

import pytest

from limiter.request.script_deadline import call_within, is_stuck
from tests.request.scripts import run


def test_a_call_in_time_returns_or_raises_what_the_function_does() -> None:
    assert call_within(60, divmod, 7, 3) == (2, 1)
    assert not is_stuck()
    with pytest.raises(SystemExit):
        call_within(60, sys.exit)


UNRESPONSIVE = """\
import threading, time
from limiter.request import script_deadline as deadline
from limiter.core.store import StoreError
begin = time.monotonic()
try:
    deadline.call_within(0.1, threading.Event().wait)
except StoreError as error:
    print(time.monotonic() - begin, deadline.is_stuck(), error.errno, error)
"""


def test_an_unresponsive_store_is_an_error_at_the_deadline() -> None:
    """The call itself would never return."""
    ended = run(UNRESPONSIVE)
    took, _, rest = ended.stdout.partition(" ")
    assert float(took) >= 0.1
    message = "[Errno 110] The store did not answer within 0.1 s (LIMITER_TIMEOUT)"
    assert rest == f"True {errno.ETIMEDOUT} {message}\n"
    assert (ended.stderr, ended.returncode) == ("", 0)
