"""The body of a CGI request, on standard input (RFC 3875, 4.2): a form, or what must be read all the same."""

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_FORM = b"application/x-www-form-urlencoded"
_FORM_MOST = 65536


class Body:
    """The request's body, on standard input.  It reads at most the length that the server announced.

    ``text`` is the form after a call of ``form``, and ``fault`` says why it could not be read, if so.
    """

    text = b""
    fault = ""

    def __init__(self, environ: "Mapping[bytes, bytes]") -> None:
        length = environ.get(b"CONTENT_LENGTH", b"")
        media_type = environ.get(b"CONTENT_TYPE", b"").partition(b";")[0].strip().lower()
        self._left = int(length) if length.isdigit() and len(length) < 19 else 0
        self._is_form = media_type == _FORM
        # A chunked body has no known length, and the server closes the input after it.
        self._is_chunked = b"HTTP_TRANSFER_ENCODING" in environ and not self._left

    def form(self) -> bytes:
        """Return the whole body if it is a complete form of at most 64 KiB; else nothing."""
        body = b""
        while self._is_form and (self._left or self._is_chunked):
            if len(body) + self._left > _FORM_MOST:
                self.fault = "it has more than 64 KiB"
                return b""
            part = self._read()
            if not part and not self._is_chunked:
                self.fault = "it ended early"
                return b""
            body += part
            self._is_chunked = bool(part) and self._is_chunked
        self.text = body
        return body

    def drain(self) -> None:
        """Read what is left of the body.

        Apache's mod_cgid gives a script one socket for its input and output.  If that is closed while it
        has unread input, the kernel discards the answer.
        """
        try:
            while (self._left or self._is_chunked) and self._read():
                pass
        except OSError:
            pass  # nothing can be read, so no unread input is left

    def _read(self) -> bytes:
        part = posix.read(0, 65536 if self._is_chunked else min(self._left, 65536))
        self._left -= 0 if self._is_chunked else len(part)
        return part
