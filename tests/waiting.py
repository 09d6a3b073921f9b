"""Waiting for what others do, and time-outs of the breaker that expire when a test says so."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from limiter.request.breaker import Breaker

SAFETY = 60
"""Seconds after which a test fails instead of waiting for ever.  No test that passes waits so long."""


def listens(port: int) -> bool:
    """Return whether something listens at this port of this machine."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def wait_until(
    is_so: Callable[[], Any], what: str = "", seconds: float = 120, pause: float = 0.01
) -> None:
    """Poll until others have got this far; use it where there is nothing else to wait for."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"After {seconds:g} s this still does not hold: {what or is_so}")
        time.sleep(pause)


class Clock:
    """Stands still until it is moved.  Time-outs of its locks stand still, too."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waiting = 0
        self.changed = threading.Condition()

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now

    def move(self, seconds: float, waiting: int = 0) -> None:
        """Advance by so many seconds, as soon as so many threads wait with a time-out."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.waiting >= waiting, SAFETY):
                pytest.fail(f"{self.waiting} threads wait with a time-out, not {waiting}")
            self.now += seconds
            self.changed.notify_all()

    def lock(self) -> Lock:
        """Return a new lock, in place of ``allocate_lock``."""
        return Lock(self)


class Lock:
    """A lock like that of the module _thread, but its time-outs follow the clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._is_held = False

    def acquire(self, is_blocking: bool = True, timeout: float = -1) -> bool:
        clock = self._clock
        with clock.changed:
            if timeout >= 0:
                self._wait(timeout)
            elif is_blocking:
                clock.changed.wait_for(lambda: not self._is_held)
            is_free = not self._is_held
            self._is_held = True
            return is_free

    def _wait(self, timeout: float) -> None:
        clock = self._clock
        end = clock.now + timeout
        clock.waiting += 1
        clock.changed.notify_all()
        if not clock.changed.wait_for(lambda: not self._is_held or clock.now >= end, SAFETY):
            pytest.fail(f"{timeout:g} s of a clock that nobody moved were waited for")
        clock.waiting -= 1

    def release(self) -> None:
        with self._clock.changed:
            assert self._is_held
            self._is_held = False
            self._clock.changed.notify_all()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def stand_still(patch: pytest.MonkeyPatch) -> Clock:
    """Return a clock that all breakers made from now on use.  No store counts as local."""
    clock = Clock()
    patch.setattr("limiter.request.store_access.LOCAL", ())
    patch.setattr("limiter.request.breaker.allocate_lock", clock.lock)
    patch.setattr("limiter.request.store_access.Breaker", partial(Breaker, clock=clock))
    return clock
