"""Exceptions with an HTTP status (RFC 9110, 15).  Raised anywhere, they become the answer.

Every error status that is registered with IANA is allowed.  The phrases come from RFC 9110 and similar
RFCs.
"""

# ruff: noqa: N818 (they are named after their status)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PHRASES = {
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    411: "Length Required",
    412: "Precondition Failed",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    417: "Expectation Failed",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    423: "Locked",
    424: "Failed Dependency",
    425: "Too Early",
    426: "Upgrade Required",
    428: "Precondition Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    451: "Unavailable For Legal Reasons",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
    506: "Variant Also Negotiates",
    507: "Insufficient Storage",
    508: "Loop Detected",
    511: "Network Authentication Required",
}


class HTTPError(Exception):
    """An answer with the status ``code``, 400 to 599.  The reason is logged; the client never sees it.

    ``fields`` are more header fields for the answer.  Raises ValueError if ``code`` is no registered
    error status, or if a field is not printable ASCII.
    """

    def __init__(self, code: int, reason: str = "", fields: "Mapping[str, str] | None" = None) -> None:
        super().__init__(reason)
        if code not in _PHRASES:
            raise ValueError(f"status {code!r:.200}: expected an error's, such as 404")
        self.code = code
        self.fields = dict(fields or {})
        for name, value in self.fields.items():
            if not (name + value).isascii() or not (name + value).isprintable():
                raise ValueError(f"field {name!r:.200}: expected printable ASCII, not {value!r:.200}")

    @property
    def status(self) -> str:
        """The status as it is sent: ``404 Not Found``."""
        return f"{self.code} {_PHRASES[self.code]}"


class BadRequest(HTTPError):
    """400: the request is malformed."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(400, reason)


class Unauthorized(HTTPError):
    """401: the client must say who it is; ``challenge`` says how (WWW-Authenticate; RFC 9110, 11.6.1)."""

    def __init__(self, reason: str = "", challenge: str = 'AppId realm="limiter"') -> None:
        super().__init__(401, reason, {"WWW-Authenticate": challenge})


class Forbidden(HTTPError):
    """403: the client may not do this."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(403, reason)


class NotFound(HTTPError):
    """404: the resource does not exist."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(404, reason)


class MethodNotAllowed(HTTPError):
    """405: ``allow`` lists the allowed methods (Allow; RFC 9110, 10.2.1)."""

    def __init__(self, reason: str = "", *, allow: "Iterable[str]") -> None:
        super().__init__(405, reason, {"Allow": ", ".join(allow)})


class Conflict(HTTPError):
    """409: the current state of the resource does not allow this."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(409, reason)


class TooManyRequests(HTTPError):
    """429: the client may retry after ``retry_after`` seconds, rounded up to at least 1."""

    def __init__(self, reason: str = "", retry_after: "float | None" = None) -> None:
        super().__init__(429, reason, _retry(retry_after))


class InternalServerError(HTTPError):
    """500: the same as for any other exception."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(500, reason)


class BadGateway(HTTPError):
    """502: a server behind this one sent an invalid answer."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(502, reason)


class ServiceUnavailable(HTTPError):
    """503: the client may retry after ``retry_after`` seconds, rounded up to at least 1."""

    def __init__(self, reason: str = "", retry_after: "float | None" = None) -> None:
        super().__init__(503, reason, _retry(retry_after))


class GatewayTimeout(HTTPError):
    """504: a server behind this one did not answer."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(504, reason)


def answer_to(error: BaseException) -> "tuple[str, list[tuple[str, str]], bytes]":
    """Return status, header fields and body for an exception: 500 if it is no HTTPError."""
    from limiter.request.response import body, fields  # loaded only after a failure

    carrier = error if isinstance(error, HTTPError) else InternalServerError()
    return carrier.status, [*carrier.fields.items(), *fields(carrier.status, None)], body(carrier.status)


def _retry(seconds: "float | None") -> "dict[str, str]":
    return {} if seconds is None else {"Retry-After": str(max(1, int(-(-seconds // 1))))}
