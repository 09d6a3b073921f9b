"""A storage for the library ``limits``, and so for Flask-Limiter and SlowAPI, on the file system::

    import limiter.contrib.limits  # registers the scheme
    Limiter(..., storage_uri="access-limiter:///var/lib/my-app/limits")

It is exact over all processes and threads that name the same directory.  docs/python.md says what each
strategy promises.  Needs ``limits`` 5 or newer.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from urllib.parse import parse_qs, quote, unquote, urlsplit

import limits

if int(limits.__version__.split(".")[0]) < 5:
    raise ImportError(
        f"limiter.contrib.limits needs limits 5 or newer, found {limits.__version__}"
        " (pip install --upgrade limits)"
    )

import limits.aio.storage
from limits.errors import ConfigurationError
from limits.limits import GRANULARITIES
from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage

from limiter.contrib.windows import UNBOUNDED, FirstHit, Log, Weighted
from limiter.core.directories import limit_of
from limiter.core.furnish import must_exist
from limiter.core.limit import SECOND, Limit, Sliding
from limiter.core.limiter import NEWCOMERS, Budget, Limiter
from limiter.core.newcomers import check
from limiter.core.store import Store as Directories
from limiter.core.store import StoreError, patiently
from limiter.request.settings import parse_seconds
from limiter.request.store_access import StoreAccess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")

__all__ = ["AsyncFileStorage", "FileStorage", "uri"]

SCHEME = "access-limiter"

_PREFIX = "limits-"
_SLOTS_MOST = 10_000  # beyond, a moving window is a log
_LONGEST = 100 * 366 * 86_400  # seconds; stamps have ten digits of seconds
_LIMITERS_MOST = 1000  # applications that compute limits leave old ones behind
_THREADS = 32


def uri(path: "str | os.PathLike[str]") -> str:
    """The storage URI for this directory: ``access-limiter:///var/lib/my-app/limits``."""
    return f"{SCHEME}://{quote(os.path.abspath(path))}"


