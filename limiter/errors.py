"""Error handling for your own program: every error is logged, mailed and answered in one place.

In a CGI script, before anything is printed::

    from limiter import errors
    errors.install()

    raise errors.NotFound("no such order")

In front of a WSGI application::

    application = errors.HandleErrors(application)

The client gets a status and JSON, ``{"message": "Not Found"}``, but no reason.  The log gets the reason
(``limiter.report.options`` has the settings).  Any exception that is no HTTPError is answered with 500.
"""

import posix
import sys

from limiter.report.options import NAMES
from limiter.report.reporter import Reporter, reporter_of
from limiter.scripts.http_errors import (
    BadGateway,
    BadRequest,
    Conflict,
    Forbidden,
    GatewayTimeout,
    HTTPError,
    InternalServerError,
    MethodNotAllowed,
    NotFound,
    ServiceUnavailable,
    TooManyRequests,
    Unauthorized,
    answer_to,
)
from limiter.scripts.spares import Spares

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from limiter.scripts.output_buffer import Page
    from limiter.scripts.uncaught import Shutdown

__all__ = [
    "BadGateway",
    "BadRequest",
    "Conflict",
    "Forbidden",
    "GatewayTimeout",
    "HTTPError",
    "HandleErrors",
    "InternalServerError",
    "MethodNotAllowed",
    "NotFound",
    "ServiceUnavailable",
    "TooManyRequests",
    "Unauthorized",
    "install",
]

# At most one per process.
_shutdown: "Shutdown | None" = None


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
    """From now on, log and mail every error in this process and, in a CGI script, answer it.

    Arguments that are not given are taken from the environment (``limiter.report.options``).
    ``warnings`` are categories of warnings that become exceptions.  Uncaught exceptions of the main
    thread, of other threads and of destructors are reported.  A CGI script is also reported if it ends
    before its headers are complete, or calls ``sys.exit`` with anything but None or 0.  If it raises
    SystemExit itself, it is not reported here: the supervising guard sees that.

    In a CGI script (GATEWAY_INTERFACE is in the environment) ``sys.stdout`` is replaced by a file that
    holds back output (``limiter.scripts.output_buffer``).  After a failure, output that was held back is
    replaced by the answer.  Output that was already sent is truncated, and the log says "headers had
    been sent".  The script then ends with status 0, because everything is reported.

    * An exception in another thread ends the process at once, because the main thread may wait for that
      thread for ever.  ``atexit`` functions do not run then, but open files are written.
    * After an exception in a destructor the script goes on, and its output is dropped.
    * After the client has left, nothing more is reported.
    * A forked child answers nothing, and ends like any other process.
    * A script named ``nph-`` cannot use this, because it does not write CGI headers.

    Anywhere else (in a long-running process or a cron job) it answers nothing and ends nothing.

    To change the settings, call it again.  Raises ValueError for a mistake in them.  If you do not catch
    this, it is reported and answered like any other exception.
    """
    given = (log, level, sample, mail_to, mail_from, smtp)
    environ = {**posix.environ}
    for name, value in zip(NAMES, given):
        if value is not None:
            environ[name.encode()] = str(value).encode("utf-8", "surrogateescape")
    global _shutdown  # noqa: PLW0603
    if _shutdown is None:
        from limiter.scripts.uncaught import Shutdown

        _shutdown = Shutdown(environ, _hold_back() if b"GATEWAY_INTERFACE" in environ else None)
        _shutdown.take_over()
    _shutdown.reporter = Reporter(environ)
    if warnings:
        from warnings import simplefilter

        for category in warnings:
            simplefilter("error", category)


class HandleErrors:
    """Answers and reports the exceptions of a WSGI application (PEP 3333).

    If it is raised before the first byte of the body, by the call or by the iteration, the answer to it
    replaces the application's answer.  A later exception is reported and raised again, so that the
    server breaks off the response.  What is no subclass of Exception, such as SystemExit, is left to the
    server.  The settings are variables: those of the request's environ (Apache's SetEnv) take precedence
    over those of the process.
    """

    def __init__(self, app: "WSGIApplication") -> None:
        # Load these while memory and descriptors are free.  Later, other threads may take the spare
        # descriptors.
        from limiter import wsgi  # noqa: F401
        from limiter.report import exception_text, journal, mail  # noqa: F401
        from limiter.request import response  # noqa: F401

        self._app = app
        self._spares = Spares()

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> "Iterable[bytes]":
        """Answer a request."""
        request = _Request(environ, start_response, self._spares)
        try:
            parts = self._app(environ, request.start)
            if isinstance(parts, (list, tuple)):
                return parts if request.has_begun else _Parts(request, parts)
            wrapper = environ.get("wsgi.file_wrapper")
            is_file = isinstance(wrapper, type) and isinstance(parts, wrapper)
            # The server handles such a file in its own way.
            return parts if is_file and request.has_begun else _Parts(request, parts)
        except Exception as error:
            return request.fail(error)


class _Request:
    """A request, and how much of its answer was sent."""

    def __init__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse", spares: Spares
    ) -> None:
        self._environ = environ
        self._start_response = start_response
        self._spares = spares
        self.has_begun = False
        self.has_left = False

    def start(self, *arguments: "Any") -> "Callable[[bytes], object]":
        """Begin the answer: this is the application's ``start_response``."""
        write = self._start_response(*arguments)
        self.has_begun = True

        def note(data: bytes) -> object:
            self.has_left = self.has_left or bool(data)
            return write(data)

        return note

    def fail(self, error: Exception) -> "list[bytes]":
        """Report the current exception and answer it, or raise it again if the body was begun."""
        status, fields, body = answer_to(error)
        self.report(status, error)
        if self.has_left:
            raise error
        self.has_begun = True
        fields.append(("Content-Length", str(len(body))))
        self._start_response(status, fields, sys.exc_info())
        return [] if self._environ.get("REQUEST_METHOD") == "HEAD" else [body]

    def report(self, status: str, error: Exception) -> None:
        """Report an exception."""
        from limiter.wsgi import variables

        remark = "headers had been sent" if self.has_left else ""
        with self._spares:
            reporter_of(variables(self._environ)).report_error(status, error, remark)


class _Parts:
    """The parts of the application's answer, or of the answer to its failure."""

    def __init__(self, request: _Request, parts: "Iterable[bytes]") -> None:
        self._request = request
        self._source = parts
        self._parts: Iterator[bytes] = iter(parts)

    def __iter__(self) -> "Iterator[bytes]":
        return self

    def __next__(self) -> bytes:
        request = self._request
        try:
            part = next(self._parts, None)
            if not request.has_begun and part != b"":
                raise RuntimeError("The application has not called start_response")
        except Exception as error:
            self._parts = iter(request.fail(error))
            part = next(self._parts, None)
        if part is None:
            raise StopIteration
        request.has_left = request.has_left or bool(part)
        return part

    def close(self) -> None:
        """Close what the application returned: PEP 3333 requires the server to call this."""
        close = getattr(self._source, "close", None)
        if close is None:
            return
        try:
            close()
        except Exception as error:
            self._request.report("500 Internal Server Error", error)


def _hold_back() -> "Page | None":
    """Replace standard output with a page, if there is a standard output."""
    if sys.stdout is None:
        return None
    from io import TextIOWrapper

    from limiter.scripts.output_buffer import Page

    page = Page()
    old = sys.stdout
    sys.stdout = TextIOWrapper(page, old.encoding, old.errors, newline="\n", write_through=True)
    return page
