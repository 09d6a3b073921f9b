"""What tests of sweeping share: applications of a known age."""

from __future__ import annotations

from collections.abc import Callable

from limiter.core.limiter import Limiter
from limiter.core.sweep import DAY
from tests.limiting import SECOND

NOW = 1_513_123_456_123_456
LATER = NOW + 2 * int(DAY) * SECOND
"""The time at which an application hit at NOW counts as idle."""

ALL_KINDS = "3/second;70/minute;2/hour fixed;5/minute burst 6"


def days_later(days: float) -> Callable[[], int]:
    return lambda: NOW + int(days * DAY) * SECOND


def hit_at(root: str, limits: str, app: str = "acme", count: int = 1, now: int = NOW) -> None:
    limiter = Limiter(root, limits, clock=lambda: now)
    for _ in range(count):
        assert limiter.hit(app)
