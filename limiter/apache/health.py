"""The door for a load balancer: it reports whether this web server can admit hits now.

The check makes, lists, claims and removes a slot (``limiter.core.trial``).  All stores must work, because each has
a part of the app_ids.  With ``LIMITER_MODE=off`` no store is called, because no request needs one.
docs/apache.md says what the answers mean.
"""

import posix

from limiter.cgi import body_of, log, write
from limiter.core.newcomers import check, room
from limiter.core.notation import parse
from limiter.core.store import Store, patiently
from limiter.core.trial import claim
from limiter.report.problems import report_problem
from limiter.request.deadline import hang_up, watch_call
from limiter.request.key import Key
from limiter.request.response import OK, body, fields, header
from limiter.request.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

SERVICE_UNAVAILABLE = "503 Service Unavailable"

# No app_id begins with a dot.
_NOBODY = ".health"


def health() -> "NoReturn":
    """Answer 200 if a hit could be admitted, else 503 with the name of the reason, and end the process.

    The answer comes within LIMITER_TIMEOUT.  The name is that of the error's number (errno(3)),
    ``settings`` for a mistake in the settings, or ``internal`` for a mistake in this program.  The full
    reason is one log line.  Of the request, only the method HEAD makes a difference.
    """
    environ = posix.environ
    try:
        settings = Settings(environ)
        Key(settings.key, settings.trusted_proxies)
        check(settings.newcomers)
        more = ""
        if settings.rules and settings.mode != "off":
            from limiter.request.rules_file import load

            load(settings.rules)
        if settings.mode != "off":
            more = watch_call(settings.timeout, lambda error: _fail(environ, error), _try, settings)
    except Exception as error:
        _fail(environ, error)
    for note in settings.notes:
        log(note)
    _end(environ, OK, body(OK)[:-1] + more.encode() + b"}")


def _try(settings: Settings) -> str:
    """Do everything that a hit may need.  Returns how many new clients are taken in now, as JSON.

    Raises ValueError or StoreError if it fails.
    """
    if settings.apps:
        from limiter.request.register import look_up

        look_up(settings.apps, _NOBODY)
    else:
        parse(settings.share(settings.limit))
    roots = settings.root or (settings.store(_NOBODY),)
    for root in roots:
        patiently(claim, Store(root))
    if not settings.newcomers:
        return ""
    rooms = [patiently(room, root, settings.newcomers) for root in roots]
    return f', "newcomers": {min(rooms)}'


def _fail(environ: "Mapping[bytes, bytes]", error: Exception) -> "NoReturn":
    """Report the error, answer 503 with the name of the reason, and end the process."""
    import errno

    report_problem(environ, error, lambda reason: log(f"health: {reason}"), SERVICE_UNAVAILABLE)
    reason = errno.errorcode.get(getattr(error, "errno", None) or 0, "internal")
    if isinstance(error, ValueError):
        reason = "settings"
    message = body(SERVICE_UNAVAILABLE)[:-1] + f', "reason": "{reason}"}}'.encode()
    _end(environ, SERVICE_UNAVAILABLE, message)


def _end(environ: "Mapping[bytes, bytes]", status: str, message: bytes) -> "NoReturn":
    head = header([("Status", status), *fields(status, None)]) + b"\n"
    if write(head if environ.get(b"REQUEST_METHOD") == b"HEAD" else head + message):
        rest = body_of(environ)
        if rest is not None:
            rest.drain()
    hang_up()
    posix._exit(0)
