"""The answer to a request for the status: a page, JSON or metrics, as its Accept header asks."""

from limiter.request.response import INTERNAL_SERVER_ERROR, MESSAGE, OK, body
from limiter.status.open_metrics import OPEN_METRICS, TEXT, metrics
from limiter.status.page import REFRESH, as_json, page
from limiter.status.survey import Survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_HTML = "text/html; charset=utf-8"
# Nothing is loaded, and nobody may put the page into a frame.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'"


def answer(
    environ: "Mapping[bytes, bytes]",
    accept: str,
    log: "Callable[[Exception], None]",
    only_metrics: bool = False,
) -> "tuple[str, list[tuple[str, str]], bytes]":
    """The status, the header fields and the body.  Settings are variables of ``environ``.

    A mistake in the settings is a 500, and the log gets it.
    """
    try:
        survey = Survey(environ)
    except ValueError as error:
        log(error)
        return INTERNAL_SERVER_ERROR, _fields(MESSAGE), body(INTERNAL_SERVER_ERROR)
    more: list[tuple[str, str]] = []
    is_open = "application/openmetrics-text" in accept
    if is_open or only_metrics:
        kind, text = (OPEN_METRICS if is_open else TEXT), metrics(survey, is_open)
    elif "application/json" in accept:
        kind, text = MESSAGE, as_json(survey)
    else:
        is_still = environ.get(b"QUERY_STRING") == b"still"
        kind, text = _HTML, page(survey, is_still)
        if not is_still:
            # A header, which browsers have long known: to assistive technology a meta element is a fault.
            more = [("Refresh", str(REFRESH))]
    return OK, [*_fields(kind), *more], text.encode("utf-8", "backslashreplace")


def _fields(kind: str) -> "list[tuple[str, str]]":
    return [
        ("Content-Type", kind),
        ("Cache-Control", "no-store"),
        ("Vary", "Accept"),
        ("Content-Security-Policy", _POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
    ]
