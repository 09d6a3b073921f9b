"""The verdict on a request.  It is the same for every door, wherever the app_id comes from."""

from limiter.core.store import StoreError
from limiter.request.response import INTERNAL_SERVER_ERROR, OK, TOO_MANY_REQUESTS, UNAUTHORIZED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from limiter.core.hit import Decision
    from limiter.request.settings import Settings

    Verdict = tuple[str, Decision | None]


def judge(
    settings: "Settings",
    find: "Callable[[], str | None]",
    hit: "Callable[[str, str], Decision]",
    call: "Callable[..., Verdict]",
    log: "Callable[[Exception | str], None]",
) -> "Verdict":
    """The status to answer, and the decision if there is one.  Raises no Exception.

    ``find()`` returns the request's valid app_id or None.  ``hit(limits, app_id)`` counts a hit.
    ``call(function, *arguments)`` returns what the function returns, or raises StoreError if that takes
    too long.  ``log`` gets the error if the request fails.  In shadow mode, it also gets a text that
    reports what would have been denied.
    """
    if settings.mode == "off":
        return OK, None
    status, decision, app_id = UNAUTHORIZED, None, None
    try:
        app_id = find()
        if app_id is not None:
            status, decision = call(_decide, settings, app_id, hit)
    except Exception as error:
        if app_id is not None:
            _withhold(settings, app_id, error)
        return fail(settings, error, log)
    if settings.mode == "enforce":
        return status, decision
    if status is not OK:
        log(f"shadow: {_who(settings, app_id)} would have got {status}")
    return OK, None


def fail(settings: "Settings", error: Exception, log: "Callable[[Exception | str], None]") -> "Verdict":
    """The verdict on a request for which this error prevented a decision.  Logs the error."""
    log(error)
    admits = settings.mode == "shadow" or (settings.admits_on_error and isinstance(error, StoreError))
    return (OK if admits else INTERNAL_SERVER_ERROR), None


def _who(settings: "Settings", app_id: "str | None") -> str:
    if app_id is None:
        return "a request without a valid app_id"
    from limiter.request.secret_keys import MASK, is_told

    return app_id if is_told(settings.key) else MASK


def _withhold(settings: "Settings", app_id: str, error: Exception) -> None:
    """Mask the app_id in an error if it may be a key.  The error's path may contain it."""
    from limiter.request.secret_keys import hide, is_told

    if not is_told(settings.key):
        hide(app_id, error)


def _decide(settings: "Settings", app_id: str, hit: "Callable[[str, str], Decision]") -> "Verdict":
    if not settings.apps:
        return _strike(hit, settings.limits, app_id)
    from limiter.request.register import UNLIMITED, look_up

    entry = look_up(settings.apps, app_id)
    if entry is None:
        return UNAUTHORIZED, None
    path, limits = entry
    if limits == UNLIMITED:
        return OK, None
    try:
        return _strike(hit, limits, app_id)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _strike(hit: "Callable[[str, str], Decision]", limits: str, app_id: str) -> "Verdict":
    decision = hit(limits, app_id)
    return (OK if decision else TOO_MANY_REQUESTS), decision
