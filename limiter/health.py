"""The door for a load balancer: whether this web server can admit, now.

It does what the first hit of an application does that nobody has seen before, with the same code: it furnishes
a slot, lists it, claims it by a rename; then it removes it.  So it needs of the store all that a hit ever needs,
room for a new application included.  All this happens in ``ROOT/.new-health-UNIQUE``, into which nobody else
looks: no app_id is counted, any number of balancers may ask any number of web servers, and no answer depends on
another.  What it leaves behind when it is killed, or when the store fails half-way, goes with a later sweep.

It says what is true here, not what is to be done about it:

* Of several stores each must be had, for each has its part of the app_ids.
* ``LIMITER_ON_ERROR=admit`` and ``LIMITER_MODE=shadow`` make no difference.  Whoever has the choice had better
  ask a server whose limits hold.
* ``LIMITER_MODE=off`` does: no request needs a store then, and none is asked.

When every server has lost the same store, all say so.  A balancer that shall then go on all the same, say with
the app_ids of the other stores, needs a server of last resort that it does not ask.
"""

import posix

from limiter import deadline
from limiter.cgi import Body, log, write
from limiter.furnish import furnish
from limiter.hit import clock
from limiter.limit import make
from limiter.notation import parse
from limiter.request import Key
from limiter.response import OK, body, fields, header
from limiter.settings import Settings
from limiter.store import Store, StoreError, failure, patiently
from limiter.verdict import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

SERVICE_UNAVAILABLE = "503 Service Unavailable"

# No app_id begins with a dot.
_NOBODY = ".health"
_ASIDE = ".new-health-"


def health() -> "NoReturn":
    """Answer 200 if a hit could be admitted, else 503 with the reason's name, and end the process.

    The answer comes within LIMITER_TIMEOUT.  The name is that of the error's number (errno(3): ENOSPC, ENOTCONN,
    ETIMEDOUT for a silent store), ``settings`` for a mistake in these, or ``internal`` for one in this program.
    The reason itself is one line of the log.  Nothing of the request matters but whether it is HEAD.
    """
    environ = posix.environ

    def late(error: StoreError) -> "NoReturn":
        _end(environ, _fail(environ, error))

    try:
        settings = Settings(environ)
        Key(settings.key, settings.proxies)
        if settings.mode != "off":
            deadline.watch(settings.timeout, late, _try, settings)
    except Exception as error:
        _end(environ, _fail(environ, error))
    _end(environ, "")


def _try(settings: Settings) -> None:
    """Do all that a hit may need; raise ValueError or StoreError if it cannot be done."""
    if settings.apps:
        from limiter.register import look_up

        look_up(settings.apps, _NOBODY)
    else:
        parse(settings.share(settings.limits))
    for root in settings.roots or (settings.root(_NOBODY),):
        patiently(_claim, Store(root))


def _claim(store: Store) -> None:
    """Furnish a slot, claim it, and remove it."""
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
        raise failure(error, path) from error


def _fail(environ: "Mapping[bytes, bytes]", error: Exception) -> str:
    """The name of the reason, which is told."""
    tell(environ, error, lambda reason: log(f"health: {reason}"), SERVICE_UNAVAILABLE)
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
    deadline.hang_up()
    posix._exit(0)