class FileStorage(Storage, MovingWindowSupport, SlidingWindowCounterSupport):
    """Keeps the hits in the directory that the URI names.  It is made if only its last part is missing.

    Options, also in the URI (``?timeout=5``): ``timeout``, the seconds after which a store that may hang has
    failed (default: 2), and ``newcomers``, how many new keys the store takes in (default: 20/second burst
    1000; ``unlimited``).  Beyond that, hits of new keys are denied.  Raises ConfigurationError.
    """

    STORAGE_SCHEME = [SCHEME]  # noqa: RUF012 (as the base class has it)

    def __init__(
        self, uri: "str | None" = None, wrap_exceptions: bool = False, **options: "float | str | bool"
    ) -> None:
        super().__init__(uri, wrap_exceptions, **options)
        self._root, given = _parsed(uri or "", options)
        self._newcomers = "" if given["newcomers"] == "unlimited" else given["newcomers"]
        self.access = StoreAccess(float(given["timeout"]), lambda: [self._root])
        self._forget()

    @property
    def base_exceptions(self) -> "type[Exception]":
        """What the store raises if it fails."""
        return StoreError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count ``amount`` hits, whatever the limit.  Returns the hits since the first of this window."""
        if amount < 1:
            return self.get(key)
        return self.access.call(self._counted, key, self._first_hit(expiry), amount)

    def get(self, key: str) -> int:
        """The hits in the window of ``incr``; 0 if there is none."""
        return self.access.call(self._standing, self._first_hit(), key)[0]

    def get_expiry(self, key: str) -> float:
        """When the window of ``incr`` ends, in seconds since the epoch; now if there is none."""
        return self.access.call(self._standing, self._first_hit(), key)[1]

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count ``amount`` hits if the moving window has room for all of them.  A denial writes nothing."""
        return amount < 1 or self._acquired(self._moving(limit, expiry), key, amount)

    def get_moving_window(self, key: str, limit: int, expiry: int) -> "tuple[float, int]":
        """When the oldest hit of the moving window was, or now, and how many hits there are."""
        used, end = self.access.call(self._standing, self._moving(limit, expiry), key)
        return end - expiry if used else end, used

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count ``amount`` hits if both windows, weighted, have room.  A denial writes nothing."""
        return amount < 1 or self._acquired(self._weighted(limit, expiry), key, amount)

    def get_sliding_window(self, key: str, expiry: int) -> "tuple[int, float, int, float]":
        """The hits in the window before, and the seconds that they still count; the same of this window."""
        return self.access.call(self._windows, key, expiry)

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget the hits of both windows."""
        self.access.call(self._weighted(UNBOUNDED, expiry).reset, _app(key))

    def clear(self, key: str) -> None:
        """Forget the hits that ``incr`` and ``acquire_entry`` have counted for this key."""
        self.access.call(self._clear, key)

    def check(self) -> bool:
        """Whether the store works: it counts a hit of its own."""
        try:
            self.access.call(self._first_hit(1).hit, _PREFIX + "check")
        except StoreError:
            return False
        return True

    def reset(self) -> "int | None":
        """Forget the hits of all keys, of this storage alone.  Returns how many keys had any."""
        return self.access.call(self._reset)

    def recall(self, key: str, limit: int, expiry: int, amount: int) -> bool:
        """Whether memory is certain that the moving window denies such a hit.  Calls no file system."""
        return amount > 0 and self._moving(limit, expiry).recall(_app(key), amount) is not None

    def _acquired(self, limiter: Limiter, key: str, amount: int) -> bool:
        app = _app(key)
        if self.access.is_direct():
            return limiter.hit(app, amount).allowed
        if limiter.recall(app, amount) is not None:
            return False
        return self.access.call(limiter.hit, app, amount).allowed

    # Limiters, one for each limit.

    def _forget(self) -> None:
        self._budget = Budget()
        self._limiters: dict[tuple[type[Limit], int, int], Limiter] = {}

    def _first_hit(self, expiry: int = _LONGEST) -> Limiter:
        return self._limiter(FirstHit, UNBOUNDED, expiry)

    def _moving(self, limit: int, expiry: int) -> Limiter:
        return self._limiter(Sliding if limit <= _SLOTS_MOST else Log, limit, expiry)

    def _weighted(self, limit: int, expiry: int) -> Limiter:
        return self._limiter(Weighted, limit, expiry)

    def _limiter(self, kind: "type[Limit]", quota: int, expiry: int) -> Limiter:
        limiter = self._limiters.get((kind, quota, expiry))
        if limiter is None:
            if len(self._limiters) >= _LIMITERS_MOST:
                self._forget()
            window = min(expiry, _LONGEST) * SECOND
            limit = FirstHit(window) if kind is FirstHit else kind(quota, window)  # type: ignore[call-arg]
            limiter = Limiter(self._root, [limit], newcomers=self._newcomers, budget=self._budget)
            self._limiters[kind, quota, expiry] = limiter
        return limiter

    # What is called where it may hang.

    def _counted(self, key: str, limiter: Limiter, amount: int) -> int:
        decision = limiter.hit(_app(key), amount)
        return UNBOUNDED - decision.remaining  # a new key for which there is no room has none

    def _standing(self, limiter: Limiter, key: str) -> "tuple[int, float]":
        """The hits that count, and when the first of them no longer does, or now."""
        (view,) = limiter.views(_app(key))
        return view.used, (view.now + view.next * (view.used > 0)) / SECOND

    def _windows(self, key: str, expiry: int) -> "tuple[int, float, int, float]":
        limiter = self._weighted(UNBOUNDED, expiry)
        (view,) = limiter.views(_app(key))
        (limit,) = limiter.limits
        if not view.used or not isinstance(limit, Weighted):
            return 0, 0.0, 0, 0.0
        start, current, previous = limit.state(view.names()[-1], view.now)
        left = (start + limit.window - view.now) / SECOND
        return previous, left if previous else 0.0, current, left + expiry

    def _clear(self, key: str) -> None:
        app = _app(key)
        self._first_hit().reset(app)
        # The key of a limit ends in amount/multiples/granularity.
        *_, amount, multiples, granularity = ["", "", "", *key.split("/")]
        if amount.isdigit() and multiples.isdigit() and granularity in GRANULARITIES:
            kind = GRANULARITIES[granularity]
            self._moving(int(amount), kind.GRANULARITY.seconds * int(multiples)).reset(app)
            return
        for name in patiently(Directories(self._root).names, "."):
            self._reset_directory(name, app)
        self._budget.forget()

    def _reset(self) -> int:
        patiently(must_exist, self._root)
        names = patiently(Directories(self._root).names, ".")
        keys = {name.partition("@")[0] for name in names if self._reset_directory(name, "")}
        self._budget.forget()
        return len(keys)

    def _reset_directory(self, name: str, app: str) -> bool:
        """Forget the hits in a directory, if it is of this app, or of any.  Returns whether there were some."""
        owner, _, text = name.partition("@")
        found = limit_of(text) if owner.startswith(_PREFIX) and owner != _PREFIX + "check" else None
        if found is None or found[1] or app not in ("", owner):
            return False
        limiter = Limiter(self._root, [found[0]])
        is_used = any([view.used for view in limiter.views(owner)])
        if is_used:
            limiter.reset(owner)
        return is_used


