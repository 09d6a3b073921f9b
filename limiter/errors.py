"""Error handling for your own program: every error is logged, mailed and answered in one place.

docs/python.md shows how to use it; docs/errors.md says what the client, the log and you get.
"""

import posix
import sys

from limiter.report.reporter import Reporter, reporter_of
from limiter.report.settings import REPORT
from limiter.scripts.http_errors import (
    BadRequest,
    Conflict,
    Forbidden,
    HTTPError,
    MethodNotAllowed,
    NotFound,
    ServiceUnavailable,
    TooManyRequests,
    Unauthorized,
    answer_to,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from limiter.scripts.uncaught import Uncaught

__all__ = [
    "BadRequest",
    "Conflict",
    "Forbidden",
    "HTTPError",
    "HandleErrors",
    "MethodNotAllowed",
    "NotFound",
    "ServiceUnavailable",
    "TooManyRequests",
    "Unauthorized",
    "install",
]

_NOT_BEGUN = "The application has not called start_response"

# At most one per process.
_uncaught: "Uncaught | None" = None


def install(
    log: "str | None" = None,
    mail_to: "str | None" = None,
    *,
    mail_from: "str | None" = None,
    smtp: "str | None" = None,
    level: "str | None" = None,
    sample: "int | None" = None,
    warnings: "Iterable[type[Warning]]" = (),
) -> None:
    """From now on, log and mail every uncaught exception in this process and, in a CGI script, answer it.

    Settings that are not given are taken from the environment (docs/settings.md).  To change them, call
    it again.  ``warnings`` are categories of warnings that become exceptions.

    A CGI script (GATEWAY_INTERFACE is in the environment) ends with status 0 after a failure.  If an
    exception ends another thread, ``atexit`` functions do not run, because the main thread may wait for
    that thread for ever.  After the client has left, nothing is reported.  A script named ``nph-`` cannot
    use this.  Any other process only reports.

    Raises ValueError for a mistake in the settings.  If you do not catch it, it is reported as well.
    """
    given = (log, level, sample, mail_to, mail_from, smtp)
    environ = {**posix.environ}
    for name, value in zip(REPORT, given):
        if value is not None:
            environ[name.encode()] = str(value).encode("utf-8", "surrogateescape")
    global _uncaught  # noqa: PLW0603
    if _uncaught is None:
        from limiter.scripts.output_buffer import hold_back
        from limiter.scripts.uncaught import Uncaught

        is_script = b"GATEWAY_INTERFACE" in environ
        if not is_script:
            _load_the_reporter()
        _uncaught = Uncaught(environ, hold_back() if is_script else None)
    _uncaught.reporter = Reporter(environ)
    if warnings:
        from warnings import simplefilter

        for category in warnings:
            simplefilter("error", category)


class HandleErrors:
    """Answers and reports the exceptions of a WSGI application (PEP 3333).

    An exception after the first byte of the body is reported and raised again, so that the server breaks
    off the response.  What is no subclass of Exception, such as SystemExit, is left to the server.
    Settings in the request's environ (Apache's SetEnv) take precedence over those of the process.
    """

    def __init__(self, app: "WSGIApplication") -> None:
        _load_the_reporter()
        self._app = app

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> "Iterable[bytes]":
        """Answer a request."""
        response = _Response(environ, start_response)
        try:
            parts = response.source = self._app(environ, response.start)
            response.parts = iter(parts)
        except Exception as error:
            return response.fail(error)
        wrapper = environ.get("wsgi.file_wrapper")
        # The server handles these in its own way.
        is_special = isinstance(parts, (list, tuple)) or (
            isinstance(wrapper, type) and isinstance(parts, wrapper)
        )
        return parts if is_special and response.has_begun else response


class _Response:
    """The application's response, or the answer to its failure."""

    def __init__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> None:
        self.source: Iterable[bytes] = ()
        """What the application returned."""
        self.parts: Iterator[bytes] = iter(())
        self.has_begun = False
        self._environ = environ
        self._start_response = start_response
        self._has_left = False

    def start(self, *arguments: "Any") -> "Callable[[bytes], object]":
        """Begin the response: this is the application's ``start_response``."""
        write = self._start_response(*arguments)
        self.has_begun = True

        def note(data: bytes) -> object:
            self._has_left = self._has_left or bool(data)
            return write(data)

        return note

    def __iter__(self) -> "Iterator[bytes]":
        try:
            for part in self.parts:
                if part and not self.has_begun:
                    raise RuntimeError(_NOT_BEGUN)
                self._has_left = self._has_left or bool(part)
                yield part
            if not self.has_begun:
                raise RuntimeError(_NOT_BEGUN)
        except Exception as error:
            yield from self.fail(error)

    def close(self) -> None:
        """Close what the application returned: PEP 3333 requires the server to call this."""
        try:
            getattr(self.source, "close", lambda: None)()
        except Exception as error:
            self._report("500 Internal Server Error", error)

    def fail(self, error: Exception) -> "list[bytes]":
        """Report the current exception and answer it, or raise it again if the body was begun."""
        status, fields, body = answer_to(error)
        self._report(status, error)
        if self._has_left:
            raise error
        fields.append(("Content-Length", str(len(body))))
        self._start_response(status, fields, sys.exc_info())
        return [] if self._environ.get("REQUEST_METHOD") == "HEAD" else [body]

    def _report(self, status: str, error: Exception) -> None:
        from limiter.wsgi import variables

        remark = "headers had been sent" if self._has_left else ""
        reporter_of(variables(self._environ)).report_error(status, error, remark)


def _load_the_reporter() -> None:
    """Load everything that a report needs, while descriptors and memory are free."""
    from limiter import wsgi  # noqa: F401
    from limiter.report import exception_text, journal, mail  # noqa: F401
