"""Reports problems: with the reporter if the settings configure it, else as a plain log line."""

from limiter.request.response import INTERNAL_SERVER_ERROR, UNAUTHORIZED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _typeshed.wsgi import ErrorStream


def report_problem(
    environ: "Mapping[bytes, bytes]",
    problem: "Exception | str",
    log: "Callable[[str], None]",
    status: str = INTERNAL_SERVER_ERROR,
) -> None:
    """Report an error with the reporter (``limiter.report.reporter``) if these variables configure it.

    Text, such as what shadow mode would have denied, goes to LIMITER_LOG if that is set.  Otherwise it is
    logged as a plain line.
    """
    if isinstance(problem, str):
        if environ.get(b"LIMITER_LOG"):
            from limiter.report.reporter import reporter_of

            reporter_of(environ).note(problem)
        else:
            log(problem)
    elif (
        environ.get(b"LIMITER_LOG")
        or environ.get(b"LIMITER_LOG_LEVEL")
        or environ.get(b"LIMITER_MAIL_TO")
    ):
        from limiter.report.reporter import reporter_of

        reporter_of(environ).report_error(status, problem)
    else:
        log(describe(problem))


def report_denial(
    status: str,
    level: "bytes | None",
    environ: "Callable[[], Mapping[bytes, bytes]]",
    why: "Callable[[], str]",
) -> None:
    """Report a request that got a 4xx status, if LIMITER_LOG_LEVEL, the ``level``, says so.

    ``why()`` returns the reason of a 401.  It must not contain what may be a secret.
    """
    if level == b"warning" and status[0] == "4":
        from limiter.report.reporter import reporter_of

        reason = status[4:]
        if status == UNAUTHORIZED:
            try:
                reason += f": {why()}"
            except Exception as error:  # a file of rules may have changed in between
                reason += f": {describe(error)}"
        reporter_of(environ()).report(status, reason)


def describe(error: Exception) -> str:
    """Return the error's type and message, as the reason for the log."""
    return f"{type(error).__name__}: {error}"


def line(reason: str) -> str:
    """Return a single log line for any reason.  The reason is escaped, and cut to 2000 characters."""
    return f"limiter: {reason}"[:2000].encode("unicode_escape").decode() + "\n"


def write_line(file: "ErrorStream", reason: str) -> None:
    """Write one line to a log file.  Never raises."""
    try:
        file.write(line(reason))
        file.flush()
    except Exception:
        pass  # there is nowhere left to report it, and the decision stands
