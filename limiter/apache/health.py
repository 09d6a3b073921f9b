"""The door for a load balancer: it reports whether this web server can admit hits now.

The check does the same as the first hit of a new application, with the same code.  It makes a slot,
lists it, claims it by a rename, and then removes it.  So it needs everything from the store that a hit
ever needs, including room for a new application.  It works in ``ROOT/.new-health-UNIQUE``, a directory
that nothing else reads.  So no app_id is counted, any number of balancers may check any number of web
servers, and no answer depends on another.  If the check is killed, or the store fails halfway, a later
sweep removes what is left.

It reports the state of this server only; the balancer decides what to do:

* If there are several stores, all of them must work, because each has a part of the app_ids.
* ``LIMITER_ON_ERROR=admit`` and ``LIMITER_MODE=shadow`` make no difference.  A balancer that has a
  choice should prefer a server that can enforce its limits.
* ``LIMITER_MODE=off`` makes a difference: no request needs a store then, so none is called.

If all servers lose the same store, all of them answer 503.  A balancer that should still pass on
requests then, for example for the app_ids of the other stores, needs a server of last resort that it
does not check.
"""

import posix

from limiter.cgi import Body, log, write
from limiter.core.furnish import furnish
from limiter.core.limit import clock, make
from limiter.core.notation import parse
from limiter.core.store import Store, StoreError, patiently
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
_ASIDE = ".new-health-"


def health() -> "NoReturn":
    """Answer 200 if a hit could be admitted, else 503 with the name of the reason, and end the process.

    The answer comes within LIMITER_TIMEOUT.  The name is that of the error's number (errno(3): ENOSPC,
    ENOTCONN, ETIMEDOUT for an unresponsive store), ``settings`` for a mistake in the settings, or
    ``internal`` for a mistake in this program.  The full reason is one log line.  Of the request, only
    the method HEAD makes a difference.
    """
    environ = posix.environ

    def late(error: StoreError) -> "NoReturn":
        _end(environ, _fail(environ, error))

    try:
        settings = Settings(environ)
        Key(settings.key, settings.proxies)
        if settings.mode != "off":
            watch_call(settings.timeout, late, _try, settings)
    except Exception as error:
        _end(environ, _fail(environ, error))
    _end(environ, "")


def _try(settings: Settings) -> None:
    """Do everything that a hit may need.  Raises ValueError or StoreError if that fails."""
    if settings.apps:
        from limiter.request.register import look_up

        look_up(settings.apps, _NOBODY)
    else:
        parse(settings.share(settings.limits))
    for root in settings.roots or (settings.root(_NOBODY),):
        patiently(_claim, Store(root))


def _claim(store: Store) -> None:
    """Make a slot, claim it, and remove it."""
    directory = f"{_ASIDE}{posix.urandom(8).hex()}"
    path = f"{store.root}/{directory}"
    free, taken = make(0, False, 0), make(clock(), False, 0)
    furnish(store, directory, {"": [free]})
    if free not in store.names(directory) or not store.rename(directory, free, taken):
        import errno

        raise StoreError(errno.EIO, "A slot is missing that has just been made", f"{path}/{free}")
    try:
        posix.unlink(f"{path}/{taken}")
        posix.rmdir(path)
    except OSError as error:
        raise StoreError.of(error, path) from error


def _fail(environ: "Mapping[bytes, bytes]", error: Exception) -> str:
    """Report the error, and return the name of the reason."""
    report_problem(environ, error, lambda reason: log(f"health: {reason}"), SERVICE_UNAVAILABLE)
    if isinstance(error, ValueError):
        return "settings"
    import errno

    return errno.errorcode.get(getattr(error, "errno", None) or 0, "internal")


def _end(environ: "Mapping[bytes, bytes]", reason: str) -> "NoReturn":
    status = SERVICE_UNAVAILABLE if reason else OK
    message = body(status)
    if reason:
        message = message[:-1] + f', "reason": "{reason}"}}'.encode()
    head = header([("Status", status), *fields(status, None)]) + b"\n"
    if write(head if environ.get(b"REQUEST_METHOD") == b"HEAD" else head + message):
        Body(environ).drain()
    hang_up()
    posix._exit(0)
