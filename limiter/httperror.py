"""Exceptions that carry a status of HTTP (RFC 9110, 15): raised anywhere, they are the answer.

What is registered with IANA as an error's status can be answered; the phrases are those of RFC 9110 and its like.
"""

# ruff: noqa: N818 (they are named for what they answer)

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
    """An answer with this status, 400 to 599.  The reason is for the log alone, the client never sees it.

    ``fields`` are further header fields of the answer.  Raises ValueError for a status that is no error's, or a
    field that is not printable ASCII.
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
        """The status as it is answered: ``404 Not Found``."""
        return f"{self.code} {_PHRASES[self.code]}"


class BadRequest(HTTPError):
    """400: the request makes no sense."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(400, reason)


class Unauthorized(HTTPError):
    """401: who asks must say so; ``challenge`` tells how (WWW-Authenticate; RFC 9110, 11.6.1)."""

    def __init__(self, reason: str = "", challenge: str = 'AppId realm="limiter"') -> None:
        super().__init__(401, reason, {"WWW-Authenticate": challenge})


class Forbidden(HTTPError):
    """403: who asks may not."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(403, reason)


class NotFound(HTTPError):
    """404: there is no such thing."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(404, reason)


class MethodNotAllowed(HTTPError):
    """405: ``allow`` are the methods that can be used (Allow; RFC 9110, 10.2.1)."""

    def __init__(self, reason: str = "", *, allow: "Iterable[str]") -> None:
        super().__init__(405, reason, {"Allow": ", ".join(allow)})


class Conflict(HTTPError):
    """409: the state of things does not allow it."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(409, reason)


class TooManyRequests(HTTPError):
    """429: ``retry_after`` so many seconds, rounded up."""

    def __init__(self, reason: str = "", retry_after: "float | None" = None) -> None:
        super().__init__(429, reason, _retry(retry_after))


class InternalServerError(HTTPError):
    """500: as any other exception."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(500, reason)


class BadGateway(HTTPError):
    """502: a server behind this one answers nonsense."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(502, reason)


class ServiceUnavailable(HTTPError):
    """503: ``retry_after`` so many seconds, rounded up."""

    def __init__(self, reason: str = "", retry_after: "float | None" = None) -> None:
        super().__init__(503, reason, _retry(retry_after))


class GatewayTimeout(HTTPError):
    """504: a server behind this one does not answer."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(504, reason)


def answer_to(error: BaseException) -> "tuple[str, list[tuple[str, str]], bytes]":
    """Status, header fields and body for an exception: 500 for any that is no HTTPError."""
    from limiter.response import body, fields  # a program that is well needs nothing of it

    carrier = error if isinstance(error, HTTPError) else InternalServerError()
    return carrier.status, [*carrier.fields.items(), *fields(carrier.status, None)], body(carrier.status)


def _retry(seconds: "float | None") -> "dict[str, str]":
    return {} if seconds is None else {"Retry-After": str(max(1, int(-(-seconds // 1))))}
