"""Django: middleware, a decorator for views, and a system check::

    INSTALLED_APPS = [..., "limiter.contrib.django"]  # for manage.py check
    MIDDLEWARE = ["limiter.contrib.django.RateLimitMiddleware", ...]
    ACCESS_LIMITER = {"ROOT": "/var/lib/my-app/limits", "LIMIT": "10/second", "KEY": "header:X-Api-Key"}

ACCESS_LIMITER has the settings of docs/settings.md without LIMITER_.  What it does not have is a variable of the
process.  KEY may also be a function that gets the request, and RULES a list of rules (docs/rules.md).

A denied request gets 429 from ``handler429(request, exception)`` of the root URLconf, if there is one.
"""

import logging
from functools import wraps

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings as django_settings
from django.core.checks import Error, register
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponse
from django.urls import get_resolver, get_urlconf

from limiter import wsgi
from limiter.contrib.windows import FirstHit
from limiter.core.limit import SECOND
from limiter.core.limiter import Limiter
from limiter.core.store import StoreError
from limiter.request.default_store import VARIABLES
from limiter.request.gates import Gates
from limiter.request.long_running import EXEMPT, LongRunningGate
from limiter.request.response import OK, TOO_MANY_REQUESTS, body, fields, standings
from limiter.request.settings import REQUEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from django.http import HttpRequest, HttpResponseBase

    from limiter.core.decision import Decision
    from limiter.request.gate import Verdict
    from limiter.request.settings import Settings

    T = TypeVar("T")
    View = Callable[..., Any]
    Who = Callable[[HttpRequest], str | None]

__all__ = ["EXEMPT", "RateLimitMiddleware", "TooManyRequests", "rate_limit"]

_NAMES = {
    name.removeprefix("LIMITER_") for name in (*REQUEST, *VARIABLES) if name.startswith("LIMITER_")
}
_log = logging.getLogger("limiter")


class TooManyRequests(Exception):  # noqa: N818 (as Django's Http404)
    """What a ``handler429`` gets.  ``decision`` says where the limits stand."""

    def __init__(self, decision: "Decision | None") -> None:
        super().__init__(TOO_MANY_REQUESTS)
        self.decision = decision


