"""status.py and metrics.py: the status as the answer of a CGI script."""

import posix

from limiter.cgi import log, write
from limiter.report.problems import report_problem
from limiter.request.response import header
from limiter.status.answer import answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def run(only_metrics: bool = False) -> "NoReturn":
    """Answer the request in the environment, and end the process."""
    environ = posix.environ
    accept = environ.get(b"HTTP_ACCEPT", b"").decode("latin-1")
    status, fields, message = answer(
        environ, accept, lambda error: report_problem(environ, error, log), only_metrics
    )
    head = header([("Status", status), *fields]) + b"\n"
    write(head if environ.get(b"REQUEST_METHOD") == b"HEAD" else head + message)
    posix._exit(0)
