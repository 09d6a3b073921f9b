"""What is late by itself is told from what a busy machine has made late."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from tests.timing import Watch, withheld

pytestmark = pytest.mark.one_python


def test_what_comes_too_late_or_too_early_fails() -> None:
    watch = Watch()
    threading.Event().wait(0.2)
    watch.assert_took(0.2, 30)
    with pytest.raises(AssertionError):
        watch.assert_took(30, 60)
    with pytest.raises(AssertionError, match=r"^30\.000 s, of which "):
        watch.assert_took(0, 0.1, 30)


def test_what_a_busy_machine_withholds_is_seen() -> None:
    """Twice as many at work as there are processors: each waits as long as it works."""
    script = "import time\nwhile time.process_time() < 0.5: pass"
    before, begin = withheld(), time.monotonic()
    busy = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2 * (os.cpu_count() or 1))]
    assert [process.wait() for process in busy] == [0] * len(busy)
    took = time.monotonic() - begin
    tells = os.path.exists("/proc/pressure/cpu")
    assert took >= 1
    assert (withheld() - before >= 0.5) is tells
