"""Errors of a program of one's own: whatever goes wrong is logged, mailed and answered in one place.

In a CGI script, before anything is printed::

    from limiter import errors
    errors.install()

    raise errors.NotFound("no such order")

In front of a WSGI application::

    application = errors.HandleErrors(application)

The client gets a status and JSON, ``{"message": "Not Found"}``, and no reason; the log gets the reason
(``limiter.reporter`` has the settings).  Any exception that is no HTTPError is 500.
"""

import posix
import sys

from limiter.httperror import (
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
from limiter.reporter import NAMES, Reporter, reporter_of
from limiter.spares import Spares

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from limiter.page import Page
    from limiter.shutdown import Shutdown

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

# A process has one.
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
    """From now on, whatever goes wrong in this process is logged, mailed and, in a CGI script, answered.

    What is not given is taken from the environment (``limiter.reporter``).  Warnings of these categories become
    exceptions.  Uncaught exceptions of the main thread, of other threads and of destructors are reported.  So is a CGI
    script that ends before its headers are complete, or by ``sys.exit`` with anything but None or 0 (one that
    raises SystemExit itself is not: the supervising guard sees that).

    In a CGI script (GATEWAY_INTERFACE is in the environment) ``sys.stdout`` becomes one that holds back what is
    written (``limiter.page``).  What has not left is dropped for the answer; what has left is cut off, and the
    log says "headers had been sent".  A script that has failed ends with status 0, for all is told.  An exception in
    another thread ends it at once, for the main thread may wait for that one for ever; what is left for its end
    (``atexit``) is then not done, but its files are written out.  After an exception in a destructor it goes on, but
    its output is dropped.  When the client has left, nothing is told any more.  A child that it has forked answers
    nothing, and ends as any other process.  A script named ``nph-``, which writes no such headers, cannot use this.

    Anywhere else (in a process that stays, in a job of cron) nothing is answered, and nothing ended.

    Called again it changes the settings.  Raises ValueError for a mistake in them; uncaught, this is reported and
    answered as any other is.
    """
    given = (log, level, sample, mail_to, mail_from, smtp)
    environ = {**posix.environ}
    for name, value in zip(NAMES, given):
        if value is not None:
            environ[name.encode()] = str(value).encode("utf-8", "surrogateescape")
    global _shutdown  # noqa: PLW0603
    if _shutdown is None:
        from limiter.shutdown import Shutdown

        _shutdown = Shutdown(environ, _hold_back() if b"GATEWAY_INTERFACE" in environ else None)
        _shutdown.take_over()
    _shutdown.reporter = Reporter(environ)
    if warnings:
        from warnings import simplefilter

        for category in warnings:
            simplefilter("error", category)


class HandleErrors:
    """Answers and reports the exceptions of a WSGI application (PEP 3333).

    One that is raised before the first byte of the body, by the call or by the iteration, is answered in place of
    what the application had begun.  A later one is reported and raised again, so that the server breaks off.
    What is no Exception, as SystemExit, is the server's affair.  The settings are the variables of the request's
    environ (Apache's SetEnv) over those of the process.
    """

    def __init__(self, app: "WSGIApplication") -> None:
        # Loaded while there is what it takes; and other threads may take the spares.
        from limiter import journal, mail, response, trace, wsgi  # noqa: F401

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
            # The server has a way of its own with a file.
            return parts if is_file and request.has_begun else _Parts(request, parts)
        except Exception as error:
            return request.fail(error)


class _Request:
    """A request, and how far its answer has come."""

    def __init__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse", spares: Spares
    ) -> None:
        self._environ = environ
        self._start_response = start_response
        self._spares = spares
        self.has_begun = False
        self.has_left = False

    def start(self, *arguments: "Any") -> "Callable[[bytes], object]":
        """What the application calls to begin its answer."""
        write = self._start_response(*arguments)
        self.has_begun = True

        def note(data: bytes) -> object:
            self.has_left = self.has_left or bool(data)
            return write(data)

        return note

    def fail(self, error: Exception) -> "list[bytes]":
        """Report the exception that is being handled, and answer it, or raise it again."""
        status, fields, body = answer_to(error)
        self.report(status, error)
        if self.has_left:
            raise error
        self.has_begun = True
        fields.append(("Content-Length", str(len(body))))
        self._start_response(status, fields, sys.exc_info())
        return [] if self._environ.get("REQUEST_METHOD") == "HEAD" else [body]

    def report(self, status: str, error: Exception) -> None:
        """Tell of an exception."""
        from limiter.wsgi import variables

        remark = "headers had been sent" if self.has_left else ""
        with self._spares:
            reporter_of(variables(self._environ)).report_error(status, error, remark)


class _Parts:
    """The parts of an application's answer, or of the one to its failure."""

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
        """Close what the application has returned, as the server must."""
        close = getattr(self._source, "close", None)
        if close is None:
            return
        try:
            close()
        except Exception as error:
            self._request.report("500 Internal Server Error", error)


def _hold_back() -> "Page | None":
    """Put a page in the place of standard output, if there is one."""
    if sys.stdout is None:
        return None
    from io import TextIOWrapper

    from limiter.page import Page

    page = Page()
    old = sys.stdout
    sys.stdout = TextIOWrapper(page, old.encoding, old.errors, newline="\n", write_through=True)
    return page