class AsyncFileStorage(
    limits.aio.storage.Storage,
    limits.aio.storage.MovingWindowSupport,
    limits.aio.storage.SlidingWindowCounterSupport,
):
    """The same for the strategies of ``limits.aio``.

    The event loop never waits for a store that may hang: another thread does.  A store on a local file system
    answers sooner than that thread would begin, and is called at once.
    """

    STORAGE_SCHEME = [f"async+{SCHEME}"]  # noqa: RUF012

    def __init__(
        self, uri: "str | None" = None, wrap_exceptions: bool = False, **options: "float | str | bool"
    ) -> None:
        super().__init__(uri, wrap_exceptions, **options)
        self._sync = FileStorage((uri or "").removeprefix("async+"), False, **options)
        self._threads = ThreadPoolExecutor(_THREADS, "limiter")

    @property
    def base_exceptions(self) -> "type[Exception]":
        """What the store raises if it fails."""
        return StoreError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """As FileStorage, and so are all that follow."""
        return await self._call(self._sync.incr, key, expiry, amount)

    async def get(self, key: str) -> int:
        """As FileStorage."""
        return await self._call(self._sync.get, key)

    async def get_expiry(self, key: str) -> float:
        """As FileStorage."""
        return await self._call(self._sync.get_expiry, key)

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """As FileStorage."""
        if self._sync.recall(key, limit, expiry, amount):
            return False
        return await self._call(self._sync.acquire_entry, key, limit, expiry, amount)

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> "tuple[float, int]":
        """As FileStorage."""
        return await self._call(self._sync.get_moving_window, key, limit, expiry)

    async def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """As FileStorage."""
        return await self._call(self._sync.acquire_sliding_window_entry, key, limit, expiry, amount)

    async def get_sliding_window(self, key: str, expiry: int) -> "tuple[int, float, int, float]":
        """As FileStorage."""
        return await self._call(self._sync.get_sliding_window, key, expiry)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """As FileStorage."""
        await self._call(self._sync.clear_sliding_window, key, expiry)

    async def clear(self, key: str) -> None:
        """As FileStorage."""
        await self._call(self._sync.clear, key)

    async def check(self) -> bool:
        """As FileStorage."""
        return await self._call(self._sync.check)

    async def reset(self) -> "int | None":
        """As FileStorage."""
        return await self._call(self._sync.reset)

    async def _call(self, function: "Callable[..., T]", *arguments: "Any") -> "T":
        if self._sync.access.is_direct():
            return function(*arguments)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)


def _app(key: str) -> str:
    """The app_id of a key, which is any text.  In its own name no part of the key can be read."""
    return _PREFIX + sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:56]


def _parsed(uri: str, options: "dict[str, Any]") -> "tuple[str, dict[str, str]]":
    """The directory of a storage URI, and the options.  Raises ConfigurationError."""
    parts = urlsplit(uri)
    root = unquote(parts.path)
    example = f"{SCHEME}:///var/lib/my-app/limits"
    if parts.scheme != SCHEME or parts.netloc or not root.startswith("/"):
        raise ConfigurationError(f"storage URI {uri!r:.200}: expected an absolute path, as in {example}")
    given = {"timeout": "2", "newcomers": NEWCOMERS}
    query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    for name, value in {**query, **options}.items():
        if name not in given:
            raise ConfigurationError(f"storage option {name!r:.200}: expected timeout or newcomers")
        given[name] = str(value)
    try:
        parse_seconds(given["timeout"])
        check("" if given["newcomers"] == "unlimited" else given["newcomers"])
    except ValueError as error:
        raise ConfigurationError(f"storage URI {uri!r:.200}: {error}") from None
    try:
        if not os.path.isdir(root):
            os.mkdir(root, 0o700)
    except FileExistsError:
        if not os.path.isdir(root):  # another process may have made it
            raise ConfigurationError(f"storage directory {root!r:.200}: it is no directory") from None
    except OSError as error:
        why = f"{error.strerror} (make it, and let the application write to it)"
        raise ConfigurationError(f"storage directory {root!r:.200}: {why}") from None
    return root, given
