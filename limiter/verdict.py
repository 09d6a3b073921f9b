"""The verdict on a request: what every door answers, however it came by the app_id."""

from limiter.response import INTERNAL_SERVER_ERROR, OK, TOO_MANY_REQUESTS, UNAUTHORIZED
from limiter.store import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from limiter.hit import Decision
    from limiter.settings import Settings

    Verdict = tuple[str, Decision | None]


def judge(
    settings: "Settings",
    find: "Callable[[], str | None]",
    hit: "Callable[[str, str], Decision]",
    call: "Callable[..., Verdict]",
    log: "Callable[[Exception | str], None]",
) -> "Verdict":
    """The status to answer, and the decision if there is one.  Never raises.

    ``find()`` is the request's valid app_id or None; ``hit(limits, app_id)`` counts a hit;
    ``call(function, *arguments)`` returns what the function returns, or raises StoreError if that takes
    too long.  ``log`` gets the error that a request fails with, and in shadow mode what would have been denied.
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
    """The verdict on a request that could not be judged, for that reason."""
    log(error)
    admits = settings.mode == "shadow" or (settings.admits_on_error and isinstance(error, StoreError))
    return (OK if admits else INTERNAL_SERVER_ERROR), None


def tell(
    environ: "Mapping[bytes, bytes]",
    problem: "Exception | str",
    log: "Callable[[str], None]",
    status: str = INTERNAL_SERVER_ERROR,
) -> None:
    """Report an error, if these variables say how (``limiter.reporter``); else, or if it is text, log it."""
    if isinstance(problem, str):
        log(problem)
    elif (
        environ.get(b"LIMITER_LOG")
        or environ.get(b"LIMITER_LOG_LEVEL")
        or environ.get(b"LIMITER_MAIL_TO")
    ):
        from limiter.reporter import reporter_of

        reporter_of(environ).report_error(status, problem)
    else:
        log(describe(problem))


def tell_denial(environ: "Mapping[bytes, bytes]", status: str) -> None:
    """Report what a request was denied with, a status of 4xx."""
    from limiter.reporter import reporter_of

    reporter_of(environ).report(status, status[4:])


def describe(error: Exception) -> str:
    """An error, as a reason in the log."""
    return f"{type(error).__name__}: {error}"


def line(reason: str) -> str:
    """One line of the log, whatever the reason's text."""
    return f"limiter: {reason}"[:2000].encode("unicode_escape").decode() + "\n"


def _who(settings: "Settings", app_id: "str | None") -> str:
    if app_id is None:
        return "a request without a valid app_id"
    from limiter.secrecy import MASK, is_told

    return app_id if is_told(settings.key) else MASK


def _withhold(settings: "Settings", app_id: str, error: Exception) -> None:
    """Let an error not tell who asked, if that may be a key: its path may have it."""
    from limiter.secrecy import hide, is_told

    if not is_told(settings.key):
        hide(app_id, error)


def _decide(settings: "Settings", app_id: str, hit: "Callable[[str, str], Decision]") -> "Verdict":
    if not settings.apps:
        return _strike(hit, settings.limits, app_id)
    from limiter.register import UNLIMITED, look_up

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
