"""Exceptions with an HTTP status (RFC 9110, 15).  Raised anywhere, they become the answer."""

# ruff: noqa: N818 (they are named after their status)

from limiter.request.response import INTERNAL_SERVER_ERROR, body, fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class HTTPError(Exception):
    """An answer with the status ``code``, 400 to 599.  The reason is logged; the client never sees it.

    ``fields`` are more header fields for the answer.  Raises ValueError if ``code`` is no registered
    error status (``http.HTTPStatus``), or if a field is not printable ASCII.
    """

    def __init__(self, code: int, reason: str = "", fields: "Mapping[str, str] | None" = None) -> None:
        from http import HTTPStatus  # loaded only after a failure

        super().__init__(reason)
        if code not in [status for status in HTTPStatus if status >= 400]:
            raise ValueError(f"status {code!r:.200}: expected an error's, such as 404")
        self.code = code
        self.status = f"{code:d} {HTTPStatus(code).phrase}"
        self.fields = dict(fields or {})
        for name, value in self.fields.items():
            if not (name + value).isascii() or not (name + value).isprintable():
                raise ValueError(f"field {name!r:.200}: expected printable ASCII, not {value!r:.200}")


class _Named(HTTPError):
    """An HTTPError whose class says the status: ``class NotFound(_Named, code=404)``."""

    _code = 500

    def __init_subclass__(cls, code: int = 0) -> None:
        cls._code = code or cls._code

    def __init__(self, reason: str = "", fields: "Mapping[str, str] | None" = None) -> None:
        super().__init__(self._code, reason, fields)


class BadRequest(_Named, code=400):
    """The request is malformed."""


class Forbidden(_Named, code=403):
    """The client may not do this."""


class NotFound(_Named, code=404):
    """The resource does not exist."""


class Conflict(_Named, code=409):
    """The current state of the resource does not allow this."""


class Unauthorized(_Named, code=401):
    """The client must say who it is; ``challenge`` says how (WWW-Authenticate; RFC 9110, 11.6.1)."""

    def __init__(self, reason: str = "", challenge: str = 'AppId realm="limiter"') -> None:
        super().__init__(reason, {"WWW-Authenticate": challenge})


class MethodNotAllowed(_Named, code=405):
    """``allow`` lists the allowed methods (Allow; RFC 9110, 10.2.1)."""

    def __init__(self, reason: str = "", *, allow: "Iterable[str]") -> None:
        super().__init__(reason, {"Allow": ", ".join(allow)})


class _Temporary(_Named):
    """The client may retry after ``retry_after`` seconds, rounded up to at least 1."""

    def __init__(self, reason: str = "", retry_after: "float | None" = None) -> None:
        seconds = None if retry_after is None else max(1, int(-(-retry_after // 1)))
        super().__init__(reason, None if seconds is None else {"Retry-After": str(seconds)})


class TooManyRequests(_Temporary, code=429):
    """The client sends too many requests.  It may retry after ``retry_after`` seconds."""


class ServiceUnavailable(_Temporary, code=503):
    """The service is overloaded or under maintenance.  The client may retry after ``retry_after`` seconds."""


def answer_to(error: BaseException) -> "tuple[str, list[tuple[str, str]], bytes]":
    """Return status, header fields and body for an exception: 500 if it is no HTTPError."""
    status, own = INTERNAL_SERVER_ERROR, {}
    if isinstance(error, HTTPError):
        status, own = error.status, error.fields
    return status, [*own.items(), *fields(status, None)], body(status)
