"""The CGI door: answers a request, or guards a script of one's own, in two lines::

    from limiter.cgi import guard
    guard()

The client gets a status, JSON and no reason; the reason of a 500 is one line on standard error.
"""

import posix
import sys

from limiter.hit import clock, hit
from limiter.notation import parse
from limiter.request import find_app_id
from limiter.response import (
    INTERNAL_SERVER_ERROR,
    OK,
    TOO_MANY_REQUESTS,
    UNAUTHORIZED,
    answer,
    fields,
)
from limiter.settings import admits_on_error, limits, root
from limiter.store import Store, StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from limiter.hit import Decision

_FORM = b"application/x-www-form-urlencoded"
_FORM_MOST = 65536


def check() -> "NoReturn":
    """Answer the request: 200, 401, 429 or 500.  Ends the process.

    The app_id may be in the query string or in a urlencoded form of up to 64 KiB.
    """
    environ = _environ()
    body = _Body(environ)
    status, decision = _verdict(environ, body)
    _end(environ, body, status, decision)


def guard() -> "Decision | None":
    """Return if the hit is admitted; else answer 401, 429 or 500 and end the process.

    Call it before anything is printed: it writes the fields that tell where the limits stand, and the
    script's own headers follow.  A script that goes on has its request's body as it came; under mod_cgid
    it had better read it, or its answer may be lost (see ``_Body.drain``).  Returns the decision, or None
    if the store failed and LIMITER_ON_ERROR says to admit.
    """
    environ = _environ()
    status, decision = _verdict(environ, None)
    if status is not OK:
        _end(environ, _Body(environ), status, decision)
    if decision is not None:
        _write(fields(decision))
    return decision


class _Body:
    """The body of the request, on standard input, of which no more is read than the server announced."""

    def __init__(self, environ: "Mapping[bytes, bytes]") -> None:
        length = environ.get(b"CONTENT_LENGTH", b"")
        media_type = environ.get(b"CONTENT_TYPE", b"").partition(b";")[0].strip().lower()
        self._left = int(length) if length.isdigit() and len(length) < 19 else 0
        self._is_form = media_type == _FORM and self._left <= _FORM_MOST
        # Its length is then unknown, and the server closes the input behind it.
        self._is_chunked = b"HTTP_TRANSFER_ENCODING" in environ and not self._left

    def form(self) -> bytes:
        """All of it, if it is a form that is not too long and has not been cut off; else nothing."""
        body = b""
        while self._is_form and self._left:
            part = self._read()
            if not part:
                return b""
            body += part
        return body

    def drain(self) -> None:
        """Read what is left.

        Apache's mod_cgid gives a script one socket for its input and output; when it is closed with input
        unread in it, the kernel takes back the answer.
        """
        try:
            while (self._left or self._is_chunked) and self._read():
                pass
        except OSError:
            pass  # nothing can be read, so nothing is in the way

    def _read(self) -> bytes:
        part = posix.read(0, 65536 if self._is_chunked else min(self._left, 65536))
        self._left -= 0 if self._is_chunked else len(part)
        return part


def _verdict(environ: "Mapping[bytes, bytes]", body: "_Body | None") -> "tuple[str, Decision | None]":
    """The status to answer, and the decision if there is one.  Never raises."""
    verdict = INTERNAL_SERVER_ERROR
    try:
        if admits_on_error(environ):
            verdict = OK
        texts = [environ.get(b"QUERY_STRING", b"")]
        if body is not None:
            texts.append(body.form())
        app_id = find_app_id(*texts)
        if app_id is None:
            return UNAUTHORIZED, None
        decision, _ = hit(Store(root(environ)), parse(limits(environ)), app_id, 1, clock)
        return (OK if decision else TOO_MANY_REQUESTS), decision
    except StoreError as error:
        _log(error)
        return verdict, None
    except Exception as error:
        _log(error)
        return INTERNAL_SERVER_ERROR, None


def _environ() -> "Mapping[bytes, bytes]":
    """The environment as it is now: a script that has imported os may have changed it there."""
    os = sys.modules.get("os")
    return os.environb if os else posix.environ


def _end(
    environ: "Mapping[bytes, bytes]", body: _Body, status: str, decision: "Decision | None"
) -> "NoReturn":
    _write(answer(status, decision, environ.get(b"REQUEST_METHOD") == b"HEAD"))
    body.drain()
    # Nothing is left to be flushed or closed, and an orderly end would cost a tenth of the whole.
    posix._exit(0)


def _write(data: bytes) -> None:
    try:
        while data:
            data = data[posix.write(1, data) :]
    except OSError as error:
        _log(error)
        posix._exit(0)


def _log(error: Exception) -> None:
    """One line on standard error, whatever the error's text."""
    line = f"limiter: {type(error).__name__}: {error}"[:2000]
    try:
        posix.write(2, line.encode("unicode_escape") + b"\n")
    except OSError:
        pass  # there is nobody left to tell
