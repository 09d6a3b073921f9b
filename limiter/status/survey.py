"""A look at the stores and the counters, for people and for monitoring.  Bounded, however many clients there are.

It counts nothing.  Its only call that writes is the trial claim, in a directory of its own, as health.py makes it.
"""

import os
import re
import time
from hashlib import sha256

from limiter import __version__
from limiter.core.cell import Cell
from limiter.core.directories import limit_of
from limiter.core.limit import Limit
from limiter.core.limiter import Limiter
from limiter.core.mount import mounted
from limiter.core.newcomers import room
from limiter.core.store import Store, StoreError, is_app
from limiter.core.trial import claim
from limiter.request.counters import Sums, read_counters
from limiter.request.secret_keys import may_report
from limiter.request.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SAMPLE = 2_000
"""So many directories of a store are looked into."""
COUNTED = 100_000
"""So many are counted."""
SECONDS = 1.0
"""So long a look into directories takes at most, in each store."""
BUSIEST = 20
"""So many clients are shown."""

_NEAR = 0.9


class Standing:
    """Where a client stands with one limit: the hits that count, and their times in microseconds, oldest first.

    ``reset``: the seconds until the first no longer counts.
    """

    def __init__(self, app: str, limit: Limit, used: int, reset: float, times: "list[int]") -> None:
        self.app = app
        self.limit = limit
        self.used = used
        self.reset = reset
        self.times = times

    @property
    def share(self) -> float:
        """The part of the limit that is used, 0 to 1."""
        return min(1.0, self.used / self.limit.quota) if self.limit.quota else 1.0


class StoreState:
    """What a look at a store shows; ``error`` says why it shows no more.

    ``clients`` that it has, at least; ``is_all``: whether that is all; ``looked``: how many of its
    ``directories`` were looked into; ``claim``: the seconds that a claim took; ``newcomers``: how many it
    takes in now, None: any.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.error = ""
        self.kind = ""
        self.clients = self.directories = self.looked = 0
        self.is_all = True
        self.bytes_free = self.bytes = self.inodes_free = self.inodes = 0
        self.newcomers: int | None = None
        self.claim = 0.0


class Survey:
    """A look at all that the settings name.  ``environ`` maps bytes to bytes, as ``os.environb``.

    Raises ValueError for a mistake in the settings.
    """

    def __init__(self, environ: "Mapping[bytes, bytes]") -> None:
        self.version = __version__
        self.time = time.time()
        self.settings = Settings(environ)
        self.given = {
            name.decode(): os.fsdecode(value)
            for name, value in sorted(environ.items())
            if name.startswith(b"LIMITER_") and name not in _WITHHELD
        }
        self._may_show = _may_show(self.settings, environ)
        self.standings: list[Standing] = []
        roots = self.settings.root or (self.settings.store("status"),)
        self.stores = [self._look(root) for root in roots]
        self.standings.sort(key=lambda it: (-it.share, -it.used, it.app))
        self.at_limit = sum(it.used >= it.limit.quota for it in self.standings)
        self.near_limit = sum(it.share >= _NEAR for it in self.standings) - self.at_limit
        self.counters, self.counters_error = _counted(environ)

    @property
    def is_well(self) -> bool:
        """Whether every store works."""
        return not any(store.error for store in self.stores)

    def name(self, app: str) -> str:
        """The name of a client as it may be shown.  That from a header may be a key."""
        if self._may_show:
            return app
        return f"hidden-{sha256(app.encode()).hexdigest()[:6]}"

    def _look(self, root: str) -> StoreState:
        state = StoreState(root)
        try:
            begin = time.perf_counter()
            claim(Store(root))
            state.claim = time.perf_counter() - begin
            state.kind = mounted(os.path.realpath(root)).type
            free = os.statvfs(root)
            state.bytes, state.bytes_free = free.f_blocks * free.f_frsize, free.f_bavail * free.f_frsize
            state.inodes, state.inodes_free = free.f_files, free.f_favail
            if self.settings.newcomers:
                state.newcomers = room(root, self.settings.newcomers)
            self._sample(state)
        except (OSError, ValueError) as error:
            state.error = str(error)
        return state

    def _sample(self, state: StoreState) -> None:
        end = time.perf_counter() + SECONDS
        apps = set()
        for name in _directories(state):
            app, _, text = name.partition("@")
            found = limit_of(text)
            if found is None or found[1]:
                continue
            apps.add(app)
            if isinstance(found[0], Cell):
                continue
            state.directories += 1
            if state.looked == SAMPLE or time.perf_counter() > end:
                continue
            state.looked += 1
            (view,) = Limiter(state.root, [found[0]]).views(app)
            if view.used:
                times = found[0].hits(sorted(view.names()), view.now)
                self.standings.append(Standing(app, found[0], view.used, view.next / 1e6, times))
        state.clients = len(apps)


def _directories(state: StoreState) -> "Iterator[str]":
    """The names in a store that may be directories of clients, the first of them."""
    number = 0
    try:
        with os.scandir(state.root) as entries:
            for entry in entries:
                if "@" in entry.name and is_app(entry.name.partition("@")[0]):
                    number += 1
                    if number > COUNTED:
                        state.is_all = False
                        return
                    yield entry.name
    except OSError as error:
        raise StoreError.of(error, state.root) from error


_WITHHELD = (
    *(b"LIMITER_SMTP", b"LIMITER_MAIL_TO", b"LIMITER_MAIL_FROM", b"LIMITER_COUNTED", b"LIMITER_USED"),
)
_SHOWN = ("env:REMOTE_ADDR", "env:REMOTE_USER")
"""These are no secrets, and an administrator needs them."""


def _may_show(settings: Settings, environ: "Mapping[bytes, bytes]") -> bool:
    """Whether no key of the settings, of a rule or of the map may be a secret.

    Apache sets LIMITER_HEADER, and LIMITER_USED: the rules of ``Use RateLimit``.
    """
    rules = os.fsdecode(environ.get(b"LIMITER_USED", b""))
    if settings.rules:
        try:
            with open(settings.rules, encoding="utf-8", errors="replace") as file:
                rules += file.read()
        except OSError:
            return False
    keys = [settings.key, *re.findall(r"""\bkey=([^\s'"]+)""", rules)]
    if environ.get(b"LIMITER_HEADER", b"X-Forwarded-For").lower() != b"x-forwarded-for":
        keys.append("header:")
    return all(key in _SHOWN or may_report(key) for key in keys)


def _counted(environ: "Mapping[bytes, bytes]") -> "tuple[Sums | None, str]":
    directory = os.fsdecode(environ.get(b"LIMITER_METRICS", b""))
    if not directory:
        return None, ""
    try:
        return read_counters(directory), ""
    except OSError as error:
        return None, f"LIMITER_METRICS={directory!r:.200}: {error.strerror}"
