"""Whether something came in time, so far as it could: what a busy machine withholds is none of its doing."""

from __future__ import annotations

import os
import time
from pathlib import Path

_PRESSURE = Path("/proc/pressure/cpu")


def withheld() -> float:
    """Seconds so far, at most, in which some task of this machine waited for a processor.

    0.0 where the kernel does not tell.  Format and meaning: Linux's Documentation/accounting/psi.rst; the kernel's
    figure is a mean over the processors, of which one may have been the only one that was too few.
    """
    if not _PRESSURE.exists():
        return 0.0
    some = _PRESSURE.read_text().splitlines()[0]
    return int(some.rpartition("total=")[2]) / 1e6 * (os.cpu_count() or 1)


class Watch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._withheld = withheld()
        self._begin = time.monotonic()

    def assert_took(self, least: float, most: float, took: float | None = None) -> None:
        """Fail unless it was so many seconds until now, or those measured meanwhile, but for what was withheld."""
        took = time.monotonic() - self._begin if took is None else took
        waited = withheld() - self._withheld
        assert least <= took
        assert took - waited <= most, f"{took:.3f} s, of which {waited:.3f} s were withheld"