class RateLimitMiddleware:
    """Answers 401, 429 or 500 itself, or calls the view and adds the RateLimit fields.

    The view finds the Decision in ``request.limiter_decision``: None if nothing was counted.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: "View") -> None:
        self._answer = _limited(get_response, _Door())
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: "HttpRequest") -> "Any":
        """Answer a request, or return a coroutine that does."""
        return self._answer(request)


def rate_limit(limit: str, *, key: "str | Who | None" = None) -> "Callable[[View], View]":
    """Limit a view: ``@rate_limit("login=5/minute", key="env:REMOTE_ADDR")``.  It may be ``async def``.

    The rules and the register of the settings do not concern it, and all else does.  Give the limit a name,
    or all views with the same numbers share one.
    """
    door = _Door({"LIMIT": limit, "RULES": "", "APPS": ""}, key)
    return lambda view: _limited(view, door)


def _limited(view: "View", door: "_Door") -> "View":
    """The view behind this door."""

    @wraps(view)
    def limited(request: "HttpRequest", *arguments: "Any", **more: "Any") -> "HttpResponseBase":
        visit = _Visit(request)
        status, decision = door.verdict(visit)
        if status is not OK:
            return visit.refusal(status, decision)
        return visit.finish(view(request, *arguments, **more), decision)

    @wraps(view)
    async def limited_coroutine(
        request: "HttpRequest", *arguments: "Any", **more: "Any"
    ) -> "HttpResponseBase":
        visit = _Visit(request)
        status, decision = await door.call(door.verdict, visit)
        if status is not OK:
            return visit.refusal(status, decision)
        response = await view(request, *arguments, **more)
        return await door.call(visit.finish, response, decision)

    return limited_coroutine if iscoroutinefunction(view) else limited


class _Door:
    """The settings of one place that limits.  They are read at the first request, and when a test changes them."""

    def __init__(self, own: "dict[str, str] | None" = None, key: "str | Who | None" = None) -> None:
        self._own = own or {}
        self._key = key
        self._settings: object = self

    def verdict(self, visit: "_Visit") -> "Verdict":
        gates, variables = self._opened
        status, decision = visit.verdict(gates, {**visit.variables, **variables})
        visit.request.limiter_decision = decision
        return status, decision

    def gate(self) -> LongRunningGate:
        """The gate by the settings alone.  Raises ImproperlyConfigured and ValueError."""
        gates, variables = self._opened
        return gates.choose(variables)

    async def call(self, function: "Callable[..., T]", *arguments: "Any") -> "T":
        """What the function returns.  The event loop does not wait for a store that may hang."""
        try:
            is_direct = self.gate().is_all_direct()
        except ValueError:
            is_direct = True  # a mistake in the settings, which the function reports
        if is_direct:
            return function(*arguments)
        return await sync_to_async(function, thread_sensitive=False)(*arguments)

    @property
    def _opened(self) -> "tuple[Gates, dict[str, str]]":
        settings = getattr(django_settings, "ACCESS_LIMITER", None)
        if settings is not self._settings:
            self._known = self._open({**(settings or {}), **self._own})
            self._settings = settings
        return self._known

    def _open(self, given: "dict[str, Any]") -> "tuple[Gates, dict[str, str]]":
        for name in given:
            if name not in _NAMES:
                raise ImproperlyConfigured(
                    f"ACCESS_LIMITER[{name!r}]: expected one of {', '.join(sorted(_NAMES))}"
                )
        key, rules = given.pop("KEY", None), given.pop("RULES", None)
        if isinstance(rules, str):
            given["RULES"], rules = rules, None
        # Variables of WSGI: their bytes are decoded as Latin-1.
        variables = {
            f"LIMITER_{name}": str(value).encode("utf-8", "surrogateescape").decode("latin-1")
            for name, value in given.items()
        }
        return Gates(None, self._key or key, rules), variables


class _Visit(wsgi.Visit):
    """A request on its way through a door of Django."""

    def __init__(self, request: "HttpRequest") -> None:
        super().__init__(request.META)
        self.request: Any = request
        self.variables = {name: it for name, it in request.META.items() if name.startswith("LIMITER_")}

    def path(self) -> str:
        path: str = self.request.path
        return path

    def query(self) -> bytes:
        text: str = self.request.META.get("QUERY_STRING", "")
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:  # Django's ASGI decodes UTF-8
            return text.encode("utf-8", "surrogateescape")

    def write(self, reason: str) -> None:
        _log.error(reason)

    def finish(self, response: "HttpResponseBase", decision: "Decision | None") -> "HttpResponseBase":
        """Count the answer if a rule counts its status, and add the fields."""
        counted = self.count(str(response.status_code))
        if not self.is_counted:
            for name, value in standings(decision if counted is None else counted, self.settings):
                # Another limit, of the middleware or of a decorator, is in the same list.
                response[name] = f"{response[name]}, {value}" if name in response else value
        return response

    def refusal(self, status: str, decision: "Decision | None") -> HttpResponse:
        """The answer with this status."""
        self.report(status)
        handler = getattr(get_resolver(get_urlconf()).urlconf_module, "handler429", None)
        if status == TOO_MANY_REQUESTS and handler is not None:
            response: HttpResponse = handler(self.request, TooManyRequests(decision))
        else:
            response = HttpResponse(body(status, decision, self.settings), status=int(status[:3]))
            del response["Content-Type"]
        for name, value in fields(status, decision, self.settings):
            if name not in response:
                response[name] = value
        return response


def store_settings() -> "Settings":
    """The settings as ACCESS_LIMITER and the variables of the process have them.

    Raises ImproperlyConfigured for a name that there is not, and ValueError for a bad value.
    """
    return _door.gate().settings


_door = _Door()


def check_store(**_: object) -> "list[Error]":
    """Try the settings and the store: what is wrong, for ``manage.py check``."""
    try:
        gate = _door.gate()
        gate.kind()  # which parses the limits
        root = gate.settings.store("check")
        Limiter(root, [FirstHit(SECOND)], newcomers="").hit("check")
    except (ImproperlyConfigured, ValueError) as error:
        hint = "Correct ACCESS_LIMITER: docs/settings.md."
        return [Error(str(error), hint=hint, id="access_limiter.E001")]
    except StoreError as error:
        hint = "Make ACCESS_LIMITER['ROOT'], and let the server's user write to it."
        return [Error(f"the store failed: {error}", hint=hint, id="access_limiter.E002")]
    return []


register(check_store, "access_limiter")
