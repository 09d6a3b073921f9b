"""Django REST framework: throttle classes that are exact over all processes, in place of its own::

    REST_FRAMEWORK = {
        "DEFAULT_THROTTLE_CLASSES": ["limiter.contrib.rest_framework.UserRateThrottle"],
        "DEFAULT_THROTTLE_RATES": {"user": "100/hour"},
    }
    ACCESS_LIMITER = {"ROOT": "/var/lib/my-app/limits"}

Its own keep a list in a cache, and read and write it in two steps, so they admit more.  Rates are in the notation of
docs/limits.md, of which the framework's is a part: ``5/second;100/hour`` or ``10/minute burst 20`` are also rates.
"""

from hashlib import sha256

from django.core.exceptions import ImproperlyConfigured
from rest_framework import throttling

from limiter.contrib.django import store_settings
from limiter.core.limiter import Budget, Limiter
from limiter.core.store import StoreError
from limiter.request.store_access import StoreAccess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rest_framework.request import Request
    from rest_framework.views import APIView

    from limiter.core.decision import Decision

__all__ = ["AnonRateThrottle", "ScopedRateThrottle", "SimpleRateThrottle", "UserRateThrottle"]


class SimpleRateThrottle(throttling.SimpleRateThrottle):  # type: ignore[misc]
    """As the framework's class of this name, with its ``rate``, ``scope`` and ``get_cache_key``.

    ``decision`` says where the limits stand, after ``allow_request``.
    """

    decision: "Decision | None" = None

    def parse_rate(self, rate: "str | None") -> "tuple[None, None]":
        """The store parses it."""
        return None, None

    def allow_request(self, request: "Request", view: "APIView") -> bool:
        """Count the request, or deny it and count nothing.  Raises StoreError, unless ON_ERROR is admit."""
        key = None if self.rate is None else self.get_cache_key(request, view)
        if key is None:
            return True
        app_id = f"drf-{sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:56]}"
        try:
            self.decision = _stores.hit(self.rate, app_id)
        except StoreError:
            if store_settings().on_error == "admit":
                return True
            raise
        return self.decision.allowed

    def wait(self) -> "float | None":
        """The seconds until the same request is admitted; None if that is never."""
        retry_after = None if self.decision is None else self.decision.retry_after
        return None if retry_after == float("inf") else retry_after


class AnonRateThrottle(throttling.AnonRateThrottle, SimpleRateThrottle):  # type: ignore[misc]
    """Limits those who are not authenticated, by address."""


class UserRateThrottle(throttling.UserRateThrottle, SimpleRateThrottle):  # type: ignore[misc]
    """Limits users, and those who are not authenticated by address."""


class ScopedRateThrottle(throttling.ScopedRateThrottle, SimpleRateThrottle):  # type: ignore[misc]
    """Limits views by their ``throttle_scope``."""


class _Stores:
    """The limiters of all throttles, one for each rate, made at the first request."""

    def __init__(self) -> None:
        self._budget = Budget()
        self._limiters: dict[tuple[str, str], tuple[Limiter, StoreAccess]] = {}

    def hit(self, rate: str, app_id: str) -> "Decision":
        settings = store_settings()
        root = settings.store(app_id)
        kept = self._limiters.get((root, rate))
        if kept is None:
            try:
                limiter = Limiter(root, rate, newcomers=settings.newcomers, budget=self._budget)
            except ValueError as error:
                raise ImproperlyConfigured(f"throttle rate: {error}") from None
            kept = limiter, StoreAccess(settings.timeout, lambda: [root])
            self._limiters[root, rate] = kept
        limiter, access = kept
        return limiter.recall(app_id) or access.call(limiter.hit, app_id)


_stores = _Stores()
